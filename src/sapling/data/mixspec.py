"""Settings of mixup and CutMix. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from sapling.errors import ConfigError


@dataclass(frozen=True, slots=True)
class MixSpec:
    """How images of a batch are mixed.

    Attributes:
        mixup: alpha of mixup (Zhang et al. 2018); 0: off. The share of the image itself is drawn from
            Beta(alpha, alpha) for each image.
        cutmix: alpha of CutMix (Yun et al. 2019); 0: off. Where both are on, each image gets one of them.
        share: probability that an image is mixed at all.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    share: float = 1.0

    def __post_init__(self) -> None:
        for name, most in (("mixup", 100), ("cutmix", 100), ("share", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"{name} is {getattr(self, name)}", allowed=f"0 to {most}")

    @property
    def is_on(self) -> bool:
        """Whether anything is mixed."""
        return (self.mixup > 0 or self.cutmix > 0) and self.share > 0
