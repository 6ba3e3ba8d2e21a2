"""Plain training without a teacher: the control.

Every comparison needs the same student, trained on the same views for the same time, without distillation;
this is that student's method, and also how a teacher is trained.

Family: control
Paper: none, the customary baseline
Year: none
Formula: L = CE(z_s, y); where an image may have several labels, binary cross-entropy, mean over images and labels
Defaults: weight 1; label smoothing is a setting of training, not of a method.
Departures: none.
"""

from __future__ import annotations

from torch import Tensor

from sapling.methods.base import Method, Requires
from sapling.types import Batch, Outputs, Step


class Control(Method):
    """Cross-entropy on the labels and nothing else."""

    terms = ("ce",)
    requires = Requires(labels=False, teacher=False, multi_label=True)

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce``; the teacher is not looked at."""
        return self.label_terms(student, batch, step)
