"""The student's own past answer as soft label, with a share that grows (PS-KD).

There is no teacher: what the student answered to an image the last time it was shown, an epoch ago, softens the image's
label. At first the answers are poor and hardly count; at the end they are most of the target.

Family: self-distillation
Paper: Kim, Ji, Yoon, Hwang: Self-Knowledge Distillation with Progressive Refinement of Targets, arXiv:2006.12000, ICCV
Year: 2021
Formula: L = CE(z_s, (1 - a) y + a p), p = softmax of the last answer to this image, a = 0.8 t at the share t of
    training; written as L = CE(z_s, y) + past, past = a (CE(z_s, p) - CE(z_s, y)), which may be below 0
Defaults: ce 1, past 1, 0.8 at the end: the authors' on CIFAR-100 (0.3 on ImageNet).
Departures: a grows with every batch, a = 0.8 t; the authors' grows with the epoch e of E, 0.8 (e + 1) / E. As theirs,
    the answer is that of training (train mode, under augmentation: of the view of that epoch, while the view now is
    another one), and an image that was not shown yet has its label for p. With class weights or adjusted logits both CE
    are so. The memory (N K numbers, 1 GiB at most) is part of the checkpoint. Mixed images are refused: an image has a
    past, a mixture has none.
Reference: none at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sapling.errors import ConfigError
from sapling.losses.checks import full_precision
from sapling.methods.base import Method, MethodConfig, Requires
from sapling.methods.memory import ImageRows, check_table_size, write_rows
from sapling.types import Batch, Outputs, PairInfo, Step


class PSKD(Method):
    """Cross-entropy on labels that the student's own past answers soften."""

    class Config(MethodConfig):
        """Settings of ps_kd."""

        last_share: float = Field(0.8, gt=0, le=1, description="share of the past answer in the target, at the end")

    config: Config
    terms = ("ce", "past")
    requires = Requires(labels=True, indices=True, teacher=False)
    answers: Tensor
    is_known: Tensor

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Build the memory.

        Raises:
            MethodError: it would be too large.
        """
        super().__init__(config, info)
        check_table_size(self.name, 4 * info.num_samples * info.num_classes, "--method byot, which remembers nothing")
        self.rows = ImageRows(info)
        self.register_buffer("answers", torch.zeros(info.num_samples, info.num_classes))
        self.register_buffer("is_known", torch.zeros(info.num_samples, dtype=torch.bool))
        self._share = torch.zeros(())

    def check_weights(self, weights: Mapping[str, float]) -> None:
        """The past may not take more from the true label than the label term gives it.

        Raises:
            ConfigError: it would; the student would unlearn the labels that it finds hard.
        """
        assert isinstance(self.config, PSKD.Config)
        taken = weights["past"] * self.config.last_share
        if taken > weights["ce"]:
            most = weights["ce"] / self.config.last_share
            raise ConfigError(
                f"method {self.name!r}: at the end the term past takes {taken:.3g} from the true label, to which ce "
                f"gives {weights['ce']:.3g}",
                allowed=f"a weight of past of {most:.3g} or less (it is {weights['past']:.3g})",
                remedy="leave alpha and weights away, a smaller weight of past, or --method ps_kd alone",
            )

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce`` and ``past``; the teacher is not looked at."""
        terms = self.label_terms(student, batch, step)
        if step.wants("past"):
            student, labels = self.present(student), self.class_numbers(batch)
            rows, logits = self.rows(batch.indices), full_precision(student.logits)
            hard = F.one_hot(labels, logits.shape[1]).to(logits)
            soft = torch.where(self.is_known[rows][:, None], self.answers[rows].to(logits), hard)
            share = self.config.last_share * step.progress
            only = Step(terms=(self.label_term,))
            past, now = (
                self.label_terms(student, replace(batch, targets=target), only)[self.label_term]
                for target in (soft, hard)
            )
            terms["past"] = share * (past - now)
            self._share = torch.full_like(now.detach(), share)
            if self.training:
                write_rows(self.answers, rows, logits.softmax(dim=1))
                write_rows(self.is_known, rows, torch.ones_like(rows))
        return terms

    def observations(self) -> dict[str, Tensor]:
        """The share of past answers in the targets of the last batch."""
        return {"share": self._share}
