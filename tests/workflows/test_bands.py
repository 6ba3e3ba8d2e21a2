"""A whole run on pictures of 13 bands: what it was trained on is what predict, evaluate and ONNX see."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import sapling
from sapling import cli
from sapling.config import build
from sapling.errors import DataError, ModelError
from sapling.models.create import count_parameters
from sapling.workflows.plan import plan
from tests.data.pictures import class_pictures, write_folder
from tests.data.rasters import multispectral, tiff

RUN = {
    "student": "cnn3",
    "teacher": {"model": "cnn3", "accept_weak": True},
    "train": {"epochs": 1, "batch_size": 8, "num_seeds": 1, "precision": "fp32", "device": "cpu", "threads": 1},
    "deploy": {"parity_images": 4, "latency_seconds": 0},
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return multispectral(tmp_path_factory.mktemp("bands") / "scenes")


@pytest.fixture(scope="module")
def run(scenes, tmp_path_factory):
    return sapling.distill(
        **RUN, data={"source": str(scenes), "img_size": 16}, output=str(tmp_path_factory.mktemp("run"))
    )


def test_predict_on_files_is_evaluate_is_onnx(run, scenes):
    loaded = sapling.load_model(run.folder)
    assert loaded.preprocess.bands.num_bands == 13
    data = sapling.load_data(scenes, img_size=16)
    assert data.store.bands == loaded.preprocess.bands
    model = sapling.TappedModel(loaded.model, loaded.preprocess).eval()
    (batch,) = data.eval_batches("test", batch_size=64)
    with torch.no_grad():
        expected = torch.softmax(model(batch.images).logits, 1).numpy()
    assert expected.std(axis=0).max() > 1e-3, "answers that do not vary would prove nothing"
    files = [scenes / data.source.items[i].key for i in batch.indices.tolist()]
    for form in (run.folder, run.folder / "student" / "model.onnx"):
        for row, prediction in zip(expected, sapling.predict(form, files, top=3), strict=True):
            told = dict(prediction.classes)
            assert [told[c] for c in loaded.classes] == pytest.approx(row.tolist(), abs=1e-4)
    measured = sapling.evaluate(run.folder, scenes, device="cpu")
    assert measured["top1"] == pytest.approx((expected.argmax(1) == batch.labels.numpy()).mean())
    assert not any("not the images of its run" in warning for warning in measured["warnings"])


def test_the_run_records_bands_and_statistics(run):
    card = json.loads((run.folder / "data.json").read_text())["bands"]
    config = json.loads((run.folder / "student" / "config.json").read_text())
    assert config["sapling"]["bands"] == {key: card[key] for key in ("num_bands", "chosen", "low", "high")}
    assert config["pretrained_cfg"]["mean"] == card["mean"]
    assert config["pretrained_cfg"]["std"] == card["std"]
    assert config["pretrained_cfg"]["input_size"] == [13, 16, 16]
    assert "13 bands" in run.results["manifest"]["bands"]
    readme = (run.folder / "student" / "README.md").read_text()
    assert "13 bands" in readme
    assert "RGB" not in readme


def test_new_scenes_are_scaled_as_those_of_the_training(run, tmp_path):
    """Brighter scenes must look brighter to the network, and not be stretched by a range of their own."""
    folder = multispectral(tmp_path / "scenes", each=3)
    for path in folder.rglob("*.tif"):
        path.write_bytes(tiff(np.full((16, 16, 13), 60000, np.uint16)))
    measured = sapling.evaluate(run.folder, folder, split="all", device="cpu")
    assert np.count_nonzero(np.sum(measured["confusion"], axis=0)) == 1, "all are white, so all get one answer"
    bands = sapling.load_model(run.folder).preprocess.bands
    assert (sapling.load_data(folder, img_size=16, pixels=bands).store.images == 255).all()


def test_a_given_teacher_decides_how_pictures_are_read(run, scenes, tmp_path):
    given = {
        **RUN,
        "teacher": {"model": str(run.folder / "teacher"), "accept_weak": True},
        "deploy": {"onnx": False, "latency_seconds": 0},
    }
    # images of another split have other bands; the teacher knows some of its test images, which is no matter here
    source = {"source": str(scenes), "img_size": 16, "split_seed": 5, "allow_leaks": True}
    again = sapling.distill(**given, data=source, output=str(tmp_path / "again"))
    bands = sapling.load_model(again.folder).preprocess.bands
    assert bands == sapling.load_model(run.folder).preprocess.bands
    assert bands != sapling.load_data(scenes, img_size=16, split_seed=5).store.bands
    with pytest.raises(ModelError, match=r"the teacher reads all 13 bands.*data gives bands 4, 3, 2"):
        sapling.distill(**given, data={**source, "bands": "rgb"}, output=str(tmp_path / "other"))


def test_evaluate_refuses_photographs_by_name(run, tmp_path):
    photos = write_folder(tmp_path / "photos", class_pictures(("field", "water"), 2))
    with pytest.raises(DataError, match=r"field_0.png: it has 3 bands, and 13 bands are expected"):
        sapling.evaluate(run.folder, photos, split="all", device="cpu")


def test_export_reads_the_pictures_as_the_network_does(run, scenes, tmp_path):
    copy = shutil.copytree(run.folder, tmp_path / "copy")
    assert sapling.export(copy)["max_abs_logit_difference"] < 1e-4


def test_the_command_line_chooses_bands_and_range(scenes, tmp_path, capsys):
    output = tmp_path / "run"
    flags = ["--bands", "4,3,2", "--value-range", "0,5000", "--epochs", "1", "--img-size", "16", "--device", "cpu"]
    assert cli.main(["train", str(scenes), "--model", "cnn3", *flags, "-q", "-o", str(output)]) == 0
    bands = sapling.load_model(output).preprocess.bands
    assert (bands.chosen, bands.low, bands.high) == ((4, 3, 2), (0.0,) * 3, (5000.0,) * 3)
    assert cli.main(["train", str(scenes), "--bands", "4;3", "-o", str(output / "x")]) == 2
    assert "such as 4,3,2" in capsys.readouterr().err
    assert cli.main(["train", str(scenes), "--model", "cnn3", "--bands", "1,14", "-o", str(tmp_path / "no")]) == 2
    assert "no band 14" in capsys.readouterr().err


def test_a_plan_counts_the_bands(scenes):
    found = plan(build({**RUN, "data": {"source": str(scenes), "img_size": 16}}))
    student = sapling.create_model("cnn3", num_classes=3, in_chans=13, img_size=16)
    assert found["student"]["parameters"] == found["teacher"]["parameters"] == count_parameters(student)


def test_a_teacher_of_some_bands_teaches_a_student_of_all(scenes, tmp_path):
    source = {"source": str(scenes), "img_size": 16, "value_range": "0,5000"}
    rgb = sapling.train(
        data={**source, "bands": "rgb"},
        student="cnn3",
        train=RUN["train"],
        deploy={"onnx": False, "latency_seconds": 0},
        output=str(tmp_path / "rgb"),
    )
    call = {
        **RUN,
        "teacher": {"model": str(rgb.folder), "accept_weak": True},
        "deploy": {"onnx": False, "latency_seconds": 0},
    }
    every = ",".join(map(str, range(1, 14)))
    both = sapling.distill(**call, data={**source, "bands": every}, output=str(tmp_path / "both"))
    networks = [sapling.load_model(both.folder / part).preprocess for part in ("teacher", "student")]
    assert [network.bands.chosen for network in networks] == [(4, 3, 2), tuple(range(1, 14))]
    assert both.results["teacher"]["test"]["confusion"] == rgb.results["members"][0]["test"]["confusion"]
