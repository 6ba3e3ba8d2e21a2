"""No step waits for a device: what is on it is never read, and what goes there is not waited for.

The device is torch's ``meta``, which has shapes and no numbers: whoever reads one there gets an error. Nothing here can
tell how long a GPU takes.
"""

import sys

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from sapling.data.answers import open_answers
from sapling.data.colour import counted
from sapling.data.loader import load_data
from sapling.data.viewspec import PRESETS
from sapling.data.workspace import moved
from sapling.teachers.build_cache import build_answers
from sapling.teachers.cached import CachedTeacher
from sapling.types import Batch, Outputs

TAPS = {"map": (4, 2, 2)}


class Travels(TorchFunctionMode):
    """Lets nothing travel to another device but by `moved`, which lets nobody wait."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.Tensor.to, torch.Tensor.cpu) and result.device != args[0].device:
            frame = sys._getframe()
            while frame is not None and frame.f_code is not moved.__code__:
                frame = frame.f_back
            assert frame is not None, "somebody waits for a copy"
        return result


class Live:
    """A teacher that says of an image what its number is."""

    shapes, taps_without_activation, card = TAPS, (), None

    def outputs(self, batch):
        numbers = batch.indices.float()
        return Outputs(numbers[:, None].expand(-1, 3), {"map": numbers[:, None, None, None].expand(-1, 4, 2, 2)})


def all_batches(data, device):
    found = [*data.train_batches(1, batch_size=4, seed=0, device=device)]
    found += data.eval_batches("val", batch_size=4, device=device)
    return found + list(data.view_batches(1, batch_size=4, device=device))


@pytest.mark.parametrize("views", PRESETS)
@pytest.mark.parametrize("mixing", [{}, {"mixup": 0.8, "cutmix": 1.0}])
def test_no_batch_waits_for_its_device(photos, views, mixing):
    data = load_data(photos, img_size=16, views=views, num_views=2, **mixing)
    assert data.store.images.dtype == np.uint8
    here = all_batches(data, "cpu")
    with Travels():
        there = all_batches(data, "meta")
    for one, other in zip(here, there, strict=True):
        assert one.known is not None
        for name in ("images", "labels", "indices", "views", "targets", "shares"):
            mine, theirs = getattr(one, name), getattr(other, name)
            assert (mine is None) == (theirs is None)
            assert mine is None or (mine.shape, mine.dtype, "meta") == (theirs.shape, theirs.dtype, theirs.device.type)
        for mine, theirs, seen in zip(one.on_cpu(), other.on_cpu(), (one.indices, one.views), strict=True):
            assert torch.equal(mine, seen)
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("mixing", [{}, {"mixup": 0.8}])
def test_no_kept_answer_waits_for_the_device_of_the_images(photos, tmp_path, mixing):
    data = load_data(photos, img_size=16, views="light", num_views=2, **mixing)
    taps = () if mixing else tuple(TAPS)
    store = open_answers({}, data.split.train, num_views=2, name="p", folder=tmp_path)
    build_answers(store, Live(), data, taps=taps, batch_size=20, device="cpu")
    cached = CachedTeacher(Live(), store, num_classes=3, taps=taps)
    (batch, *_) = data.train_batches(0, batch_size=4, seed=0, device="meta")
    with Travels():
        found = cached.outputs(batch)
    assert (found.logits.shape, found.logits.device.type) == ((4, 3), "meta")
    assert {name: (f.shape[1:], f.device.type) for name, f in found.features.items()} == {
        name: (TAPS[name], "meta") for name in taps
    }
    store.close()


def test_numbers_that_nobody_kept_are_fetched():
    batch = Batch(torch.zeros(2, 3, 4, 4), None, torch.tensor([5, 7]), torch.tensor([1, 1]))
    assert [n.tolist() for n in batch.on_cpu()] == [[5, 7], [1, 1]]


def test_numbers_are_counted_without_waiting_as_bincount_does():
    numbers = torch.randint(0, 90, (1000,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    assert torch.equal(counted(numbers, 100), torch.bincount(numbers, minlength=100))
