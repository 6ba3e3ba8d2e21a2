"""Sapling: knowledge distillation of image classifiers, with the control, the seeds and the verdict included.

>>> import sapling
>>> result = sapling.distill(data="photos.zip", teacher="resnet18", student="cnn3", method="dist")  # doctest: +SKIP
>>> print(result.statement)  # doctest: +SKIP

Nothing heavy is imported until a function is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sapling.config import RunConfig
    from sapling.data.loader import load_data
    from sapling.deploy.predict import predict
    from sapling.errors import SaplingError
    from sapling.evaluation.verdict import Verdict
    from sapling.models.create import create_model
    from sapling.models.load import load_model, save_model
    from sapling.models.tapped import TappedModel
    from sapling.report.page import write_report
    from sapling.workflows.compare import compare
    from sapling.workflows.comparison import Comparison
    from sapling.workflows.distill import RunResult, distill
    from sapling.workflows.evaluate import evaluate, export
    from sapling.workflows.inspect import inspect
    from sapling.workflows.train import train

__version__ = "0.1.0"

_HOMES = {
    "Comparison": "sapling.workflows.comparison",
    "RunConfig": "sapling.config",
    "RunResult": "sapling.workflows.distill",
    "SaplingError": "sapling.errors",
    "TappedModel": "sapling.models.tapped",
    "Verdict": "sapling.evaluation.verdict",
    "compare": "sapling.workflows.compare",
    "create_model": "sapling.models.create",
    "distill": "sapling.workflows.distill",
    "evaluate": "sapling.workflows.evaluate",
    "export": "sapling.workflows.evaluate",
    "inspect": "sapling.workflows.inspect",
    "load_data": "sapling.data.loader",
    "load_model": "sapling.models.load",
    "predict": "sapling.deploy.predict",
    "save_model": "sapling.models.load",
    "train": "sapling.workflows.train",
    "write_report": "sapling.report.page",
}

__all__ = [
    "Comparison",
    "RunConfig",
    "RunResult",
    "SaplingError",
    "TappedModel",
    "Verdict",
    "__version__",
    "compare",
    "create_model",
    "distill",
    "evaluate",
    "export",
    "inspect",
    "load_data",
    "load_model",
    "predict",
    "save_model",
    "train",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sapling' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
