"""Export to one ONNX file with everything inside, prove that it answers as the network does, and time it."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from sapling.deploy.card import write_model_card
from sapling.deploy.onnxfile import INPUT, METADATA_KEY, OUTPUT, open_session
from sapling.errors import ExportError
from sapling.evaluation.efficiency import num_cores, time_calls
from sapling.models.load import LoadedModel
from sapling.models.tapped import TappedModel

__all__ = ["check_parity", "export_onnx", "measure_onnx", "write_model_card"]

OPSET = 18


class _PixelsToLogits(nn.Module):
    """Images in [0,1] to logits: what is exported."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__()
        self.tapped = TappedModel(loaded.model, loaded.preprocess)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.tapped(images).logits
        return logits


def export_onnx(loaded: LoadedModel, path: str | Path) -> None:
    """Write ``loaded`` as one ONNX file, float32, any batch size.

    Input ``images [N,C,S,S]`` in [0,1] (the normalisation is inside), output ``logits [N,K]``. Class names and
    preprocessing stand as JSON in the file's metadata under ``sapling``. The file appears whole or not at all.

    Raises:
        ExportError: the network uses something that ONNX cannot express.
    """
    path = Path(path)
    network = _on_cpu(loaded)
    size, channels = loaded.preprocess.img_size, len(loaded.preprocess.mean)
    # Two images: an example of one would fix the batch size to one.
    example = torch.zeros(2, channels, size, size)
    try:
        with _silence():
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds; the user needs one
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(
            f"{loaded.architecture} cannot be exported to ONNX: {reason}",
            remedy="another network, or serve the folder with torch",
        ) from error
    assert program is not None
    proto = program.model_proto
    preprocess = loaded.preprocess
    about = {
        "format": 1,
        "architecture": loaded.architecture,
        "classes": list(loaded.classes),
        "img_size": preprocess.img_size,
        "store_size": preprocess.store_size,
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "input": "RGB in [0,1], [N,C,S,S]; normalisation is inside the graph",
    }
    if preprocess.bands is not None:
        about["bands"] = preprocess.bands.as_dict()
        about["input"] = (
            "channel c is band chosen[c] of the image, low[c] is 0 and high[c] is 1, clipped, [N,C,S,S]; "
            "normalisation is inside the graph"
        )
    if loaded.multi_label:
        about |= {"multi_label": True, "activation": "sigmoid", "threshold": 0.5}
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(about, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        onnx.save_model(proto, str(temporary))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_parity(loaded: LoadedModel, path: str | Path, images: np.ndarray | Tensor) -> dict[str, Any]:
    """Compare the ONNX file with the network on ``images [N,C,S,S]`` in [0,1], in batches of 1 and of N.

    Allowed is a difference of 1e-4, or a thousandth of the spread of an image's logits where that is more.

    Returns:
        ``images`` (N), ``max_abs_logit_difference``, ``agree`` (share of images with the same first answer, or with
        the same set of labels where there may be several).

    Raises:
        ExportError: the file answers otherwise, or gives values that are not finite.
    """
    batch = torch.as_tensor(images, dtype=torch.float32).cpu().contiguous()
    if batch.dim() != 4 or not len(batch):
        raise ExportError(f"parity needs images [N,C,S,S], not {list(batch.shape)}")
    with torch.no_grad():
        expected = _on_cpu(loaded)(batch).numpy()
    session = open_session(path)
    whole = session.logits(batch.numpy())
    single = np.concatenate([session.logits(image[None]) for image in batch.numpy()])
    if whole.shape != expected.shape or single.shape != expected.shape:
        raise ExportError(f"the file gives {list(whole.shape)}, the network {list(expected.shape)}", where=str(path))
    difference = float(max(np.abs(whole - expected).max(), np.abs(single - expected).max()))
    allowed = max(1e-4, 1e-3 * float((expected - expected.mean(axis=1, keepdims=True)).std()))
    if not difference <= allowed:  # also when it is not a number
        raise ExportError(
            f"the exported file differs from the network by {difference:.2g} in a logit",
            where=str(path),
            allowed=f"{allowed:.2g}",
            remedy="report it with the network's name; serve the folder with torch until then",
        )
    if loaded.multi_label:
        agree = (((whole >= 0) == (expected >= 0)) & ((single >= 0) == (expected >= 0))).all(1)
    else:
        agree = (whole.argmax(1) == expected.argmax(1)) & (single.argmax(1) == expected.argmax(1))
    return {
        "images": len(batch),
        "max_abs_logit_difference": difference,
        "agree": float(agree.mean()),
    }


def measure_onnx(
    path: str | Path,
    images: np.ndarray | Tensor,
    *,
    threads: int | None = None,
    batch_sizes: tuple[int, ...] = (1, 32),
    seconds: float = 1.0,
    max_repeats: int = 200,
) -> dict[str, Any]:
    """Time the ONNX file on this machine's CPU; the images are repeated to fill a batch.

    Each batch size is run three times for warmth, then for about ``seconds`` (5 to ``max_repeats`` runs).

    Returns:
        ``bytes``, ``threads``, and ``latency_ms``: batch size to ``p50``, ``p95`` and ``mean`` of one run in
        milliseconds.
    """
    pixels = np.ascontiguousarray(torch.as_tensor(images, dtype=torch.float32).cpu().numpy())
    threads = threads or num_cores()
    session = open_session(path, threads=threads)
    latency: dict[str, dict[str, float]] = {}
    for size in batch_sizes:
        batch = pixels[np.arange(size) % len(pixels)]
        latency[str(size)] = time_calls(
            functools.partial(session.logits, batch), seconds=seconds, max_repeats=max_repeats
        )
    return {"bytes": Path(path).stat().st_size, "threads": threads, "latency_ms": latency}


def _on_cpu(loaded: LoadedModel) -> _PixelsToLogits:
    """Copy it to the CPU, float32, eval mode: the original keeps its device, mode and memory format."""
    model = copy.deepcopy(loaded.model).to("cpu", torch.float32).to(memory_format=torch.contiguous_format)
    return _PixelsToLogits(LoadedModel(model.eval(), loaded.architecture, loaded.classes, loaded.preprocess)).eval()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hush the exporter, which prints, warns and logs about its own insides; failures still raise."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
