"""Features of the teacher's direction and size, and a second classifier that learns from the teacher alone.

The student's last map, projected, should point where the teacher's points (cosine) and be as large (MSE). An assistant
branch, a second classifier on the student's embedding, copies the teacher's softened answers, so that the student's own
classifier has only the labels to follow and need not compromise between two truths. The assistant is thrown away.

Family: features
Paper: Park, Kang, Paik: Cosine similarity-guided knowledge distillation for robust object detectors, Scientific Reports
Year: 2024
Formula: L = CE(z_s, y) + mean over images and positions of (1 - cos(r(F_s), F_t)) + MSE(r(F_s), F_t) + T^2
    KL(softmax(z_t / T) || softmax((A e_s + b) / T)); r = 1x1 convolution and batch norm, A and b the assistant; where
    an image may have several labels, KL is binary, over sigmoids
Defaults: all weights 1 and T = 4 are ours: the paper detects objects, and only its abstract could be read here.
Departures: one classifier per image in place of a detector's heads, and the last map in place of a pyramid. The paper
    also compares predictions by cosine and MSE; here they are compared as in KD. Where sizes differ, the larger map is
    averaged to the smaller; tokens become the map of their square grid, without class token and registers.
Reference: none at hand.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from sapling.errors import MethodError
from sapling.grids import as_vector, grid_of, resize, smaller, width_of
from sapling.losses.divergence import kl_divergence, sigmoid_kl
from sapling.losses.regression import cosine_error, squared_error
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.types import Batch, Outputs, PairInfo, Step, Taps

EMBEDDING = "embedding"


class Cosine(Method):
    """Cross-entropy on the labels, cosine and squared error of maps, and an assistant that copies answers."""

    class Config(MethodConfig):
        """Settings of cosine."""

        tap: str = Field("stage4", description="the map that is compared: stage1..stage4, or a module's path")
        teacher_tap: str | None = Field(None, description="the same in the teacher, where it is another; null: as tap")
        temperature: float = Field(4.0, gt=0, le=1000, description="softens the answers that the assistant copies")

    config: Config
    terms = ("ce", "cosine", "mse", "assistant")
    requires = Requires(labels=False, multi_label=True, min_batch=2)

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """One map of each, and what the student's classifier reads."""
        assert isinstance(config, cls.Config)
        student = (config.tap,) if config.tap == EMBEDDING else (config.tap, EMBEDDING)
        return Taps(student, (config.teacher_tap or config.tap,))

    @classmethod
    def asks_logits(cls, config: MethodConfig) -> bool:
        """The assistant copies them."""
        return True

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Build projector and assistant.

        Raises:
            MethodError: a feature cannot be placed on a grid, or the teacher's has one channel, which has no direction.
        """
        super().__init__(config, info)
        self._teacher_tap = config.teacher_tap or config.tap
        self._own = grid_of(config.tap, info.student_shapes, side="student", method=self.name)
        self._theirs = grid_of(self._teacher_tap, info.teacher_shapes, side="teacher", method=self.name)
        if self._theirs.channels < 2:
            raise MethodError(
                f"method {self.name!r} compares directions, and the teacher's {self._teacher_tap} has one channel",
                allowed="2 channels or more",
            )
        self.projector = nn.Sequential(
            nn.Conv2d(self._own.channels, self._theirs.channels, 1, bias=False), nn.BatchNorm2d(self._theirs.channels)
        )
        self.assistant = nn.Linear(width_of(info.student_shapes[EMBEDDING]), info.num_classes)
        self._divergence = sigmoid_kl if info.multi_label else kl_divergence

    @classmethod
    def softens_logits(cls, config: MethodConfig) -> bool:
        """Yes, for the assistant."""
        return True

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce``, ``cosine``, ``mse`` and ``assistant``."""
        terms = self.label_terms(student, batch, step)
        if step.wants("cosine") or step.wants("mse"):
            student, teacher = self.pair(student, teacher)
            size = smaller(self._own, self._theirs)
            target = resize(self._theirs.read(teacher.features[self._teacher_tap]), size)
            projected = self.projector(resize(self._own.read(student.features[self.config.tap]), size))
            for name, loss in (("cosine", cosine_error), ("mse", squared_error)):
                if step.wants(name):
                    terms[name] = loss(projected, target)
        if step.wants("assistant"):
            student, teacher = self.pair(student, teacher)
            answers = self.assistant(as_vector(student.features[EMBEDDING]))
            terms["assistant"] = self._divergence(answers, teacher.logits, self.config.temperature)
        return terms
