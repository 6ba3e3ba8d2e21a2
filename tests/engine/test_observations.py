"""What a method sees beside its terms is logged and changes nothing."""

from __future__ import annotations

from sapling.engine.trainer import fit
from tests.engine.test_trainer import bits, same


def test_the_effective_rank_is_in_the_record_and_in_no_loss(data, make_member, teacher, settings):
    options = {"tap": "predictions", "warmup_share": 0, "alpha": 0.5}
    rows = []
    seen, unseen = make_member("a", "nuclear", **options), make_member("b", "nuclear", **options)
    unseen.method.observations = dict
    fit([seen, unseen], data, settings(2), teacher=teacher, report=rows.extend)
    first, second = rows[-2]["train"], rows[-1]["train"]
    assert set(first) == {"ce", "kd", "nuclear", "_effective_rank", "loss"}
    assert set(second) == set(first) - {"_effective_rank"}
    assert 1 <= first["_effective_rank"] <= 3  # three classes
    assert first["loss"] == second["loss"]
    assert same(bits(seen), bits(unseen))
