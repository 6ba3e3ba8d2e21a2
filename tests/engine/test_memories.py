"""Methods that remember something of each image: a killed pass goes on to the same bits, memory included."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
import torch

from sapling import methods
from sapling.engine.optim import OptimSettings
from sapling.engine.trainer import Member, fit
from sapling.models.create import create_model
from sapling.models.tapped import TappedModel
from sapling.teachers.live import LiveTeacher
from sapling.types import PairInfo
from tests.engine.conftest import CLASSES, NUM, PREPROCESS, SIZE, TinyData

CASES = {"ps_kd": {}, "crd": {"negatives": "memory", "num_negatives": 12, "num_dimensions": 8}, "byot": {}}
PLACES = torch.arange(NUM) * 2 + 5  # other images of the store are no training images


class Stop(Exception):
    pass


class Placed(TinyData):
    """The same images, with the numbers that a store would give them."""

    def train_batches(self, *args, **kwargs):
        for batch in super().train_batches(*args, **kwargs):
            yield dataclasses.replace(batch, indices=PLACES[batch.indices])


def bits(state):
    whole = hashlib.sha256()
    for name, value in sorted(state.items()):
        whole.update(name.encode() + value.contiguous().numpy().tobytes())
    return whole.hexdigest()


def network(name, taps, seed):
    return TappedModel(create_model(name, num_classes=CLASSES, img_size=SIZE, seed=seed), PREPROCESS, taps)


def make(name, teacher):
    taps = methods.taps(name, **CASES[name])
    student = network("cnn3", taps.student, 0)
    labels = torch.arange(NUM) % CLASSES
    info = PairInfo(CLASSES, NUM, student.shapes, teacher.shapes, train_labels=labels, train_indices=PLACES)
    torch.manual_seed(3)
    method = methods.build(name, info, **CASES[name])
    return Member(name, name, 0, student, method, OptimSettings("sgd", 0.02, 1e-3, "cosine", 2, 16))


@pytest.mark.parametrize("name", CASES)
def test_resumed_is_bit_identical(name, settings, tmp_path):
    calls = []
    tapped = network("cnn4", methods.taps(name, **CASES[name]).teacher, 9)
    tapped.model.register_forward_hook(lambda *_: calls.append(1))
    teacher = LiveTeacher(tapped, device="cpu", bf16=False, channels_last=True)
    calls.clear()
    straight, broken, resumed = (make(name, teacher) for _ in range(3))
    start = bits(straight.method.state_dict())

    def stop(rows):
        if rows[0]["epoch"] == 2:
            raise Stop

    path = tmp_path / "seed0.safetensors"
    fit([straight], Placed(), settings(), teacher=teacher)
    with pytest.raises(Stop):
        fit([broken], Placed(), settings(), teacher=teacher, report=stop, checkpoint=path)
    fit([resumed], Placed(), settings(), teacher=teacher, checkpoint=path)
    for part in ("student", "method"):
        first, second = (getattr(m, part).state_dict() for m in (straight, resumed))
        assert bits(first) == bits(second), part
    assert bits(straight.method.state_dict()) != start
    assert bool(calls) == (name == "crd")  # a method without a teacher never asks it
