"""Many copies of the teacher's map from one of the student's, by a block that folds away (NORM).

Behind its last map the student gets a linear block: a 1x1 convolution to N times the teacher's channels and one back,
added to the map. Each of the N parts is to be the teacher's map. Being linear, the block disappears into the classifier
after training, so the network that is shipped is the student as it was.

Family: features
Paper: Liu, Li, Li, Yao: NORM: Knowledge Distillation via N-to-One Representation Matching, arXiv:2305.13803, ICLR
Year: 2023
Formula: L = a CE(z, y) + (1 - a) r sum over N parts of MSE(E_n, F_t) + w T^2 KL(softmax(v_t / T) || softmax(v / T)); E
    = BN(conv1x1(F_s)), z = W mean(F_s + BN(conv1x1(E))) + b, v = 2.5 (z - mean(z)) / std(z) of each image
Defaults: N = 8, T = 4, kd 0: the authors' NORM (their NORM + KD adds that term: method.weights). a = 0.2: of the
    authors' weights of CE beside 1 for the match, 0.0625 to 0.5, a quarter. r is 0.1, 0.5, 1, 0.5, 0.1 with steps at
    1/24, 1/12, 3/4 and 7/8 of training, theirs at epochs 10, 20, 180 and 210 of 240.
Departures: CE reads z and not v: what is shipped answers z, and its probabilities must be those that were trained. W
    and b are new; block and W together are written into the student's classifier, exactly, when it is measured or
    saved. So the student's map must be the one whose mean its classifier reads (no ViT with a class token). Where sizes
    differ, the larger map is max-pooled to the smaller, as theirs. With alpha = 1 there is no block: it is the control.
Reference: CIFAR-100, top-1 in %: ResNet-56 -> 20 71.35, ResNet-32x4 -> 8x4 76.49 (alone 69.06 and 72.50, plain kd
    70.66 and 73.33); NORM's README. With kd 71.61 and 76.98. ImageNet: ResNet-34 -> 18 72.14; NORM's README.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sapling.errors import MethodError
from sapling.grids import grid_of, smaller
from sapling.losses.divergence import check_standardize, kl_divergence
from sapling.losses.regression import repeated_error
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.types import Batch, Outputs, PairInfo, Step, Taps

LAST_MAP = "last_map"
RAMP = ((1 / 24, 0.1), (1 / 12, 0.5), (3 / 4, 1.0), (7 / 8, 0.5), (1.0, 0.1))
"""Until which share of training, which factor of the match."""
LOGIT_SCALE = 2.5


class Norm(Method):
    """Cross-entropy on the labels behind a linear block, and N copies of the teacher's map inside it."""

    class Config(MethodConfig):
        """Settings of norm."""

        num_copies: int = Field(8, ge=1, le=64, description="N: so many times the teacher's channels the block has")
        teacher_stage: str = Field("stage4", description="the teacher's map, usually its last")
        temperature: float = Field(4.0, gt=0, le=1000, description="of kd, where that has a weight")

    config: Config
    terms = ("ce", "norm", "kd")
    requires = Requires(labels=False, min_batch=2)
    default_alpha = 0.2
    scales: ClassVar[Mapping[str, float]] = {"kd": 0.0}

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """The map that the student's classifier reads the mean of, and a map of the teacher."""
        assert isinstance(config, cls.Config)
        return Taps((LAST_MAP,), (config.teacher_stage,))

    @classmethod
    def asks_logits(cls, config: MethodConfig) -> bool:
        """Where its term kd has a weight."""
        return bool((config.weights or {}).get("kd"))

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Build the block and the classifier behind it.

        Raises:
            ConfigError: two classes and a weight of kd: it standardises the logits.
            MethodError: a feature cannot be placed on a grid.
        """
        super().__init__(config, info)
        if self._weights["kd"] > 0:
            check_standardize(info.num_classes, self.name)
        self._student = grid_of(LAST_MAP, info.student_shapes, side="student", method=self.name)
        self._teacher = grid_of(config.teacher_stage, info.teacher_shapes, side="teacher", method=self.name)
        self._size = smaller(self._student, self._teacher)
        own, wide = self._student.channels, self._teacher.channels * config.num_copies
        self.widen, self.narrow = _linear_block(own, wide), _linear_block(wide, own)
        self.classifier = nn.Linear(own, info.num_classes)

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce``, ``norm`` times its factor, and ``kd``; ``ce`` of the plain student where it is wanted alone."""
        if not any(step.wants(term) for term in self.terms[1:]):
            return self.label_terms(student, batch, step)
        student, teacher = self.pair(student, teacher)
        last = self._student.read(student.features[LAST_MAP])
        parts = self.widen(last)
        logits = self.classifier((last + self.narrow(parts)).mean(dim=(2, 3)))
        terms = self.label_terms(Outputs(logits, student.features), batch, step)
        if step.wants("norm"):
            target = self._teacher.read(teacher.features[self.config.teacher_stage])
            sized = [m if m.shape[2:] == self._size else F.adaptive_max_pool2d(m, self._size) for m in (parts, target)]
            factor = next((f for until, f in RAMP if step.progress < until), RAMP[-1][1])
            terms["norm"] = factor * repeated_error(*sized)
        if step.wants("kd"):
            terms["kd"] = kl_divergence(_scaled(logits), _scaled(teacher.logits), self.config.temperature)
        return terms

    def deployable(self, student: nn.Module) -> nn.Module:
        """Write block and classifier into the student's own classifier, which nothing else trains, and give it.

        Raises:
            MethodError: the student's classifier is no linear layer with a bias.
        """
        if not any(self._weights[term] > 0 for term in self.terms[1:]):
            return student
        head: Any = student.get_classifier()  # type: ignore[operator]
        if not isinstance(head, (nn.Linear, nn.Conv2d)) or head.bias is None:
            raise MethodError(
                f"method {self.name!r} folds its block into the student's classifier, which is {type(head).__name__}",
                allowed="a linear layer with a bias",
                remedy="another student, or a method that ships the student as it is, such as reviewkd",
            )
        with torch.no_grad():
            (first, first_shift), (second, second_shift) = _folded(self.widen), _folded(self.narrow)
            through = torch.eye(len(second)).to(second) + second @ first
            shift = second @ first_shift + second_shift
            weight = self.classifier.weight.double()
            head.weight.copy_((weight @ through).view_as(head.weight))
            head.bias.copy_(weight @ shift + self.classifier.bias.double())
        return student


def _linear_block(channels: int, wanted: int) -> nn.Sequential:
    """A 1x1 convolution, initialised as the authors', and a batch norm."""
    convolution = nn.Conv2d(channels, wanted, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(wanted))


def _scaled(logits: Tensor) -> Tensor:
    """Logits of each image with mean 0 and standard deviation 2.5."""
    return F.layer_norm(logits, logits.shape[1:], eps=1e-7) * LOGIT_SCALE


def _folded(part: nn.Module) -> tuple[Tensor, Tensor]:
    """Matrix and shift, float64, of a 1x1 convolution and the batch norm behind it, with its running statistics."""
    convolution, norm = part.get_submodule("0"), part.get_submodule("1")
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    return convolution.weight.double().flatten(1) * scale[:, None], shift
