"""Networks for many bands: every way from a file to logits agrees, and what was settled travels with the network."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import timm
import torch

from sapling.bands import Bands
from sapling.data.pixels import prepare_image
from sapling.data.sources import decode_image
from sapling.data.views import centre_view
from sapling.deploy.export import export_onnx
from sapling.deploy.predict import open_classifier, predict, read_image
from sapling.errors import ModelError
from sapling.models import LoadedModel, Preprocess, TappedModel, load_model, save_model
from sapling.models.load import read_preprocess
from tests.data.pictures import encoded, picture
from tests.data.rasters import tiff, values
from tests.models.shaken import loaded

BANDS = Bands(13, tuple(range(13, 0, -1)), (0.0,) * 13, tuple(2500.0 + 100 * k for k in range(13)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A network for 13 bands, last band first, as folder and ONNX file; and files that it can read."""
    base = loaded("cnn3", img_size=16, store_size=19, channels=13)
    size = base.preprocess
    what = LoadedModel(base.model, base.architecture, base.classes, Preprocess(16, 19, size.mean, size.std, BANDS))
    folder = tmp_path_factory.mktemp("bands") / "student"
    save_model(folder, what.model, architecture=what.architecture, classes=what.classes, preprocess=what.preprocess)
    export_onnx(what, folder / "model.onnx")
    files = []
    for number in range(6):
        files.append(folder.parent / f"{number}.tif")
        files[-1].write_bytes(tiff(values(13, 24, seed=number)))
    return what, folder, files


def test_every_way_gives_the_same_logits(saved):
    what, folder, files = saved
    stored = np.stack([prepare_image(decode_image(path.read_bytes()), 19, BANDS) for path in files])
    pixels = centre_view(torch.from_numpy(stored), 16).float() / 255
    tapped = TappedModel(what.model, what.preprocess).eval()
    with torch.no_grad():
        expected = tapped(pixels).logits
        by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(tapped.normalise(pixels))
    assert expected.std(dim=0).min() > 0.05, "logits that hardly vary would prove nothing"
    assert load_model(folder).preprocess == what.preprocess == read_preprocess(folder)
    ways = {"timm": by_timm.numpy()}
    read = np.stack([read_image(path, img_size=16, store_size=19, bands=BANDS) for path in files])
    assert np.array_equal(read, pixels.numpy())
    for path in (folder, folder / "model.onnx"):
        classifier = open_classifier(path)
        assert (classifier.bands, classifier.num_channels) == (BANDS, 13)
        ways[path.name] = classifier.logits(read)
        shares = torch.softmax(expected, dim=1).numpy()
        for row, prediction in zip(shares, predict(path, files, top=7), strict=True):
            told = dict(prediction.classes)
            assert [told[name] for name in what.classes] == pytest.approx(row.tolist(), abs=1e-4)
    for label, logits in ways.items():
        assert np.abs(logits - expected.numpy()).max() < 1e-4, label


def test_a_photograph_is_refused_by_name_and_stops_nothing(saved):
    _, folder, files = saved
    photo = folder.parent / "photo.jpg"
    photo.write_bytes(encoded(picture(0, 30, 30), "JPEG"))
    cut = folder.parent / "cut.tif"
    cut.write_bytes(files[0].read_bytes()[:-500])
    for path in (folder, folder / "model.onnx"):
        first, second, third = predict(path, [photo, files[0], cut])
        assert first.error == "it has 3 bands, and 13 bands are expected"
        assert second.error is None
        assert third.error == "the file is cut off"


def test_a_network_for_photographs_refuses_many_bands_by_name(saved, artefacts):
    (only,) = predict(artefacts("cnn3")[1] / "model.onnx", saved[2][:1])
    assert only.error == "it has 13 bands of uint16, and an ordinary picture is expected"


def test_a_network_that_does_not_say_its_bands_is_not_guessed_at(tmp_path, saved):
    what = loaded("cnn3", img_size=16, store_size=16, channels=13)
    save_model(tmp_path, what.model, architecture=what.architecture, classes=what.classes, preprocess=what.preprocess)
    with pytest.raises(ModelError, match="reads 13 channels and does not say which bands"):
        predict(tmp_path, saved[2][:1])


@pytest.mark.parametrize("content", [{"chosen": [1]}, 5, {**BANDS.as_dict(), "low": [0]}, None])
def test_a_damaged_record_is_an_error(saved, tmp_path, content):
    _, folder, _ = saved
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["sapling"]["bands"] = content
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = onnx.load(tmp_path / "model.onnx")
    (entry,) = [entry for entry in model.metadata_props if entry.key == "sapling"]
    entry.value = json.dumps({**json.loads(entry.value), "bands": content})
    onnx.save(model, tmp_path / "model.onnx")
    for path in (tmp_path, tmp_path / "model.onnx"):
        with pytest.raises(ModelError):
            predict(path, saved[2][:1])


def test_bands_and_means_must_be_as_many():
    with pytest.raises(ModelError, match="13 bands and 3 means"):
        Preprocess(16, 19, (0.5,) * 3, (0.5,) * 3, BANDS)
