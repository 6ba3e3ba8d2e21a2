from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sapling.deploy import predict as predict_module
from sapling.deploy.predict import predict
from sapling.errors import DataError, ModelError, UsageError
from tests.models.shaken import CLASSES, pictures


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """Pictures of several sizes and modes, among them files that are none."""
    folder = tmp_path_factory.mktemp("album")
    for number, picture in enumerate(pictures(4, side=90)):
        array = (picture.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        Image.fromarray(array).save(folder / f"{number}.png")
    array = np.arange(80 * 100, dtype=np.uint32).reshape(80, 100) % 256
    Image.fromarray(array.astype(np.uint8)).save(folder / "grey.jpg")
    sub = folder / "деревья"
    sub.mkdir()
    Image.new("RGBA", (30, 200), (10, 200, 30, 128)).save(sub / "水杉.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    whole = (folder / "0.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("not looked at")
    (folder / ".hidden.png").write_bytes(whole)
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "0.png").write_bytes(whole)
    return folder


def test_a_folder_with_broken_files_is_predicted_to_the_end(artefacts, album):
    _, folder = artefacts("cnn3")
    results = predict(folder / "model.onnx", [album], top=2, batch_size=5)
    names = [result.path.rsplit("/", 1)[1] for result in results]
    assert names == ["0.png", "1.png", "2.png", "3.png", "broken.jpg", "cut.png", "grey.jpg", "水杉.png"]
    for name, result in zip(names, results, strict=True):
        if name in ("broken.jpg", "cut.png"):
            assert result.error
            assert result.classes == []
            continue
        assert result.error is None
        assert len(result.classes) == 2
        assert result.classes[0][1] >= result.classes[1][1] > 0
        assert {label for label, _ in result.classes} <= set(CLASSES)
        (alone,) = predict(folder / "model.onnx", [result.path], top=2)
        assert [label for label, _ in alone.classes] == [label for label, _ in result.classes]
        assert alone.classes[0][1] == pytest.approx(result.classes[0][1], abs=1e-5)


def test_a_missing_file_stops_nothing(artefacts, album):
    _, folder = artefacts("cnn3")
    first, second, third = predict(folder / "model.onnx", [album / "0.png", album / "none.png", album / "notes.txt"])
    assert first.error is None
    assert len(first.classes) == 5
    assert "none.png" in second.error
    assert "not an image" in third.error


def test_only_broken_files(artefacts, album):
    _, folder = artefacts("cnn3")
    (result,) = predict(folder / "model.onnx", [album / "broken.jpg"])
    assert result.error


def test_probabilities_sum_to_one_and_follow_numpys_reference(artefacts, album):
    _, folder = artefacts("cnn3")
    (result,) = predict(folder / "model.onnx", [album / "1.png"], top=99)
    assert len(result.classes) == 7
    assert sum(p for _, p in result.classes) == pytest.approx(1.0)
    pixels = predict_module.read_image(album / "1.png", img_size=64, store_size=74)
    logits = predict_module.open_classifier(folder / "model.onnx").logits(pixels[None])[0]
    by_hand = {name: np.exp(v) / sum(np.exp(w) for w in logits) for name, v in zip(CLASSES, logits, strict=True)}
    for name, share in result.classes:
        assert share == pytest.approx(by_hand[name], rel=1e-5)


def test_the_centre_of_the_stored_image_is_read(tmp_path):
    columns = np.arange(74, dtype=np.uint8)
    array = np.stack([np.tile(columns, (74, 1)), np.tile(columns[:, None], (1, 74)), np.full((74, 74), 9, np.uint8)])
    Image.fromarray(array.transpose(1, 2, 0)).save(tmp_path / "ramp.png")
    pixels = predict_module.read_image(tmp_path / "ramp.png", img_size=64, store_size=74)
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels * 255, array[:, 5:69, 5:69].astype(np.float32))


def test_one_path_instead_of_a_list(artefacts, album):
    _, folder = artefacts("cnn3")
    assert len(predict(folder / "model.onnx", str(album / "0.png"))) == 1


def test_a_decompression_bomb_is_refused(artefacts, album, monkeypatch):
    _, folder = artefacts("cnn3")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    (result,) = predict(folder / "model.onnx", [album / "0.png"])
    assert "far too many pixels" in result.error


def test_nothing_to_predict(artefacts, tmp_path):
    _, folder = artefacts("cnn3")
    with pytest.raises(DataError, match="no image was found"):
        predict(folder / "model.onnx", [tmp_path])
    with pytest.raises(DataError, match="nothing was given"):
        predict(folder / "model.onnx", [])


def test_wrong_calls(artefacts, album):
    _, folder = artefacts("cnn3")
    with pytest.raises(UsageError):
        predict(folder / "model.onnx", [album], top=0)
    with pytest.raises(ModelError, match="no file or folder"):
        predict(album / "none", [album])
    with pytest.raises(ModelError, match="pickled"):
        (album.parent / "m.pth").write_bytes(b"x")
        predict(album.parent / "m.pth", [album])


def test_a_model_that_answers_nan_is_an_error(artefacts, album, monkeypatch):
    what, _ = artefacts("cnn3")

    class Broken:
        classes, img_size, store_size = what.classes, 64, 74
        num_channels, bands, multi_label = 3, None, False

        def logits(self, images):
            return np.full((len(images), 7), np.nan, dtype=np.float32)

    monkeypatch.setattr(predict_module, "open_classifier", lambda _: Broken())
    with pytest.raises(ModelError, match="not finite"):
        predict("x.onnx", [album / "0.png"])


def test_onnx_needs_no_torch(artefacts, album):
    _, folder = artefacts("cnn3")
    code = (
        "import sys; from sapling.deploy.predict import predict; "
        f"r = predict({str(folder / 'model.onnx')!r}, [{str(album / '0.png')!r}]); "
        "print(r[0].classes[0][0].encode().hex(), 'torch' in sys.modules, 'timm' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    name, torch_loaded, timm_loaded = run.stdout.split()
    assert (torch_loaded, timm_loaded) == ("False", "False")
    assert torch.__name__ == "torch"
    assert bytes.fromhex(name).decode() in CLASSES
