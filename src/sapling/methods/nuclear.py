"""The singular values of the student's features, as a regulariser beside distillation. Experimental.

The sum of the singular values of a matrix of features tells how many directions they use. It can be made small (compact
features), large (different answers for different images), or small within classes and large over all of them (ole).
Beside it stands plain distillation (kd), or, with base none, nothing but the labels.

Family: regularisation
Paper: Lezama, Qiu, Muse, Sapiro: OLE: Orthogonal Low-rank Embedding, arXiv:1712.01727, CVPR (mode ole); Cui, Wang,
    Zhuo, Li, Huang, Tian: Towards Discriminability and Diversity: Batch Nuclear-norm Maximization, arXiv:2003.12237,
    CVPR 2020 (mode max)
Year: 2018
Formula: L = alpha CE + (1 - alpha) (T^2 KL(softmax(z_t / T) || softmax(z_s / T)) + 0.05 r N); X = features of the
    student, one row per image (matrix batch) or pixel (matrix image), rows of length 1; S = sum of the singular values
    of X / sqrt(rows min(rows, columns)), in (0, 1]; N = S (min), 1 - S (max, max_columns), or the sum of the singular
    values of each class's rows / the same root, minus S (ole); r rises from 0 to 1 in the warm-up
Defaults: T = 4, ce 0.1, kd 0.9, nuclear 0.045, warm-up 0.1, base none: ce 1, nuclear 0.05: ours. For min 0.01 to 0.1
    seems safe; OLE's authors give theirs 0.25 to 0.5, BNM's authors theirs 1 to 2.
Departures: rows have length 1, and S is divided by its largest value: the plain norm is made small by shrinking all
    features, which teaches nothing. Then the norm of a class is 1 or more, and OLE's floor of 1 never acts; ole without
    normalise is refused. BNM is tap predictions, mode max, normalise false; mode max_columns takes the lengths of
    columns in place of singular values (Cui et al. 2021, fast BNM). Without normalise S is the plain norm / rows. Mode
    frobenius, the root mean squared length of a row, is constant when rows have length 1, so it needs normalise false.
    Few directions are no aim in themselves: to tell K classes apart takes K - 1, so look at the effective rank that is
    logged. To keep the regulariser fixed while kd is weighed against the labels, give weights in place of alpha. As a
    part of a combination (dist+nuclear) its base is none unless it is given; beside the methods that ship parts of
    their own (norm, simkd) it cannot stand, as no method can.
Reference: none at hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from sapling.errors import ConfigError, MethodError
from sapling.losses.divergence import kl_divergence, sigmoid_kl
from sapling.losses.maps import as_map, as_vectors, map_shape
from sapling.losses.relation import unit
from sapling.losses.spectral import class_nuclear_norm, column_norm, frobenius_norm, singular_values, spread
from sapling.methods.base import Method, MethodConfig, Requires, warmup
from sapling.types import Batch, Outputs, PairInfo, Step, Taps

PREDICTIONS = "predictions"


class Nuclear(Method):
    """Cross-entropy on the labels, KL divergence to the teacher, and a function of singular values."""

    class Config(MethodConfig):
        """Settings of nuclear."""

        base: Literal["kd", "none"] = Field("kd", description="what stands beside it: kd, or the labels alone")
        temperature: float = Field(4.0, gt=0, le=1000, description="of kd; 1 leaves both answers as they are")
        tap: str = Field(
            "embedding", description="of the student: embedding, stage1..stage4, a module's path, or predictions"
        )
        matrix: Literal["batch", "image"] = Field(
            "batch", description="rows are the images of a batch, or the pixels of each image"
        )
        mode: Literal["min", "max", "ole", "frobenius", "max_columns"] = Field(
            "min", description="what is made small: the norm, 1 - the norm, that of classes against all, .."
        )
        normalise: bool = Field(True, description="rows of length 1 and the norm as a share of its largest value")
        warmup_share: float = Field(0.1, ge=0, le=1, description="share of training in which nuclear rises from 0")

    config: Config
    terms = ("ce", "kd", "nuclear")
    requires = Requires(labels=False, min_batch=8, multi_label=True)
    default_alpha = 0.1
    scales: ClassVar[Mapping[str, float]] = {"nuclear": 0.05}
    beside_others: ClassVar[Mapping[str, Any]] = {"base": "none"}

    @classmethod
    def softens_logits(cls, config: MethodConfig) -> bool:
        """Whether kd is under it."""
        assert isinstance(config, cls.Config)
        return config.base == "kd"

    @classmethod
    def requires_with(cls, config: MethodConfig) -> Requires:
        """One class per image, where classes are told apart; no teacher without kd."""
        assert isinstance(config, cls.Config)
        by_class = config.mode == "ole"
        several = not by_class and config.tap != PREDICTIONS
        return replace(cls.requires, labels=by_class, multi_label=several, teacher=config.base == "kd")

    @classmethod
    def asks_logits(cls, config: MethodConfig) -> bool:
        """Whether kd is under it."""
        return cls.softens_logits(config)

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """One of the student; none where its answers are looked at.

        Raises:
            ConfigError: settings that have no meaning together, all at once.
        """
        assert isinstance(config, cls.Config)
        if problems := _contradictions(config):
            raise ConfigError("method 'nuclear': " + "; ".join(problems))
        return Taps() if config.tap == PREDICTIONS else Taps((config.tap,))

    def __init__(self, config: Config, info: PairInfo) -> None:
        """Check that the feature has what the settings need.

        Raises:
            ConfigError: the settings need one class per image, and there may be several labels.
            MethodError: the feature is no map; with its tap and shape.
        """
        if info.multi_label and (config.mode == "ole" or config.tap == PREDICTIONS):
            what = "mode ole" if config.mode == "ole" else "tap predictions"
            raise ConfigError(
                f"method 'nuclear': {what} needs one class per image, and these images may have several labels",
                remedy="mode min or max, on the embedding",
            )
        super().__init__(config, info)
        if config.matrix == "image":
            shape = info.student_shapes[config.tap]
            _, height, width = map_shape(shape, f"the student's {config.tap}")
            if height * width < 2:
                raise MethodError(
                    f"matrix image needs pixels, and the student's {config.tap} has the shape {list(shape)}",
                    allowed="a map [C,H,W] or tokens [T,D] with more than one pixel",
                    remedy="--set method.tap=stage3, or --set method.matrix=batch",
                )
        if config.base == "none":
            if config.alpha is None:
                plain = {self.label_term: 1.0, "nuclear": self.scales["nuclear"]}
                self._weights = plain | {self._called(k): v for k, v in (config.weights or {}).items()}
            self._weights["kd"] = 0.0
        self._divergence = sigmoid_kl if info.multi_label else kl_divergence
        self._effective_rank: Tensor | None = None

    def observations(self) -> dict[str, Tensor]:
        """The effective rank of the last batch's matrix (the mean over images), where it was decomposed."""
        return {} if self._effective_rank is None else {"effective_rank": self._effective_rank}

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce``, ``kd`` and ``nuclear``, the last times the warm-up."""
        terms = self.label_terms(student, batch, step)
        if step.wants("kd") and self.config.base == "kd":
            ours, theirs = self.pair(student, teacher)
            terms["kd"] = self._divergence(ours.logits, theirs.logits, self.config.temperature)
        if step.wants("nuclear"):
            ours, _ = self.pair(student, student)  # the teacher is not looked at
            terms["nuclear"] = warmup(step, self.config.warmup_share) * self._penalty(ours, batch)
        return terms

    def _penalty(self, student: Outputs, batch: Batch) -> Tensor:
        config, rows = self.config, self._rows(student)
        count, smaller = rows.shape[-2], min(rows.shape[-2:])
        if config.mode == "frobenius":
            return frobenius_norm(rows).mean() / math.sqrt(count)
        most = float(count)
        if config.normalise:
            rows, most = unit(rows, dim=-1), math.sqrt(count * smaller)
        if config.mode == "max_columns":
            return 1 - column_norm(rows).mean() / most
        values = singular_values(rows)
        self._effective_rank = spread(values).mean()
        norm = values.sum(dim=-1).mean() / most
        if config.mode == "ole":
            return class_nuclear_norm(rows, self.class_numbers(batch)) / most - norm
        return norm if config.mode == "min" else 1 - norm

    def _rows(self, student: Outputs) -> Tensor:
        """``[B,D]``, or ``[B,H W,C]`` for one matrix per image."""
        if self.config.tap == PREDICTIONS:
            return torch.softmax(student.logits, dim=1)
        feature = student.features[self.config.tap]
        return as_vectors(feature) if self.config.matrix == "batch" else as_map(feature).flatten(2).mT


def _contradictions(config: Nuclear.Config) -> list[str]:
    """Say which settings have no meaning together, each sentence opening with the setting."""
    problems: list[str] = []
    if config.mode == "frobenius" and config.normalise:
        problems.append("mode: frobenius is constant for rows of length 1; give normalise: false, or another mode")
    if config.mode == "ole" and not config.normalise:
        problems.append("mode: ole is made small by shrinking all features, if they may shrink; give normalise: true")
    if config.mode == "ole" and config.matrix == "image":
        problems.append("mode: ole compares classes, and the pixels of one image have none; give matrix: batch")
    if config.tap == PREDICTIONS and config.matrix == "image":
        problems.append("tap: predictions are no map; give matrix: batch")
    if config.base == "none" and (config.weights or {}).get("kd"):
        problems.append("weights.kd: base is none, so there is no kd; give base: kd")
    return problems
