"""Run an ONNX file that Sapling exported. Needs numpy and onnxruntime, no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from sapling.bands import bands_from
from sapling.errors import ConfigError, ModelError

INPUT, OUTPUT, METADATA_KEY = "images", "logits", "sapling"


class OnnxSession:
    """An open ONNX file.

    Attributes:
        classes: names in the order of the logits.
        img_size: side in pixels of the images that it reads.
        store_size: side to which images are resized and cropped before.
        num_channels: C.
        bands: which bands of an image are read, and how; None for RGB of ordinary pictures.
        multi_label: whether each logit answers for itself (sigmoid).
    """

    def __init__(self, session: Any, about: dict[str, Any]) -> None:
        self._session = session
        self.classes = tuple(str(name) for name in about["classes"])
        self.img_size, self.store_size = int(about["img_size"]), int(about["store_size"])
        self.num_channels = len(about["mean"])
        self.multi_label = about.get("multi_label") is True
        self.bands = bands_from(about["bands"]) if about.get("bands") is not None else None

    @property
    def channels_fit(self) -> bool:
        """Whether the graph reads as many channels as the description says."""
        given = self._session.get_inputs()
        read = given[0].shape[1] if given and given[0].name == INPUT and len(given[0].shape) == 4 else None
        return bool(read == self.num_channels and (self.bands is None or self.bands.num_channels == read))

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Images ``[N,C,S,S]`` float32 in [0,1] to logits ``[N,K]``."""
        result: np.ndarray = self._session.run([OUTPUT], {INPUT: np.ascontiguousarray(images, dtype=np.float32)})[0]
        return result


def open_session(path: str | Path, *, threads: int | None = None) -> OnnxSession:
    """Open an ONNX file of `export_onnx`.

    Args:
        path: the file.
        threads: for one run; None leaves it to onnxruntime (all cores).

    Raises:
        ModelError: missing, damaged, or not written by Sapling (class names and sizes are not in it).
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"there is no file {str(path)!r}", remedy="sapling export RUN")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    # onnxruntime raises its own classes, which it builds in C++; none of them is of use to the user.
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(
            f"{path.name} is no ONNX file, or it is damaged",
            where=str(path),
            remedy="export it again: sapling export RUN",
        ) from error
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    try:
        about = json.loads(text or "")
        opened = OnnxSession(session, about)
    except (AttributeError, ConfigError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path.name} does not say its classes and sizes: it was not exported by Sapling",
            where=str(path),
            remedy="sapling export RUN",
        ) from error
    outputs = session.get_outputs()
    num_logits = outputs[0].shape[-1] if outputs and outputs[0].name == OUTPUT else None
    if not opened.channels_fit or num_logits != len(opened.classes) or not 1 <= opened.img_size <= opened.store_size:
        raise ModelError(f"{path.name} does not fit its own description", where=str(path))
    return opened
