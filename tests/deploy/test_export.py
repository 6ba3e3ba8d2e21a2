from __future__ import annotations

import json
import logging
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from sapling.deploy import export as export_module
from sapling.deploy.export import check_parity, export_onnx, measure_onnx
from sapling.deploy.onnxfile import open_session
from sapling.errors import ExportError, ModelError
from sapling.models import LoadedModel, TappedModel, load_model
from tests.deploy.conftest import NETWORKS
from tests.models.shaken import CLASSES, loaded, pictures, preprocess


@pytest.mark.parametrize("name", NETWORKS)
def test_parity_on_real_images(artefacts, photographs, name):
    from sapling.deploy.predict import read_image

    what, folder = artefacts(name)
    images = np.stack([read_image(path, img_size=64, store_size=74) for path in photographs])
    report = check_parity(what, folder / "model.onnx", images)
    assert report["images"] == len(photographs)
    assert report["max_abs_logit_difference"] < 1e-4
    assert report["agree"] == 1.0


def test_the_normalisation_is_inside(artefacts):
    what, folder = artefacts("cnn3")
    images = pictures(5)
    planes = [(images[:, i] - what.preprocess.mean[i]) / what.preprocess.std[i] for i in range(3)]
    with torch.no_grad():
        expected = what.model(torch.stack(planes, dim=1)).numpy()
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    assert np.abs(logits - expected).max() < 1e-4


def test_the_file_describes_itself(artefacts):
    what, folder = artefacts("cnn3")
    assert sorted(path.name for path in folder.iterdir()) == [
        "classes.txt",
        "config.json",
        "model.onnx",
        "model.safetensors",
    ], "one file, no external data, no leftovers"
    proto = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    about = json.loads({entry.key: entry.value for entry in proto.metadata_props}["sapling"])
    assert about["classes"] == list(CLASSES)
    assert (about["img_size"], about["store_size"]) == (64, 74)
    assert about["mean"] == list(what.preprocess.mean)
    (entry,) = proto.graph.input
    dims = entry.type.tensor_type.shape.dim
    assert dims[0].dim_param, "any batch size"
    assert [d.dim_value for d in dims[1:]] == [3, 64, 64]


def test_batches_of_any_size(artefacts):
    _, folder = artefacts("vit_tiny_patch16_224")
    session = open_session(folder / "model.onnx")
    images = pictures(9).numpy()
    whole = session.logits(images)
    for size in (1, 2, 4):
        assert np.abs(session.logits(images[:size]) - whole[:size]).max() < 1e-4


def test_exporting_is_silent_and_leaves_the_network_as_it_was(tmp_path, capfd, caplog):
    what = loaded("cnn3")
    what.model.train().to(memory_format=torch.channels_last)
    before = {key: value.clone() for key, value in what.model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_onnx(what, tmp_path / "deep" / "model.onnx")
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert what.model.training
    assert what.model.blocks[1].conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(before[key], value) for key, value in what.model.state_dict().items())
    assert logging.root.manager.disable == logging.NOTSET
    what.model.eval()
    assert check_parity(what, tmp_path / "deep" / "model.onnx", pictures())["agree"] == 1.0


def test_thirteen_bands(tmp_path):
    what = loaded("cnn3", img_size=16, store_size=16, channels=13)
    export_onnx(what, tmp_path / "m.onnx")
    report = check_parity(what, tmp_path / "m.onnx", pictures(3, channels=13, side=16))
    assert report["max_abs_logit_difference"] < 1e-4


def test_parity_finds_another_normalisation(artefacts):
    what, folder = artefacts("cnn3")
    other = preprocess()
    wrong = type(other)(64, 74, (0.5, 0.5, 0.5), other.std)
    twisted = LoadedModel(what.model, what.architecture, what.classes, wrong)
    with pytest.raises(ExportError, match="differs from the network"):
        check_parity(twisted, folder / "model.onnx", pictures())


def test_parity_finds_one_changed_weight_and_values_that_are_no_numbers(artefacts, tmp_path):
    what, folder = artefacts("cnn3")
    proto = onnx.load(folder / "model.onnx")
    (bias,) = [entry for entry in proto.graph.initializer if entry.name.endswith("fc.bias")]
    original = numpy_helper.to_array(bias)
    for change in (0.02, np.nan):
        values = original.copy()
        values[2] += change
        bias.CopyFrom(numpy_helper.from_array(values, bias.name))
        onnx.save(proto, tmp_path / "changed.onnx")
        with pytest.raises(ExportError, match="differs from the network"):
            check_parity(what, tmp_path / "changed.onnx", pictures())


def test_parity_finds_a_file_that_is_wrong_for_single_images_only(artefacts, monkeypatch):
    what, folder = artefacts("cnn3")
    real = export_module.open_session

    def fixed(path):
        session = real(path)
        plain = session.logits
        session.logits = lambda images: plain(images) + (1.0 if len(images) == 1 else 0.0)
        return session

    monkeypatch.setattr(export_module, "open_session", fixed)
    with pytest.raises(ExportError, match="differs"):
        check_parity(what, folder / "model.onnx", pictures())


def test_parity_without_images_is_refused(artefacts):
    what, folder = artefacts("cnn3")
    with pytest.raises(ExportError, match="parity needs images"):
        check_parity(what, folder / "model.onnx", torch.zeros(0, 3, 64, 64))


class NoOnnx(nn.Module):
    """A classifier with an operation that ONNX has no word for."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 7)
        self.num_classes = 7

    def get_classifier(self):
        return self.fc

    def forward(self, x):
        pooled = x.mean((2, 3))
        return self.fc(pooled) if pooled.sum() > 0 else self.fc(-pooled)


def test_a_network_that_cannot_be_exported_says_so_and_leaves_no_file(tmp_path, capfd):
    what = LoadedModel(NoOnnx(), "no_onnx", CLASSES, preprocess())
    with pytest.raises(ExportError, match="no_onnx cannot be exported"):
        export_onnx(what, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().out == ""


def test_measuring(artefacts):
    _, folder = artefacts("cnn3")
    report = measure_onnx(folder / "model.onnx", pictures(3), threads=1, seconds=0.05)
    assert report["bytes"] == (folder / "model.onnx").stat().st_size
    assert report["threads"] == 1
    assert report["latency_ms"].keys() == {"1", "32"}
    for quantiles in report["latency_ms"].values():
        assert 0 < quantiles["p50"] <= quantiles["p95"]
    assert report["latency_ms"]["32"]["p50"] > 3 * report["latency_ms"]["1"]["p50"]
    json.dumps(report)
    assert measure_onnx(folder / "model.onnx", pictures(1), seconds=0.01, batch_sizes=(1,))["threads"] >= 1


def test_files_that_are_no_exports_are_refused(artefacts, tmp_path):
    with pytest.raises(ModelError, match="no file"):
        open_session(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ModelError, match="damaged"):
        open_session(tmp_path / "text.onnx")
    _, folder = artefacts("cnn3")
    blob = (folder / "model.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(blob[: len(blob) // 2])
    with pytest.raises(ModelError):
        open_session(tmp_path / "cut.onnx")
    proto = onnx.load(folder / "model.onnx")
    about = json.loads(proto.metadata_props[0].value)
    proto.metadata_props[0].value = json.dumps({**about, "classes": ["a", "b"]})
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="own description"):
        open_session(tmp_path / "other.onnx")
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "foreign.onnx")
    with pytest.raises(ModelError, match="not exported by Sapling"):
        open_session(tmp_path / "foreign.onnx")


def test_the_saved_folder_and_the_file_agree(artefacts):
    what, folder = artefacts("resnet18")
    images = pictures(2)
    with torch.no_grad():
        tapped = TappedModel(what.model, what.preprocess)(images).logits
    assert check_parity(load_model(folder), folder / "model.onnx", images)["max_abs_logit_difference"] < 1e-4
    assert np.abs(open_session(folder / "model.onnx").logits(images.numpy()) - tapped.numpy()).max() < 1e-4
