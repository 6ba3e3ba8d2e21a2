"""Settings of ``diffkd`` and ``fdbd``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from sapling.methods.base import MethodConfig

FEAT, LOGIT = "feat", "logit"
OF_FIRST_PHASE = ("phase1_epochs", "phase1_lr", "phase1_optimizer", "ae_warmup_share")


class DiffusionConfig(MethodConfig):
    """Settings of both presets; the defaults are those of fdbd."""

    tap: str = Field("stage4", description="feature of the student, and of the teacher where teacher_tap is not given")
    teacher_tap: str | None = Field(None, description="feature of the teacher; None: as tap")
    branches: tuple[Literal["feat", "logit"], ...] = Field(
        ("feat",), min_length=1, max_length=2, description="what is denoised: the feature, the logits, or both"
    )
    feat_loss: Literal["kl_channel", "kl_spatial", "mse"] = Field(
        "mse", description="distance of latents: squared error, KL over channels per position, KL over positions"
    )
    mse_scale: float = Field(10.0, gt=0, le=1e6, description="factor of the squared error of feat_loss mse")
    temperature: float = Field(1.0, gt=0, le=1000, description="of the KL divergences, of latents and logits")
    ae_channels: int | None = Field(None, ge=8, le=8192, description="of the latent; None: half of the teacher's")
    denoise_steps: int = Field(5, ge=1, le=50, description="steps of the chain; each costs a pass through the denoiser")
    gamma_floor: float = Field(
        0.0, ge=0, lt=1, description="least share of the student's latent in what is cleaned; 0: the adapter alone says"
    )
    normalise: bool = Field(False, description="standardise latents over channels, per position, before the distance")
    warmup_share: float = Field(0.0, ge=0, lt=1, description="share of training in which the distance's weight rises")
    denoiser: bool = Field(True, description="false: the same projection and loss without denoiser, an ablation")
    joint: bool = Field(False, description="train everything at once, as DiffKD; false: denoiser first, then frozen")
    phase1_epochs: int | None = Field(
        None, ge=1, le=100_000, description="epochs on the teacher alone; None: 20, or 2,000 steps where that is more"
    )
    phase1_lr: float | None = Field(
        None, gt=0, le=100, description="highest rate of its cosine; None: 0.001 (adam), 0.1 (sgd)"
    )
    phase1_optimizer: Literal["adam", "sgd"] = Field("adam", description="of the phase on the teacher alone")
    ae_warmup_share: float = Field(
        0.2, ge=0, lt=1, description="share of that phase in which the autoencoder learns alone"
    )

    @model_validator(mode="after")
    def _settings_fit(self) -> DiffusionConfig:
        if len(set(self.branches)) != len(self.branches):
            raise ValueError(f"branches: {', '.join(self.branches)}: each at most once; allowed: feat, logit")
        for name, why in self._idle().items():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: changes nothing {why}")
        return self

    def _idle(self) -> dict[str, str]:
        """Settings that change nothing beside the others, and why."""
        found: dict[str, str] = {}
        if not self.denoiser:
            names = ("gamma_floor", "denoise_steps", "ae_warmup_share")
            found |= dict.fromkeys(names, "while denoiser is false")
        if self.joint:
            found |= dict.fromkeys(OF_FIRST_PHASE, "while joint is true, as there is only one phase")
        if FEAT not in self.branches:
            found |= dict.fromkeys(("feat_loss", "mse_scale", "ae_channels"), "unless branches has feat")
        elif self.feat_loss != "mse":
            found["mse_scale"] = "unless feat_loss is mse"
        elif LOGIT not in self.branches:
            found["temperature"] = "while squared errors are compared (feat_loss mse)"
        return found
