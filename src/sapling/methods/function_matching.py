"""Distillation as function matching: copy the teacher's answers to mixed images, for long, and never look at a label.

A patient and consistent teacher: both networks see the very same picture (as always here), pictures are mixed so that
there are more of them than the data hold, and training goes on for much longer than for a classifier. It is ``kd``
without the labels; mixing (``--mixup 1``) and epochs belong to the run, as the control shares them.

Family: logits
Paper: Beyer, Zhai, Royer, Markeeva, Anil, Kolesnikov: Knowledge distillation: A good teacher is patient and consistent,
    arXiv:2106.05237, CVPR
Year: 2022
Formula: L = T^2 KL(softmax(z_t / T) || softmax(z_s / T)), mean over the batch
Defaults: T = 1, no label term: the authors' on ImageNet. On their small sets they tried T = 1 to 10: 10, 1, 1 were best
    on Flowers, 5, 10, 2 on Pets, from the shortest schedule to the longest. Around it they have mixup of every image,
    1,200 epochs on ImageNet, 1,000 to a million on the small sets, batches of 512 (4,096), Adam, weight decay 1e-5 to
    3e-4 and gradients clipped at norm 1: --mixup 1 --epochs 1000 --set train.optimizer=adamw --set train.clip_norm=1.
Departures: alpha is a setting as everywhere here, and 0. Optimiser, schedule and crops stay those of the run: one
    method must not be trained otherwise than its control, which mixes its labels. Without mixup, or in few epochs, it
    runs and says that the recipe is not followed; where patience begins (300 epochs) is ours.
Reference: ImageNet, top-1 in %: ResNet-50 82.8; the paper's code.
"""

from __future__ import annotations

from pydantic import Field

from sapling.methods.base import MethodConfig
from sapling.methods.kd import KD

PATIENT_EPOCHS = 300
"""Fewer are said to be no long run; the paper's shortest has 1,000."""


class FunctionMatching(KD):
    """KL divergence to the teacher's answer and nothing else."""

    class Config(KD.Config):
        """Settings of function_matching."""

        temperature: float = Field(1.0, gt=0, le=1000, description="softens both answers; 1 leaves them as they are")

    config: Config
    default_alpha = 0.0

    @classmethod
    def notes(cls, config: MethodConfig, *, mixes: bool, epochs: int) -> list[str]:
        """Say where the run is not the recipe."""
        found = []
        if not mixes:
            found.append("function_matching asks the teacher about mixed images, and mixing is off: --mixup 1")
        if epochs < PATIENT_EPOCHS:
            found.append(
                f"function_matching is for long runs, and this one has {epochs} epochs: --epochs {PATIENT_EPOCHS} or "
                "more"
            )
        return found
