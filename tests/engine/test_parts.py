"""Members do not know of each other: a list cut into several passes gives the weights that one pass gives."""

import pytest
import torch

from sapling.engine.trainer import fit

ARMS = [("control", "none", {}), ("kd", "kd", {"alpha": 0.5}), ("dkd", "dkd", {}), ("dist", "dist", {})]


def trained(make_member, data, settings, teacher, parts):
    found = {}
    for number, part in enumerate(parts):
        members = [make_member(name, method, **options) for name, method, options in part]
        for member in members:
            member.student.model.head_drop.p = 0.3  # whatever draws random numbers
        data.seen = []
        fit(members, data, settings(epochs=2, name=f"seed0-part{number + 1}"), teacher=teacher)
        for member in members:
            state = {**member.student.state_dict(), **{f"m.{k}": v for k, v in member.method.state_dict().items()}}
            found[member.name] = {k: v.clone() for k, v in state.items()}
        found[f"batches {number}"] = list(data.seen)
    return found


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 2), (3, 1)])
def test_parts_give_what_one_pass_gives(make_member, data, settings, teacher, sizes):
    whole = trained(make_member, data, settings, teacher, [ARMS])
    parts, left = [], list(ARMS)
    for size in sizes:
        parts.append(left[:size])
        left = left[size:]
    cut = trained(make_member, data, settings, teacher, parts)
    for number in range(len(parts)):
        assert cut[f"batches {number}"] == whole["batches 0"]
    for name, _, _ in ARMS:
        assert all(torch.equal(cut[name][k], v) for k, v in whole[name].items()), name
    assert not torch.equal(whole["kd"]["model.fc.weight"], whole["control"]["model.fc.weight"])
