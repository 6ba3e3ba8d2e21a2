"""Small methods that use what today's four do not: feature taps, own parts, phases, memory per image.

They show that the base class carries such methods; they are loaded from their files as a user's would be.
"""

from __future__ import annotations

from pathlib import Path

import torch

from sapling.types import Batch, Outputs, PairInfo

HEAD = '''"""{title}.

Only for tests of the base class.

Family: toys
Paper: none.
Year: none
Formula: {formula}
Defaults: none.
Departures: none.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from sapling.methods import Method, MethodConfig, Requires
from sapling.types import Phase, Taps
'''

HINT = (
    HEAD.format(title="A hint: the student's map, projected, should be the teacher's", formula="MSE(r(F_s), F_t)")
    + """

class Hint(Method):
    class Config(MethodConfig):
        stage: str = Field("stage4", description="which map")

    terms = ("ce", "hint")
    requires = Requires(labels=False)
    scales = {"hint": 100.0}

    @classmethod
    def taps(cls, config):
        return Taps(student=(config.stage,), teacher=(config.stage,))

    def __init__(self, config, info):
        super().__init__(config, info)
        c_s, c_t = info.student_shapes[config.stage][0], info.teacher_shapes[config.stage][0]
        self.projector = nn.Conv2d(c_s, c_t, 1)

    def forward(self, student, teacher, batch, step):
        terms = self.label_terms(student, batch, step)
        if step.wants("hint"):
            student, teacher = self.pair(student, teacher)
            stage = self.config.stage
            terms["hint"] = (self.projector(student.features[stage]) -
            teacher.features[stage]).square().mean()
        return terms
"""
)

TWO_PHASES = (
    HEAD.format(title="First an autoencoder of the teacher alone, then through it", formula="in two phases")
    + """

class TwoPhases(Method):
    class Config(MethodConfig):
        first_epochs: int = Field(2, ge=1, description="length of the first phase")

    terms = ("ce", "ae", "kd")
    requires = Requires(labels=False)

    @classmethod
    def taps(cls, config):
        return Taps(student=("embedding",), teacher=("embedding",))

    def __init__(self, config, info):
        super().__init__(config, info)
        (d_s,), (d_t,) = info.student_shapes["embedding"], info.teacher_shapes["embedding"]
        self.encoder = nn.Sequential(nn.Linear(d_t, 4), nn.BatchNorm1d(4))
        self.decoder = nn.Linear(4, d_t)
        self.adapter = nn.Linear(d_s, d_t)

    def phases(self):
        return [
            Phase("autoencoder", epochs=self.config.first_epochs, terms=("ae",), uses_student=False),
            Phase("train", terms=("ce", "kd"), frozen=("encoder", "decoder")),
        ]

    def forward(self, student, teacher, batch, step):
        terms = self.label_terms(student, batch, step)
        if step.wants("ae"):
            target = self.constant(teacher).features["embedding"]
            terms["ae"] = (self.decoder(self.encoder(target)) - target).square().mean()
        if step.wants("kd"):
            student, teacher = self.pair(student, teacher)
            hidden = self.encoder(self.adapter(student.features["embedding"]))
            terms["kd"] = (hidden - self.encoder(teacher.features["embedding"]).detach()).square().mean()
        return terms
"""
)

MEMORY = (
    HEAD.format(title="A memory of each image's last answer, with noise", formula="MSE(z_s, m[i])")
    + """

class Memory(Method):
    terms = ("ce", "memory")
    requires = Requires(labels=False, indices=True, teacher=False)

    def __init__(self, config, info):
        super().__init__(config, info)
        self.register_buffer("bank", torch.zeros(info.num_samples, info.num_classes))

    def forward(self, student, teacher, batch, step):
        terms = self.label_terms(student, batch, step)
        if step.wants("memory"):
            noise = torch.randn_like(student.logits)
            terms["memory"] = (student.logits + noise - self.bank[batch.indices]).square().mean()
            self.bank[batch.indices] = student.logits.detach().to(self.bank)
        return terms
"""
)

TOYS = {"hint": HINT, "two_phases": TWO_PHASES, "memory": MEMORY}


def write_toy(name: str, folder: Path) -> str:
    """Write the file of a toy; returns its path, which is its name for ``build``."""
    path = folder / f"{name}.py"
    path.write_text(TOYS[name])
    return str(path)


# ---- a synthetic pair: everything that a method may ask of two networks ----

K, N, B = 5, 40, 16
STUDENT_SHAPES = {"stage1": (4, 8, 8), "stage2": (6, 4, 4), "stage3": (8, 4, 4), "stage4": (8, 2, 2), "embedding": (8,)}
TEACHER_SHAPES = {
    "stage1": (6, 8, 8),
    "stage2": (8, 4, 4),
    "stage3": (12, 4, 4),
    "stage4": (16, 2, 2),
    "embedding": (16,),
}

# drawn after all else, so that no other number depends on them
STUDENT_MAPS = {"last_map": (8, 2, 2), "class_map": (K, 4, 4)}
TEACHER_MAPS = {"last_map": (16, 2, 2), "class_map": (K, 2, 2)}


def pair_info() -> PairInfo:
    g = torch.Generator().manual_seed(5)
    return PairInfo(
        num_classes=K,
        num_samples=N,
        student_shapes={**with_pre(STUDENT_SHAPES), **STUDENT_MAPS},
        teacher_shapes={**with_pre(TEACHER_SHAPES), **TEACHER_MAPS},
        train_labels=torch.arange(N) % K,
        teacher_card={
            "classifier.weight": torch.randn(K, 16, generator=g),
            "classifier.bias": torch.randn(K, generator=g),
        },
        student_places={"last_map": {"path": "0"}},
    )


def with_pre(shapes):
    return {**shapes, **{f"{k}.pre": v for k, v in shapes.items() if k.startswith("stage")}}


def outputs(seed: int, side: str, batch_size: int = B, dtype=torch.float32) -> Outputs:
    """Outputs as a network would give them: logits of scale 2, maps of any sign, stages after a ReLU."""
    g = torch.Generator().manual_seed(seed)
    shapes = with_pre(STUDENT_SHAPES if side == "student" else TEACHER_SHAPES)
    features = {}
    for name, shape in shapes.items():
        values = torch.randn(batch_size, *shape, generator=g, dtype=torch.float64).to(dtype)
        features[name] = values.relu() if name in STUDENT_SHAPES and name != "embedding" else values
    logits = torch.randn(batch_size, K, generator=g, dtype=torch.float64).to(dtype) * 2
    for name, shape in (STUDENT_MAPS if side == "student" else TEACHER_MAPS).items():
        features[name] = torch.randn(batch_size, *shape, generator=g, dtype=torch.float64).to(dtype)
    return Outputs(logits, features)


def batch(seed: int = 3, batch_size: int = B) -> Batch:
    g = torch.Generator().manual_seed(seed)
    return Batch(
        images=torch.rand(batch_size, 3, 8, 8, generator=g),
        labels=torch.randint(0, K, (batch_size,), generator=g),
        indices=torch.randperm(N, generator=g)[:batch_size],
        views=torch.zeros(batch_size, dtype=torch.int64),
    )
