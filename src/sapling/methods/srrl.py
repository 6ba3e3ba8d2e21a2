"""The teacher's classifier judges the student's features (SRRL).

A connector brings the student's last map to the teacher's width. Its mean must be the teacher's embedding, and the
teacher's own classifier, held still, must answer for it as for the teacher.

Family: features
Paper: Yang, Martinez, Bulat, Tzimiropoulos: Knowledge Distillation via Softmax Regression Representation
    Learning, ICLR
Year: 2021
Formula: L = CE(z_s, y) + MSE(h, e_t) + MSE(W_t h + b_t, z_t), h = mean over positions of ReLU(BN(conv1x1(F_s))), e_t
    the teacher's embedding, W_t and b_t its classifier; MSE is a mean over images and channels or classes
Defaults: ce 1, feature 1, logit 1: the authors' settings.
Departures: the teacher's embedding stands for the mean of its last map: the same where a network pools its last map,
    and what its classifier reads where it does not (ViT, EfficientNet). The ReLU of the connector is left away once
    the teacher has shown an embedding below 0, which a ReLU could never reach; theirs always end in one.
Reference: CIFAR-100, top-1 in %: ResNet-32x4 -> 8x4 75.39 (alone 72.50, plain kd 73.33); NORM's README. ImageNet:
    ResNet-34 -> 18 71.73; NORM's README.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sapling.grids import as_vector, grid_of, width_of
from sapling.losses.embeddings import mean_gap
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.methods.head import teachers_head
from sapling.types import Batch, Outputs, PairInfo, Step, Taps

EMBEDDING = "embedding"


class SRRL(Method):
    """Cross-entropy on the labels; the student's features by themselves, and as the teacher's classifier sees them."""

    class Config(MethodConfig):
        """Settings of srrl."""

        stage: str = Field("stage4", description="the student's map, usually its last")

    config: Config
    terms = ("ce", "feature", "logit")
    requires = Requires(labels=False, multi_label=True, min_batch=2)
    head_weight: Tensor
    head_bias: Tensor
    is_rectified: Tensor

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """The student's last map and the teacher's embedding."""
        assert isinstance(config, cls.Config)
        return Taps((config.stage,), (EMBEDDING,))

    @classmethod
    def asks_logits(cls, config: MethodConfig) -> bool:
        """The teacher's classifier is asked about the student's feature, and its answer compared."""
        return True

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Build the connector, and keep the teacher's classifier as constants.

        Raises:
            MethodError: the teacher's classifier is no linear layer, or does not fit its embedding or the classes.
        """
        super().__init__(config, info)
        self._grid = grid_of(config.stage, info.student_shapes, side="student", method=self.name)
        width = width_of(info.teacher_shapes[EMBEDDING])
        weight, bias = teachers_head(info, width, method=self.name, of="embedding", does="needs", instead="vkd")
        self.register_buffer("head_weight", weight, persistent=False)
        self.register_buffer("head_bias", bias, persistent=False)
        self.register_buffer("is_rectified", torch.tensor(True))
        widen = nn.Conv2d(self._grid.channels, width, 1, bias=False)
        nn.init.kaiming_normal_(widen.weight, mode="fan_out", nonlinearity="relu")
        self.connector = nn.Sequential(widen, nn.BatchNorm2d(width))

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce``, ``feature`` and ``logit``."""
        terms = self.label_terms(student, batch, step)
        if step.wants("feature") or step.wants("logit"):
            student, teacher = self.pair(student, teacher)
            target = as_vector(teacher.features[EMBEDDING])
            if self.training:
                self.is_rectified = self.is_rectified & (target >= 0).all()
            connected = self.connector(self._grid.read(student.features[self.config.stage]))
            # by where, not by if: reading the flag would make the GPU wait
            vector = as_vector(torch.where(self.is_rectified, connected.relu(), connected))
            if step.wants("feature"):
                terms["feature"] = mean_gap(vector, target)
            if step.wants("logit"):
                terms["logit"] = F.mse_loss(F.linear(vector, self.head_weight, self.head_bias), teacher.logits)
        return terms
