"""The moving average of weights: by hand, put in and taken out, through a kill."""

import pytest
import torch
from torch import nn

from sapling.engine.averaging import WARMUP_STEPS, Average
from sapling.engine.trainer import fit
from sapling.errors import RunError


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def state(network):
    return {k: v.clone() for k, v in network.state_dict().items()}


def test_the_average_is_the_one_written_down():
    network, expected = net(), None
    average = Average(network, 0.5)
    for step in range(30):
        with torch.no_grad():
            for p in network.parameters():
                p.add_(torch.randn_like(p))
        network(torch.randn(8, 3))  # moves the batch-norm statistics
        now = state(network)
        if expected is None:
            expected = state(net())
        decay = min(0.5, (1 + step) / (WARMUP_STEPS + step))
        for key, value in now.items():
            expected[key] = decay * expected[key] + (1 - decay) * value if value.is_floating_point() else value
        average.update(step)
    for key, value in expected.items():
        torch.testing.assert_close(average.state[key], value)
    assert average.state["1.num_batches_tracked"] == 30


def test_it_is_put_in_for_a_while_and_taken_out_to_the_bit():
    network = net()
    average = Average(network, 0.9)
    with torch.no_grad():
        network[0].weight.mul_(3)
    own = state(network)
    with pytest.raises(KeyError), average.applied():
        assert torch.equal(network[0].weight, average.state["0.weight"])
        raise KeyError
    assert all(torch.equal(own[k], v) for k, v in network.state_dict().items())


def test_a_foreign_average_is_refused():
    with pytest.raises(RunError, match="does not fit"):
        Average(net(), 0.9).load({"0.weight": torch.zeros(4, 3)})


def test_training_does_not_depend_on_it_and_ends_with_it(data, make_member, settings):
    plain, averaged = make_member("m"), make_member("m")
    averaged.ema_decay = 0.9
    seen = []

    def evaluate(member):
        seen.append(state(member.student))
        return {}

    fit([plain], data, settings())
    fit([averaged], data, settings(), evaluate=evaluate)
    final = state(averaged.student)
    assert all(torch.equal(seen[-1][k], v) for k, v in final.items())  # what was evaluated is what is kept
    assert any(not torch.equal(v, plain.student.state_dict()[k]) for k, v in final.items())
    optimizers = (m.optimizer.state_dict()["state"] for m in (plain, averaged))
    for own, other in zip(*(s.values() for s in optimizers), strict=True):
        assert torch.equal(own["momentum_buffer"], other["momentum_buffer"])


def test_it_survives_a_kill_to_the_bit(data, make_member, settings, tmp_path):
    def member():
        made = make_member("m")
        made.ema_decay = 0.9
        return made

    straight, broken, resumed = member(), member(), member()
    fit([straight], data, settings())

    def stop(rows):
        if rows[0]["epoch"] == 2:
            raise KeyboardInterrupt

    path = tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit([broken], data, settings(), report=stop, checkpoint=path)
    fit([resumed], data, settings(), checkpoint=path)
    assert all(torch.equal(v, resumed.student.state_dict()[k]) for k, v in straight.student.state_dict().items())
