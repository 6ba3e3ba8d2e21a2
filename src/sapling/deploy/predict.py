"""Classify image files with an ONNX file or a saved network, with the same pixels as in training.

At import it needs numpy, PIL and onnxruntime; torch only where the model is no ONNX file.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from sapling.bands import Bands
from sapling.data.broken import reason_for
from sapling.data.layout import IMAGE_SUFFIXES, is_image, is_visible
from sapling.data.pixels import prepare_image
from sapling.data.sources import decode_image
from sapling.deploy.onnxfile import open_session
from sapling.errors import DataError, ModelError, UsageError

THRESHOLD = 0.5
"""A label is given from this probability on."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one file.

    Attributes:
        path: the file, as it was given or found.
        classes: names with their probabilities in [0,1], the likeliest first; empty if there was an error. Of a network
            for several labels per image these are all of them, each with the sigmoid of its logit.
        error: why the file could not be read, else None.
        labels: of such a network the labels with a probability of 0.5 or more, else None.
    """

    path: str
    classes: list[tuple[str, float]]
    error: str | None = None
    labels: tuple[str, ...] | None = None


class Classifier(Protocol):
    """Anything that turns prepared pixels into logits."""

    classes: tuple[str, ...]
    img_size: int
    store_size: int
    num_channels: int
    bands: Bands | None
    multi_label: bool

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Images ``[N,C,S,S]`` float32 in [0,1] to logits ``[N,K]``."""


class _TorchClassifier:
    def __init__(self, path: Path | str) -> None:
        from sapling.models.load import load_model
        from sapling.models.tapped import TappedModel

        loaded = load_model(path)
        self.classes = loaded.classes
        self.img_size, self.store_size = loaded.preprocess.img_size, loaded.preprocess.store_size
        self.num_channels, self.bands = loaded.preprocess.num_channels, loaded.preprocess.bands
        self.multi_label = loaded.multi_label
        self._model = TappedModel(loaded.model, loaded.preprocess).eval()

    def logits(self, images: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            result: np.ndarray = self._model(torch.from_numpy(np.ascontiguousarray(images))).logits.numpy()
        return result


def open_classifier(model: str | Path) -> Classifier:
    """Open an ONNX file, or a folder or file of `sapling.models.load_model`.

    Raises:
        ModelError: nothing usable there.
    """
    if str(model).lower().endswith(".onnx"):
        return open_session(model)
    return _TorchClassifier(model)


def predict(model: str | Path, images: Sequence[str | Path], *, top: int = 5, batch_size: int = 32) -> list[Prediction]:
    """Classify image files.

    Args:
        model: an ``.onnx`` file, a run folder, a ``student/`` folder or a ``.safetensors`` file.
        images: files, or folders that are searched for images.
        top: how many classes to give per image; a network for several labels per image gives all.
        batch_size: images per run of the network.

    Returns:
        One prediction per file, in the order given (folders sorted by path). A file that cannot be read has
        its ``error`` set and stops nothing.

    Raises:
        ModelError: the model cannot be used.
        DataError: no image was found.
        UsageError: ``top`` or ``batch_size`` is below 1.
    """
    if top < 1 or batch_size < 1:
        raise UsageError(f"top={top}, batch_size={batch_size}", allowed="both at least 1")
    files = list(_files([images] if isinstance(images, (str, Path)) else images))
    if not files:
        raise DataError(
            "no image was found",
            where=", ".join(map(str, images)) or "nothing was given",
            allowed="files or folders with " + ", ".join(sorted(IMAGE_SUFFIXES)),
        )
    classifier = open_classifier(model)
    check_bands_known(classifier.num_channels, classifier.bands, where=str(model))
    results: list[Prediction] = []
    for start in range(0, len(files), batch_size):
        results += _predict_batch(classifier, files[start : start + batch_size], top)
    return results


def read_image(path: str | Path, *, img_size: int, store_size: int, bands: Bands | None = None) -> np.ndarray:
    """Read one file as the network sees it: ``[C,S,S]`` float32 in [0,1]; the centre of the stored image.

    Raises:
        DataError: the file is missing, broken, or no image.
    """
    try:
        with warnings.catch_warnings():
            # PIL warns of a large image before it refuses a huge one; here both are refused.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # What it says of odd or damaged tags is no news to the user: the file is read, or named with a reason.
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
            with decode_image(Path(path).read_bytes()) as image:
                stored = prepare_image(image, store_size, bands)
    except Exception as error:  # decoders raise what they like on damaged files; one file stops nothing
        raise DataError(reason_for(error), where=str(path)) from error
    offset = (store_size - img_size) // 2
    centre = stored[offset : offset + img_size, offset : offset + img_size]
    return np.ascontiguousarray(centre.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)


def check_bands_known(num_channels: int, bands: Bands | None, *, where: str) -> None:
    """Refuse a network for images of many bands that does not say how their values become its input.

    Raises:
        ModelError: it was not saved by Sapling's own training.
    """
    if bands is None and num_channels != 3:
        raise ModelError(
            f"the network reads {num_channels} channels and does not say which bands they are, nor their range",
            where=where,
            allowed="networks of 3 channels, or with sapling.bands in config.json",
            remedy="train it with sapling, which records both",
        )


def _predict_batch(classifier: Classifier, files: Sequence[Path], top: int) -> list[Prediction]:
    pixels: list[np.ndarray] = []
    errors: list[str | None] = []
    for file in files:
        try:
            size = {"img_size": classifier.img_size, "store_size": classifier.store_size}
            pixels.append(read_image(file, **size, bands=classifier.bands))
            errors.append(None)
        except DataError as error:
            errors.append(error.what)
    activation = _sigmoid if classifier.multi_label else _softmax
    rows = iter(activation(classifier.logits(np.stack(pixels)))) if pixels else iter(())
    results = []
    for file, reason in zip(files, errors, strict=True):
        if reason is not None:
            results.append(Prediction(str(file), [], reason))
            continue
        row = next(rows)
        best = np.argsort(-row, kind="stable")
        given = None
        if classifier.multi_label:
            given = tuple(classifier.classes[i] for i in best if row[i] >= THRESHOLD)
        else:
            best = best[:top]
        results.append(Prediction(str(file), [(classifier.classes[i], float(row[i])) for i in best], labels=given))
    return results


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    _check_finite(logits)
    shares: np.ndarray = 0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))
    return shares


def _check_finite(logits: np.ndarray) -> None:
    if not np.isfinite(logits).all():
        raise ModelError("the model gives logits that are not finite", remedy="train it again, or export it again")


def _softmax(logits: np.ndarray) -> np.ndarray:
    _check_finite(logits)
    powers: np.ndarray = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    shares: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _files(images: Sequence[str | Path]) -> Iterator[Path]:
    for given in images:
        place = Path(given)
        if place.is_dir():
            found = (path for path in place.rglob("*") if is_image(path.name) and path.is_file())
            yield from sorted(path for path in found if is_visible(path.relative_to(place).as_posix()))
        else:
            yield place
