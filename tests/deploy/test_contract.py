"""One truth about pixels and weights: every way to a model gives the same logits for the same file."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from sapling.data.pixels import prepare_image
from sapling.data.views import centre_view
from sapling.deploy.export import export_onnx
from sapling.deploy.predict import open_classifier, predict, read_image
from sapling.models import TappedModel, load_model, save_model
from tests.deploy.conftest import NETWORKS
from tests.models.shaken import loaded as make
from tests.models.shaken import pictures


@pytest.mark.parametrize("name", NETWORKS)
def test_every_way_gives_the_same_logits(artefacts, photographs, name):
    _, folder = artefacts(name)
    loaded = load_model(folder)
    size, store_size = loaded.preprocess.img_size, loaded.preprocess.store_size

    # The way of training and evaluation: the packed store, the centre view, the tapped network.
    stored = np.stack([prepare_image(Image.open(path), store_size) for path in photographs])
    pixels = centre_view(torch.from_numpy(stored), size).float() / 255
    tapped = TappedModel(loaded.model, loaded.preprocess)
    with torch.no_grad():
        expected = tapped(pixels).logits
        by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(tapped.normalise(pixels))
    assert expected.std(dim=0).min() > 0.1, "logits that hardly vary would prove nothing"

    # The way of prediction: from the files.
    read = np.stack([read_image(path, img_size=size, store_size=store_size) for path in photographs])
    assert np.array_equal(read, pixels.numpy())
    ways = {"timm": by_timm.numpy()}
    for label, path in (("onnx", folder / "model.onnx"), ("folder", folder), ("file", folder / "model.safetensors")):
        ways[label] = open_classifier(path).logits(read)
    for label, logits in ways.items():
        assert np.abs(logits - expected.numpy()).max() < 1e-4, label

    # And the public function answers the same for all of them, whatever the batch size.
    shares = torch.softmax(expected, dim=1).numpy()
    for path in (folder / "model.onnx", folder.parent):
        for row, prediction in zip(shares, predict(path, photographs, top=3, batch_size=5), strict=True):
            best = np.argsort(-row)[:3]
            assert [label for label, _ in prediction.classes] == [loaded.classes[i] for i in best]
            assert np.allclose([p for _, p in prediction.classes], row[best], atol=1e-4)


BANDS = [("cnn3", 13, 64), ("resnet8x4", 3, 32), ("torchvision:shufflenet_v2_x0_5", 4, 64)]


@pytest.mark.parametrize(("name", "channels", "side"), BANDS)
def test_bands_and_our_own_networks_too(tmp_path, name, channels, side):
    """At the level of the network: folder, file, timm and ONNX give the same logits for the same pixels."""
    what = make(name, img_size=side, store_size=side, channels=channels)
    save_model(tmp_path, what.model, architecture=what.architecture, classes=what.classes, preprocess=what.preprocess)
    export_onnx(what, tmp_path / "model.onnx")
    pixels = pictures(5, channels=channels, side=side)
    tapped = TappedModel(what.model, what.preprocess)
    with torch.no_grad():
        expected = tapped(pixels).logits.numpy()
        by_timm = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(tapped.normalise(pixels)).numpy()
    assert expected.std(axis=0).min() > 0.1, "logits that hardly vary would prove nothing"
    ways = {"timm": by_timm}
    for label in ("model.onnx", "model.safetensors", "."):
        ways[label] = open_classifier(tmp_path / label).logits(pixels.numpy())
    for label, logits in ways.items():
        assert np.abs(logits - expected).max() < 1e-4, label
