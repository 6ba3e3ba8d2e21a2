"""A tiny world: random images in place of data, a small network, one thread."""

import numpy as np
import pytest
import torch

from sapling import methods
from sapling.engine.optim import OptimSettings
from sapling.engine.trainer import Member, PassSettings
from sapling.models.create import create_model
from sapling.models.load import Preprocess
from sapling.models.tapped import TappedModel
from sapling.teachers.live import LiveTeacher
from sapling.types import Batch, PairInfo

CLASSES, SIZE, NUM = 4, 16, 40
PREPROCESS = Preprocess(SIZE, SIZE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class TinyData:
    """Forty images that can be told apart by their colour; order and noise by (seed, epoch)."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(NUM) % CLASSES
        self.images = torch.rand(NUM, 3, SIZE, SIZE, generator=generator) * 0.5
        self.images[:, 0] += 0.12 * self.labels.view(-1, 1, 1)
        self.seen = []

    def num_batches(self, batch_size):
        return NUM // batch_size

    def train_batches(self, epoch, *, batch_size, seed, device="cpu", channels_last=True):
        order = np.random.default_rng([seed, epoch]).permutation(NUM)
        for k in range(self.num_batches(batch_size)):
            index = torch.from_numpy(order[k * batch_size : (k + 1) * batch_size])
            self.seen.append((epoch, index.tolist()))
            views = torch.full_like(index, epoch)
            yield Batch(self.images[index].to(memory_format=torch.channels_last), self.labels[index], index, views)


@pytest.fixture
def data():
    return TinyData()


@pytest.fixture
def make_member():
    def make(name, method="none", *, seed=0, steps=16, optimizer="sgd", architecture="cnn3", lr=0.02, **options):
        model = create_model(architecture, num_classes=CLASSES, img_size=SIZE, seed=seed)
        optim = OptimSettings(optimizer, lr, 1e-3, "cosine", 2, steps)
        built = methods.build(method, PairInfo(CLASSES, NUM), **options)
        return Member(name, name, seed, TappedModel(model, PREPROCESS), built, optim)

    return make


@pytest.fixture
def teacher():
    model = create_model("cnn4", num_classes=CLASSES, img_size=SIZE, seed=9)
    return LiveTeacher(TappedModel(model, PREPROCESS), device="cpu", bf16=False, channels_last=True)


@pytest.fixture
def settings():
    def make(epochs=4, **changes):
        base = {
            "name": "seed0",
            "epochs": epochs,
            "batch_size": 10,
            "seed": 0,
            "device": "cpu",
            "bf16": False,
            "channels_last": True,
        }
        return PassSettings(**{**base, **changes})

    return make
