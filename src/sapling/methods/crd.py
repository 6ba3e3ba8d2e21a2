"""Which of the teacher's embeddings belongs to this image? (CRD)

Student and teacher are projected to a common space, where an image's two vectors must be nearer to each other than to
those of images of other classes. It teaches how images relate, not only how each is answered.

Family: features
Paper: Tian, Krishnan, Isola: Contrastive Representation Distillation, arXiv:1910.10699, ICLR
Year: 2020
Formula: L = CE(z_s, y) - 0.8 mean over images i of (log softmax_j(u_i v_j / T)[i] + log softmax_j(u_j v_i / T)[i]); u
    is W_s e_s + b_s brought to length 1, v the teacher's; j runs over i and the images of other classes in the batch.
    With negatives=memory: L = CE(z_s, y) - 0.8 mean over i of (log(P_ii / (P_ii + K/N)) + sum over K drawn images j of
    other classes of log((K/N) / (P_ij + K/N)) + the same with networks exchanged); P_ij = exp(u_i m_j / T) / Z, m the
    bank of the teacher's vectors
Defaults: ce 1, crd 0.8, T = 0.07, 128 dimensions, momentum 0.5: the authors' settings. They draw K = 16,384; here
    4,096, or N - 1 where there are fewer images.
Departures: by default the wrong answers are the images of other classes in the batch, with a softmax over them: a data
    set of a few thousand images cannot give 16,384. So batches should be large: 64 images or more. negatives=memory is
    the authors' loss, from their banks of all N training images: each holds a running mean of the image's vectors, so
    under augmentation those of earlier views. Drawn with replacement from the images of other classes (theirs: without,
    where there are enough). Z is set by the first batch and then kept, as theirs. The banks (2 N dimensions numbers, 1
    GiB at most) are part of the checkpoint. Both projectors are trained, as theirs. Negatives without labels are not
    offered.
Reference: CIFAR-100, top-1 in %: ResNet-56 -> 20 71.16, ResNet-32x4 -> 8x4 75.51 (alone 69.06 and 72.50, plain kd
    70.66 and 73.33); RepDistiller's README.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sapling.errors import MethodError
from sapling.grids import as_vector, width_of
from sapling.losses.contrastive import info_nce, log_partition, noise_contrastive
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.methods.memory import ImageRows, check_table_size, write_rows
from sapling.types import Batch, Outputs, PairInfo, Step, Taps

EMBEDDING = "embedding"


class CRD(Method):
    """Cross-entropy on the labels, and finding the teacher's embedding among those of other images."""

    class Config(MethodConfig):
        """Settings of crd."""

        temperature: float = Field(0.07, gt=0, le=10, description="of the comparison; small ones look at near images")
        num_dimensions: int = Field(128, ge=2, le=4096, description="of the common space")
        negatives: Literal["batch", "memory"] = Field(
            "batch", description="where the wrong answers come from: the batch, or memory banks of all training images"
        )
        num_negatives: int = Field(
            4096, ge=1, le=65536, description="drawn per image from the banks; at most N - 1 (negatives=memory)"
        )
        momentum: float = Field(
            0.5, ge=0, lt=1, description="share of the old vector when a bank is updated (negatives=memory)"
        )

    config: Config
    terms = ("ce", "crd")
    requires = Requires(labels=True, min_batch=8)
    scales: ClassVar[Mapping[str, float]] = {"crd": 0.8}

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """Both embeddings."""
        return Taps((EMBEDDING,), (EMBEDDING,))

    @classmethod
    def requires_with(cls, config: MethodConfig) -> Requires:
        """Banks go by the numbers of images."""
        assert isinstance(config, cls.Config)
        return replace(cls.requires, indices=config.negatives == "memory")

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Build both projectors, and the banks where they are wanted.

        Raises:
            MethodError: the banks are too large, or there are no images of two classes to tell apart.
        """
        super().__init__(config, info)
        self.student_projector = nn.Linear(width_of(info.student_shapes[EMBEDDING]), config.num_dimensions)
        self.teacher_projector = nn.Linear(width_of(info.teacher_shapes[EMBEDDING]), config.num_dimensions)
        self.banks = Banks(config, info) if config.negatives == "memory" else None

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce`` and ``crd``."""
        terms = self.label_terms(student, batch, step)
        if step.wants("crd"):
            student, teacher = self.pair(student, teacher)
            own = self.student_projector(as_vector(student.features[EMBEDDING]))
            theirs = self.teacher_projector(as_vector(teacher.features[EMBEDDING]))
            labels = self.class_numbers(batch)
            if self.banks is None:
                terms["crd"] = info_nce(own, theirs, labels, self.config.temperature)
            else:
                terms["crd"] = self.banks(own, theirs, labels, batch.indices)
        return terms


class Banks(nn.Module):
    """A vector of each network for each training image, and the loss against draws of them.

    All scores ``[B,N]`` are computed and those that were drawn are counted: for the N up to some 100,000 that this is
    for it is quicker than to gather ``[B,K,dimensions]``, and its gradient is the same to the bit on every run.

    Args:
        config: of the method.
        info: labels and number of the training images.

    Raises:
        MethodError: see :class:`CRD`.
    """

    student: Tensor
    teacher: Tensor
    log_partitions: Tensor
    is_started: Tensor
    by_class: Tensor
    class_start: Tensor
    class_size: Tensor

    def __init__(self, config: CRD.Config, info: PairInfo) -> None:
        super().__init__()
        self.config, self.num_images = config, info.num_samples
        check_table_size(
            "crd",
            2 * 4 * self.num_images * config.num_dimensions,
            "--set method.num_dimensions=32, or --set method.negatives=batch",
        )
        if info.train_labels is None or int(torch.bincount(info.train_labels).max()) == self.num_images:
            raise MethodError(
                "method 'crd' with negatives=memory draws images of other classes, and the training images are of one",
                allowed="training images of two classes or more",
            )
        self.rows = ImageRows(info)
        sizes = torch.bincount(info.train_labels, minlength=info.num_classes)
        for name, values in (
            ("by_class", info.train_labels.argsort(stable=True)),
            ("class_size", sizes),
            ("class_start", sizes.cumsum(0) - sizes),
        ):
            self.register_buffer(name, values, persistent=False)
        for name in ("student", "teacher"):
            self.register_buffer(name, F.normalize(torch.randn(self.num_images, config.num_dimensions), dim=1))
        self.register_buffer("log_partitions", torch.zeros(2))
        self.register_buffer("is_started", torch.tensor(False))

    def draw(self, labels: Tensor) -> Tensor:
        """Rows ``[B,K]`` of images of other classes than ``labels`` ``[B]``, each as likely as any other.

        Torch's own stream, which the engine sets anew for every step from the seed and the number of the step.
        """
        number = min(self.config.num_negatives, self.num_images - 1)
        start, size = self.class_start[labels][:, None], self.class_size[labels][:, None]
        free = torch.randint(2**62, (len(labels), number), device=labels.device) % (self.num_images - size)
        return self.by_class[free + (free >= start) * size]

    def forward(self, own: Tensor, theirs: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """Loss of projections ``[B,D]`` of student and teacher; in training mode they then enter the banks."""
        own, theirs = F.normalize(own, dim=1), F.normalize(theirs, dim=1)
        rows = self.rows(indices)
        drawn = self.draw(labels)
        counts = own.new_zeros(len(rows), self.num_images)
        counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=own.dtype))
        sides = ((own, self.teacher), (theirs, self.student))
        scores = [
            ((vectors * bank[rows]).sum(dim=1) / self.config.temperature, vectors @ bank.T / self.config.temperature)
            for vectors, bank in sides
        ]
        with torch.no_grad():
            now = torch.stack([log_partition(*score, counts, self.num_images) for score in scores])
            # by where, not by if: reading the flag would make the GPU wait
            partitions = torch.where(self.is_started, self.log_partitions, now.to(self.log_partitions))
        losses = [
            noise_contrastive(*score, counts, partition, self.num_images)
            for score, partition in zip(scores, partitions, strict=True)
        ]
        if self.training:
            self.log_partitions, self.is_started = partitions, torch.ones_like(self.is_started)
            self.student, self.teacher = (
                write_rows(bank.clone(), rows, self._mixed(bank[rows], vectors.detach()))
                for bank, vectors in ((self.student, own), (self.teacher, theirs))
            )
        return losses[0] + losses[1]

    def _mixed(self, old: Tensor, new: Tensor) -> Tensor:
        return F.normalize(self.config.momentum * old + (1 - self.config.momentum) * new, dim=1)
