"""What ``diffkd`` and ``fdbd`` share: the student's feature is denoised as if it were a noisy teacher's.

A small diffusion model learns what the teacher's features look like. The student's feature, projected, is taken to be
such a feature with noise in it; a few steps of the model clean it, and the clean one is compared with the teacher's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sapling.blocks import (
    TRAIN_STEPS,
    Autoencoder,
    Denoiser,
    DiffusionSchedule,
    NoiseAdapter,
    as_map,
    blend,
    default_latent,
    map_shape,
    pooled,
    projector,
)
from sapling.errors import ConfigError, MethodError
from sapling.losses.divergence import check_standardize, kl_divergence, spatial_kl, standardize_logits
from sapling.methods.base import Method, MethodConfig, Requires, warmup
from sapling.methods.denoising import examine_branch, judge_branch
from sapling.methods.diffusion_settings import FEAT, LOGIT, OF_FIRST_PHASE, DiffusionConfig
from sapling.methods.weights import without
from sapling.types import LATENT, Batch, Outputs, PairInfo, Phase, Step, Taps

FIRST_PHASE = "denoiser"
DEFAULT_EPOCHS, DEFAULT_STEPS = 20, 2000


class Branch(nn.Module):
    """The parts for one pair of features; order and layers are those of DiffKD's code.

    Args:
        autoencoder: of the teacher's feature; None compares the feature itself (logits).
        denoiser: None for the ablation without one.
        student_channels: of the student's feature.
        latent: L, channels of what is compared.
        kernel_size: 3 for maps, 1 for logits.
        steps: of the chain.
        gamma_floor: least gamma.
    """

    def __init__(
        self,
        autoencoder: Autoencoder | None,
        denoiser: Denoiser | None,
        student_channels: int,
        latent: int,
        *,
        kernel_size: int,
        steps: int,
        gamma_floor: float = 0.0,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.translator = nn.Conv2d(student_channels, latent, 1)
        self.denoiser = denoiser
        self.noise_adapter = NoiseAdapter(latent, kernel_size) if denoiser is not None else None
        self.projector = projector(latent)
        self.schedule = DiffusionSchedule(steps)
        self.gamma_floor = gamma_floor

    def encode(self, teacher: Tensor) -> Tensor:
        """The teacher's latent ``[B,L,H,W]``."""
        return teacher if self.autoencoder is None else self.autoencoder.encode(teacher)

    def refine(self, student: Tensor, noise: Tensor | None = None) -> Tensor:
        """The student's feature ``[B,C,H,W]``, translated, denoised and projected: ``[B,L,H,W]``.

        ``noise`` stands in for what is drawn from torch's global generator.
        """
        x = self.translator(student)
        if self.denoiser is not None and self.noise_adapter is not None:
            gamma = self.gamma_floor + (1 - self.gamma_floor) * self.noise_adapter(x)
            drawn = torch.randn_like(x) if noise is None else noise
            x = self.schedule.denoise(blend(x, drawn, gamma), self.denoiser)
        refined: Tensor = self.projector(x)
        return refined

    def noise_loss(self, latent: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """Mean squared error of the predicted noise in a noisy ``latent [B,L,H,W]``; ``timestep [B]``."""
        if self.denoiser is None:
            raise MethodError("there is no denoiser: the setting denoiser is false")
        noisy = self.schedule.add_noise(latent, noise, timestep)
        return F.mse_loss(self.denoiser(noisy, timestep), noise)


class DiffusionMethod(Method):
    """Both presets; each is a file with its own docstring and default settings.

    The own terms are sums over the branches: ``diffkd`` compares, ``diff`` trains the denoiser, ``ae`` the autoencoder.
    """

    Config = DiffusionConfig
    config: DiffusionConfig
    terms = ("ce", "diffkd", "diff", "ae")
    own_terms = ("diff", "ae")
    requires = Requires(labels=False, min_batch=2, multi_label=True)

    @classmethod
    def requires_with(cls, config: MethodConfig) -> Requires:
        """One class per image, where logits are cleaned."""
        assert isinstance(config, DiffusionConfig)
        return replace(cls.requires, multi_label=LOGIT not in config.branches)

    @classmethod
    def asks_logits(cls, config: MethodConfig) -> bool:
        """Where there is a branch for them."""
        assert isinstance(config, DiffusionConfig)
        return LOGIT in config.branches

    @classmethod
    def taps(cls, config: MethodConfig) -> Taps:
        """The tapped feature of either network, unless only logits are compared."""
        assert isinstance(config, DiffusionConfig)
        if FEAT not in config.branches:
            return Taps()
        return Taps((config.tap,), (config.teacher_tap or config.tap,))

    @classmethod
    def latent_shapes(cls, config: MethodConfig, teacher: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Most that students hear in place of the teacher's feature where the autoencoder stands still; or nothing."""
        assert isinstance(config, DiffusionConfig)
        if config.joint or FEAT not in config.branches:
            return {}
        channels, height, width = map_shape(teacher[config.teacher_tap or config.tap])
        return {LATENT: (config.ae_channels or default_latent(channels), height, width)}

    def __init__(self, config: DiffusionConfig, info: PairInfo) -> None:
        """Build it; see :class:`Method`.

        Raises:
            ConfigError: a weight of something that the other settings leave out, or leave untrained.
            MethodError: the features cannot be compared.
        """
        if info.multi_label and LOGIT in config.branches:
            raise ConfigError(
                f"method {self.name!r}: the branch 'logit' compares the classes of an image, and these images may have "
                "several labels",
                remedy="--set method.branches=[feat]",
            )
        super().__init__(config, info)
        if config.normalise and LOGIT in config.branches:
            check_standardize(info.num_classes, self.name)
        self._leave_out()
        shapes = {name: self._shapes(name) for name in config.branches}
        # What phase 1 trains is drawn first: it then depends on nothing of the student.
        drawn = {name: self._teacher_parts(name, shapes[name][1]) for name in config.branches}
        self._latent: dict[str, int] = {name: latent for name, (_, _, latent) in drawn.items()}
        self.branches = nn.ModuleDict()
        for name, (autoencoder, denoiser, latent) in drawn.items():
            kernel = 3 if name == FEAT else 1
            channels = shapes[name][0][0]
            self.branches[name] = Branch(
                autoencoder,
                denoiser,
                channels,
                latent,
                kernel_size=kernel,
                steps=config.denoise_steps,
                gamma_floor=config.gamma_floor,
            )
        self._grids: dict[str, tuple[int, int]] = {
            name: (min(own[1], theirs[1]), min(own[2], theirs[2])) for name, (own, theirs) in shapes.items()
        }
        if config.feat_loss == "kl_spatial" and self._grids.get(FEAT) == (1, 1):
            raise ConfigError(
                f"method {self.name!r}: feat_loss kl_spatial compares positions, and {config.tap!r} has only one",
                remedy="--set method.feat_loss=kl_channel, or a tap with a larger map",
            )

    def forward(self, student: Outputs | None, teacher: Outputs | None, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Give ``ce``, and of ``diffkd``, ``diff`` and ``ae`` what the phase wants, each summed over the branches."""
        terms = self.label_terms(student, batch, step)
        wanted = [t for t in ("diffkd", "diff", "ae") if step.wants(t) and self.weights[t] > 0]
        if not wanted:
            return terms
        target = self.constant(teacher)
        if "diffkd" in wanted:
            student, target = self.pair(student, teacher)
        for name, branch in self._each():
            found = self._branch_terms(name, branch, student, target, step, wanted)
            if "diffkd" in found:
                found["diffkd"] = found["diffkd"] * warmup(step, self.config.warmup_share)
            for term, value in found.items():
                terms[term] = terms[term] + value if term in terms else value
        return terms

    def phases(self) -> list[Phase]:
        """One phase; or the teacher's side first, which then stands still while the student learns through it."""
        c = self.config
        if c.joint:
            return [Phase()]
        if not self.weights["diffkd"]:  # nobody would hear of what the first phase makes
            return [Phase(terms=("ce",))]
        parts = tuple(
            f"branches.{name}.{part}"
            for name, branch in self._each()
            for part in ("autoencoder", "denoiser")
            if getattr(branch, part) is not None
        )
        is_adam = c.phase1_optimizer == "adam"
        first = Phase(
            FIRST_PHASE if c.denoiser else "autoencoder",
            epochs=c.phase1_epochs or DEFAULT_EPOCHS,
            min_steps=0 if c.phase1_epochs else DEFAULT_STEPS,
            terms=("diff", "ae"),
            uses_student=False,
            parts=parts,
            optimizer="adamw" if is_adam else "sgd",
            lr=c.phase1_lr or (1e-3 if is_adam else 0.1),
            weight_decay=0.0 if is_adam else 1e-4,
        )
        last = Phase(terms=("ce", "diffkd"), frozen=parts)
        return [first, last] if parts else [last]

    def phase_inputs(self, phase: Phase) -> Mapping[str, Any]:
        """Phase 1 sees nothing of the student but the size of its map, so other students can use what it made."""
        c, taps = self.config, self.taps(self.config)
        used = ("branches", "denoiser", *OF_FIRST_PHASE)
        return {
            "settings": {k: v for k, v in c.model_dump(mode="json").items() if k in used},
            "tap": list(taps.teacher),
            "teacher_shapes": [list(self.info.teacher_shapes[t]) for t in taps.teacher],
            "grid": {name: list(grid) for name, grid in self._grids.items()},
            "latent": dict(self._latent),
            "weights": self.weights_in(phase),
        }

    def examine(self, phase: Phase, teacher: Iterable[Outputs]) -> dict[str, Any]:
        """Measure on held-out images whether phase 1 made a denoiser that denoises; see ``denoising.py``."""
        maps: dict[str, list[Tensor]] = {name: [] for name in self.config.branches}
        for outputs in teacher:
            constant = self.constant(outputs)
            for name, kept in maps.items():
                kept.append(self._teacher_map(name, constant))
        found: dict[str, Any] = {"branches": {}, "problems": []}
        for name, branch in self._each():
            measured = examine_branch(branch, maps[name])
            found["branches"][name] = measured
            found["problems"] += judge_branch(name, measured)
        found["passed"] = not found["problems"]
        return found

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """``(L,H,W)`` of :meth:`latents`."""
        return (self._latent[FEAT], *self._grids[FEAT])

    @torch.no_grad()
    def latents(self, teacher: Outputs) -> Tensor:
        """``[B,L,H,W]``: what ``forward`` makes of the teacher's feature in the phase with the student.

        It can be handed in instead, as a feature whose name begins with ``LATENT``.
        """
        return dict(self._each())[FEAT].encode(self._teacher_map(FEAT, self.constant(teacher)))

    def _each(self) -> Iterator[tuple[str, Branch]]:
        for name, branch in self.branches.items():
            assert isinstance(branch, Branch)
            yield name, branch

    def _branch_terms(
        self, name: str, branch: Branch, student: Outputs | None, target: Outputs, step: Step, wanted: list[str]
    ) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        kept = [v for k, v in target.features.items() if k.startswith(LATENT) and name == FEAT]
        source = kept[0] if kept else self._teacher_map(name, target)
        if "ae" in wanted and branch.autoencoder is not None:
            latent, rebuilt = branch.autoencoder(source)
            found["ae"] = F.mse_loss(rebuilt, source)
        else:
            with torch.no_grad():
                latent = source if kept else branch.encode(source)
        latent = latent.detach()
        if "diffkd" in wanted and student is not None:
            found["diffkd"] = self._distance(name, branch.refine(self._student_map(name, student)), latent)
        if "diff" in wanted:
            noise = torch.randn_like(latent)
            timestep = torch.randint(0, TRAIN_STEPS, (len(latent),), device=latent.device)
            # the autoencoder's head start: the denoiser's loss is shown and not learned from
            has_start = "ae" in wanted and branch.autoencoder is not None
            is_early = has_start and not self.config.joint and step.progress < self.config.ae_warmup_share
            with torch.set_grad_enabled(torch.is_grad_enabled() and not is_early):
                found["diff"] = branch.noise_loss(latent, noise, timestep)
        return found

    def _distance(self, name: str, student: Tensor, teacher: Tensor) -> Tensor:
        c = self.config
        if c.normalise:
            student, teacher = standardize_logits(student), standardize_logits(teacher)
        if name == LOGIT:
            return kl_divergence(student, teacher, c.temperature)
        if c.feat_loss == "mse":
            return c.mse_scale * F.mse_loss(student, teacher)
        if c.feat_loss == "kl_spatial":
            return spatial_kl(student, teacher, c.temperature)
        return kl_divergence(student, teacher, c.temperature, "positionmean")

    def _student_map(self, name: str, student: Outputs) -> Tensor:
        feature = student.logits if name == LOGIT else student.features[self.config.tap]
        return pooled(as_map(feature), self._grids[name])

    def _teacher_map(self, name: str, teacher: Outputs) -> Tensor:
        tap = self.config.teacher_tap or self.config.tap
        return pooled(as_map(teacher.logits if name == LOGIT else teacher.features[tap]), self._grids[name])

    def _shapes(self, name: str) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """``(C,H,W)`` of the student's feature and of the teacher's."""
        if name == LOGIT:
            return (self.info.num_classes, 1, 1), (self.info.num_classes, 1, 1)
        tap, teacher_tap = self.config.tap, self.config.teacher_tap or self.config.tap
        return map_shape(self.info.student_shapes[tap]), map_shape(self.info.teacher_shapes[teacher_tap])

    def _teacher_parts(self, name: str, shape: tuple[int, int, int]) -> tuple[Autoencoder | None, Denoiser | None, int]:
        if name == LOGIT:
            return None, Denoiser(shape[0], 1) if self.config.denoiser else None, shape[0]
        latent = self.config.ae_channels or default_latent(shape[0])
        autoencoder = Autoencoder(shape[0], latent)
        return autoencoder, Denoiser(latent, 3) if self.config.denoiser else None, latent

    def _leave_out(self) -> None:
        """Set the weight of terms without a part to 0, and refuse weights that can do nothing or harm."""
        c, reasons = self.config, {}
        if not c.denoiser:
            reasons["diff"] = "denoiser is false"
        if FEAT not in c.branches:
            reasons["ae"] = "the branch 'feat' is not among branches"
        self._weights = without(self._weights, reasons, c.weights, self.name)
        if c.joint or not self._weights["diffkd"]:
            return
        for term, part in (("diff", "denoiser"), ("ae", "autoencoder")):
            if term not in reasons and not self._weights[term]:
                raise ConfigError(
                    f"method {self.name!r}: with weights.{term} 0 the first phase leaves the {part} untrained, and the "
                    "second freezes it",
                    remedy=f"a weights.{term} above 0" + (", or denoiser: false" if term == "diff" else ""),
                )
