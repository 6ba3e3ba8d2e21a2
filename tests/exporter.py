"""torch's ONNX exporter parses the source of 500 functions anew at every export; in tests it does so once."""

import contextlib
import functools
import io
import sys

REGISTRATION = "torch.onnx._internal.exporter._registration"


def parse_functions_once():
    """Let the next export keep what it parsed; nothing where no export was loaded yet, or torch has changed inside."""
    registry = getattr(sys.modules.get(REGISTRATION), "ONNXRegistry", None)
    found = getattr(registry, "from_torchlib", None)
    if found is not None and not hasattr(found, "cache_info"):
        registry.from_torchlib = staticmethod(functools.cache(found))


def export_once():
    """Load and parse all that an export needs, so that forked processes have it."""
    import torch
    import tqdm

    tqdm.tqdm.monitor_interval = 0  # or a bar of the exporter starts a thread, which nobody can fork
    __import__(REGISTRATION)
    parse_functions_once()
    network, images = torch.nn.Conv2d(1, 1, 1).eval(), torch.zeros(2, 1, 1, 1)
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(network, (images,), dynamo=True, verbose=False, opset_version=18)
