"""Distillation of relations instead of values (DIST).

A student that is much smaller cannot match the probabilities of a strong teacher. DIST only asks that they
are correlated: over the classes of each image (inter), and over the images of the batch for each class
(intra).

Family: logits
Paper: Huang, You, Wang, Qian, Xu: Knowledge Distillation from A Stronger Teacher, arXiv:2205.10536, NeurIPS
Year: 2022
Formula: L = CE(z_s, y) + 2 (inter + intra); inter = T^2 (1 - mean over images of pearson(p_s, p_t) over
    classes), intra = T^2 (1 - mean over classes of pearson over the batch), p = softmax(z / T);
    several labels: sigmoid(z / T)
Defaults: T = 1, ce 1, inter 2, intra 2: the authors' ImageNet settings. CIFAR-100: T = 4, the same weights,
    so both terms are up to 16 times larger.
Departures: beta and gamma times the common weight are the weights of two terms, not options, so each is
    logged and swept alone. Batches below 8 images are refused: intra correlates over the batch. Of two classes
    inter is left out: it has no gradient. Where images have several labels p is the sigmoid of each logit and
    cross-entropy the binary one; the paper has one class per image (on mosaics of EuroSAT it gained three times
    what kd did: docs/guide/data.md). With center false the cosine stands in
    place of the correlation (Ham et al. 2023, arXiv:2311.14307, intra alone).
Reference: CIFAR-100, top-1 in %: ResNet-56 -> 20 71.75, ResNet-32x4 -> 8x4 76.31 (alone 69.06 and 72.50, plain kd
    70.66 and 73.33); DIST's README. A later re-run has 71.78 and 75.79; ND's README. ImageNet: ResNet-34 -> 18 72.07;
    DIST's README.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from sapling.losses.correlation import inter_class, intra_class
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.methods.weights import without
from sapling.types import Batch, Outputs, PairInfo, Step


class DIST(Method):
    """Cross-entropy on the labels, and two correlations with the teacher."""

    class Config(MethodConfig):
        """Settings of dist."""

        temperature: float = Field(1.0, gt=0, le=1000, description="softens both answers; 1 leaves them as they are")
        center: bool = Field(True, description="false: the cosine in place of the correlation (Ham et al. 2023)")

    config: Config
    terms = ("ce", "inter", "intra")
    requires = Requires(labels=False, min_batch=8, multi_label=True)
    scales: ClassVar[Mapping[str, float]] = {"inter": 2.0, "intra": 2.0}

    @classmethod
    def softens_logits(cls, config: MethodConfig) -> bool:
        """Yes."""
        return True

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Build it; see :class:`Method`. Of two classes ``inter`` is left out."""
        super().__init__(config, info)
        if info.num_classes == 2 and config.center:
            reasons = {"inter": "over two answers a correlation is 1 or -1, whatever the student says"}
            self._weights = without(self._weights, reasons, config.weights, self.name)

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce``, ``inter`` and ``intra``."""
        terms = self.label_terms(student, batch, step)
        for name, loss in (("inter", inter_class), ("intra", intra_class)):
            if step.wants(name):
                student, teacher = self.pair(student, teacher)
                terms[name] = loss(
                    student.logits,
                    teacher.logits,
                    self.config.temperature,
                    center=self.config.center,
                    multi_label=self.info.multi_label,
                )
        return terms
