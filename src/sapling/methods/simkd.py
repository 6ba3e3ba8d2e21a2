"""The teacher's classifier behind the student's body (SimKD).

The student learns to draw the teacher's last map through a projector, and nothing else. What then answers is the
teacher's own classifier: body, projector and that classifier are shipped, and the student's classifier is left out.

Family: features
Paper: Chen, Mei, Zhang, Wang, Feng, Chen: Knowledge Distillation with the Reused Teacher Classifier,
    arXiv:2203.14001, CVPR
Year: 2022
Formula: L = a CE(z, y) + (1 - a) MSE(P(F_s), F_t); z = W_t mean(P(F_s)) + b_t, P = conv1x1 BN ReLU conv3x3 BN ReLU
    conv1x1 BN ReLU, with C_t / 2 channels inside; W_t and b_t are the teacher's classifier; MSE is a mean over images,
    channels and positions
Defaults: a = 0, so that no label is used at all; factor 2: the authors' settings.
Departures: the last ReLU of P is left away once the teacher has shown a value below 0 in training, which a ReLU could
    never reach (theirs always end in one). With ce, the labels train what is shipped; theirs read the student's own
    classifier. Sides that are larger are pooled one by one, and F_s before P, so P works on the smaller grid. With
    alpha = 1 there is no projector: it is the control. The network that is shipped is larger than the student.
Reference: CIFAR-100, top-1 in %: ResNet-32x4 -> 8x4 78.08 (alone 72.50, plain kd 73.33); NORM's README. ImageNet:
    ResNet-34 -> 18 71.66; NORM's README.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sapling.errors import MethodError
from sapling.grids import as_vector, grid_of, smaller
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.methods.head import teachers_head
from sapling.reused import Behind, MapPlace, ReusedClassifier, bottleneck, shrink
from sapling.types import Batch, Outputs, PairInfo, Step, Taps

LAST_MAP = "last_map"


class SimKD(Method):
    """The teacher's last map, drawn by the student through a projector; its classifier answers for both."""

    class Config(MethodConfig):
        """Settings of simkd."""

        factor: int = Field(2, ge=1, le=64, description="the projector has the teacher's channels / factor inside")

    config: Config
    terms = ("ce", "feature")
    requires = Requires(labels=False, multi_label=True, min_batch=2)
    default_alpha = 0.0
    head_weight: Tensor
    head_bias: Tensor
    is_rectified: Tensor

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """The map that each network's classifier reads the mean of."""
        return Taps((LAST_MAP,), (LAST_MAP,))

    @classmethod
    def notes(cls, config: MethodConfig, *, mixes: bool, epochs: int) -> list[str]:
        """That more is shipped than the student."""
        if config.alpha == 1:
            return []
        note = (
            "simkd ships the student's body with a projector and the teacher's classifier behind it: more parameters "
            "and operations than the control has. Compare those too, and mind the licence of the teacher's weights."
        )
        return [note]

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Build the projector, and keep the teacher's classifier as constants.

        Raises:
            MethodError: a last map lies on no grid, or the teacher's classifier is no linear layer behind its mean.
        """
        super().__init__(config, info)
        self._student = grid_of(LAST_MAP, info.student_shapes, side="student", method=self.name)
        self._teacher = grid_of(LAST_MAP, info.teacher_shapes, side="teacher", method=self.name)
        self._size = smaller(self._student, self._teacher)
        wide = self._teacher.channels
        weight, bias = teachers_head(info, wide, method=self.name, of="last map", does="ships", instead="reviewkd")
        self.register_buffer("head_weight", weight, persistent=False)
        self.register_buffer("head_bias", bias, persistent=False)
        self.register_buffer("is_rectified", torch.tensor(True))
        self.projector = bottleneck(self._student.channels, max(1, wide // config.factor), wide)

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce`` and ``feature``; ``ce`` of the plain student where it is wanted alone."""
        if not step.wants("feature"):
            return self.label_terms(student, batch, step)
        student, teacher = self.pair(student, teacher)
        target = self._teacher.read(teacher.features[LAST_MAP])
        if self.training:
            self.is_rectified = self.is_rectified & (target >= 0).all()
        drawn = self.projector(shrink(self._student.read(student.features[LAST_MAP]), *self._size))
        # by where, not by if: reading the flag would make the GPU wait
        drawn = torch.where(self.is_rectified, drawn.relu(), drawn)
        logits = F.linear(as_vector(drawn), self.head_weight, self.head_bias)
        terms = self.label_terms(Outputs(logits, student.features), batch, step)
        terms["feature"] = F.mse_loss(drawn, shrink(target, *self._size))
        return terms

    def deployable(self, student: nn.Module) -> nn.Module:
        """Put a copy of the student's body, the projector and the teacher's classifier together.

        Raises:
            MethodError: nobody said where the student's last map is.
        """
        if not self._weights["feature"] > 0:
            return student
        place = self.info.student_places.get(LAST_MAP)
        if place is None:
            raise MethodError(
                f"method {self.name!r} was not told where the student's {LAST_MAP} is, and cannot put its network "
                "together",
                remedy="PairInfo(.., student_places=student.places), with student a TappedModel",
            )
        own, wide = self._student, self._teacher.channels
        behind = Behind(
            own.channels,
            max(1, wide // self.config.factor),
            wide,
            *self._size,
            rectified=bool(self.is_rectified),
            num_rows=own.height if len(own.shape) == 2 else 0,
        )
        with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and then replaced
            network = ReusedClassifier(student, MapPlace(**place), behind, self.info.num_classes)
        network.projector.load_state_dict(self.projector.state_dict())
        network.classifier.load_state_dict({"weight": self.head_weight, "bias": self.head_bias})
        return network.to(self.head_weight.device).train(student.training)
