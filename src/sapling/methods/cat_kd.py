"""The student sees each class where the teacher sees it (CAT-KD).

A linear classifier behind a mean over positions can be asked at each position: its answers are the class maps, whose
mean is the logits. Averaged to a few cells, the student's are to be the teacher's.

Family: features
Paper: Guo, Yan, Li, Lin: Class Attention Transfer Based Knowledge Distillation, arXiv:2304.12777, CVPR
Year: 2023
Formula: L = CE(z_s, y) + w mean over images, classes and cells of (A_s - A_t)^2; A [B,K,2,2] = the answers of the
    classifier at each position, averaged to 2 x 2 cells; with normalise the cells of each class are brought to length 1
    first
Defaults: 2 x 2 cells, not normalised: the authors' settings on CIFAR-100 (4 x 4 on ImageNet). cat 1, between theirs for
    ImageNet (0.5), ResNet-56 -> 20 (0.7) and ResNet-110 -> 32 (1.8); those for other pairs are 12 (WRN-40-2 -> 16-2),
    15 (ResNet-32x4 -> 8x4), 40 (ResNet-50 -> MobileNetV2) and more. Class maps are as large as logits: the smaller the
    teacher's logits, the larger the weight that fits.
Departures: the authors build networks whose classifier is a 1x1 convolution before the mean; that is the same function
    as the linear classifier behind it, whose class maps are read here, so any such network serves as it is. One whose
    classifier does not read the mean of a map (a ViT with a class token, a layer behind the mean as in ConvNeXt and
    MobileNetV3) is refused, and so is a single position with normalise, where a map is but a sign. A map with fewer
    cells than asked for is compared at those it has.
Reference: CIFAR-100, top-1 in %: ResNet-56 -> 20 71.62, ResNet-32x4 -> 8x4 76.91 (alone 69.06 and 72.50, plain kd
    70.66 and 73.33); the paper, recalled and not read again.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from sapling.errors import MethodError
from sapling.grids import grid_of, smaller
from sapling.losses.classmaps import class_map_error
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.types import Batch, Outputs, PairInfo, Step, Taps

CLASS_MAP = "class_map"


class CatKD(Method):
    """Cross-entropy on the labels, and the distance of class maps."""

    class Config(MethodConfig):
        """Settings of cat_kd."""

        cells: int = Field(2, ge=1, le=64, description="rows and columns to which class maps are averaged")
        normalise: bool = Field(False, description="bring the map of each class to length 1: where, not how strongly")

    config: Config
    terms = ("ce", "cat")
    requires = Requires(labels=False, multi_label=True)

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """The class maps of both."""
        return Taps((CLASS_MAP,), (CLASS_MAP,))

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Find how both class maps lie, and to how many cells both can be averaged.

        Raises:
            MethodError: a map has other than K channels (an ensemble's lie side by side), or a single position.
        """
        super().__init__(config, info)
        self._student = grid_of(CLASS_MAP, info.student_shapes, side="student", method=self.name)
        self._teacher = grid_of(CLASS_MAP, info.teacher_shapes, side="teacher", method=self.name)
        for side, grid in (("student", self._student), ("teacher", self._teacher)):
            if grid.channels != info.num_classes:
                raise MethodError(
                    f"method {self.name!r}: the {side}'s class map has {grid.channels} channels for {info.num_classes} "
                    "classes",
                    allowed="one network whose classifier answers for these classes",
                    remedy="a single teacher, or a method on logits, such as dist",
                )
        common = smaller(self._student, self._teacher)
        self._size = min(config.cells, common[0]), min(config.cells, common[1])
        if config.normalise and self._size == (1, 1):
            raise MethodError(
                f"method {self.name!r} compares where classes are seen, and these class maps have a single position: "
                f"student {list(self._student.size)}, teacher {list(self._teacher.size)}, method.cells {config.cells}",
                allowed="two positions or more in both",
                remedy="larger images (--img-size), more method.cells, or a method on logits, such as dist",
            )

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce`` and ``cat``."""
        terms = self.label_terms(student, batch, step)
        if step.wants("cat"):
            student, teacher = self.pair(student, teacher)
            own = self._student.read(student.features[CLASS_MAP])
            theirs = self._teacher.read(teacher.features[CLASS_MAP])
            terms["cat"] = class_map_error(own, theirs, self._size, normalise=self.config.normalise)
        return terms
