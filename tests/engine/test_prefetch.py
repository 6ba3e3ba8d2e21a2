"""Batches made one ahead in a thread: the same ones in the same order, and the thread never outlives its use."""

import itertools
import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sapling.data.workspace import moved
from sapling.engine.prefetch import ahead
from sapling.engine.trainer import GPU_CHECK_STEPS, fit

OTHER = "cpu:0"
"""The CPU under a name that the trainer does not know as the CPU: it then does what it does for a GPU."""


def threads():
    return [t for t in threading.enumerate() if t.name == "sapling-batches"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    assert not threads()
    yield
    assert not threads()


@pytest.mark.parametrize("number", [0, 1, 2, 50])
def test_all_items_in_their_order(number):
    with ahead(iter(range(number)), in_thread=True) as ready:
        assert list(ready) == list(range(number))
        assert next(ready, None) is None


def test_made_in_another_thread_and_only_one_ahead():
    made, makers = [], set()
    two_made = threading.Event()

    def batches():
        for k in itertools.count():
            makers.add(threading.current_thread().name)
            made.append(k)
            if k == 1:
                two_made.set()
            yield k

    with ahead(batches(), in_thread=True) as ready:
        assert next(ready) == 0
        assert two_made.wait(10)  # the next one is made while nobody asks for it
        for k in range(1, 20):
            assert next(ready) == k
            assert len(made) <= k + 2
    assert makers == {"sapling-batches"}
    assert len(made) <= 21


def test_not_in_a_thread_where_it_does_not_pay():
    batches = iter([1, 2])
    with ahead(batches, in_thread=False) as ready:
        assert ready is batches


def test_an_error_is_raised_where_the_batch_is_taken():
    def batches():
        yield 0
        raise OSError("disk")

    with ahead(batches(), in_thread=True) as ready:
        assert next(ready) == 0
        with pytest.raises(OSError, match="disk"):
            next(ready)


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_leaving_early_ends_the_thread(taken):
    with pytest.raises(ZeroDivisionError), ahead(itertools.count(), in_thread=True) as ready:
        for _ in range(taken):
            next(ready)
        assert threads()
        raise ZeroDivisionError
    assert not threads()


def weights(member):
    return {k: v.clone() for part in (member.student, member.method) for k, v in part.state_dict().items()}


def test_training_is_bit_identical_with_and_without(data, make_member, settings, teacher):
    found, seen = [], []
    for device in ("cpu", OTHER):
        members = [make_member("control"), make_member("kd", "kd", alpha=0.5)]
        data.seen = []
        fit(members, data, settings(epochs=2, device=device), teacher=teacher)
        found.append([weights(m) for m in members])
        seen.append(data.seen)
    assert seen[0] == seen[1]
    for one, other in zip(*found, strict=True):
        assert all(torch.equal(one[k], other[k]) for k in one)


def test_a_failing_member_leaves_no_thread(data, make_member, settings, monkeypatch):
    member = make_member("control")

    def explode(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(member.student, "forward", explode)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit([member], data, settings(epochs=1, device=OTHER))


class Waits(TorchDispatchMode):
    """Counts what makes the processor wait for a device: a number read from a tensor."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_no_step_waits_for_a_device(data, make_member, settings, teacher, optimizer):
    members = [make_member("control", optimizer=optimizer), make_member("kd", "kd", optimizer=optimizer)]
    counts = []

    class Look:
        def __init__(self, mode):
            self.mode = mode

        def advance(self, steps, note):
            counts.append(self.mode.count)

    # 20 steps an epoch
    with Waits() as mode:
        fit(members, data, settings(epochs=1, batch_size=2, device=OTHER), teacher=teacher, watcher=Look(mode))
    steps = [after - before for before, after in itertools.pairwise([0, *counts])]
    assert len(steps) == 20 == GPU_CHECK_STEPS
    assert steps[0] > 0  # the first and the last step are checked
    assert steps[-1] > 0
    assert not any(steps[1:-1])


def test_to_a_gpu_through_pinned_memory(monkeypatch):
    done = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: done.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *a, **k: done.append((a, k)) or self)
    values, gpu = torch.zeros(3), torch.device("cuda")
    moved(values, gpu)
    assert done == ["pinned", ((gpu,), {"non_blocking": True})]
    done.clear()
    moved(values, torch.device("cpu"))
    assert done == [((torch.device("cpu"),), {})]
