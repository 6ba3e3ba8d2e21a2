"""The weighted sum is plain arithmetic, skips what has weight 0 and stops at what is not finite."""

import math

import pytest
import torch

from sapling import methods
from sapling.engine.objective import active_terms, check_finite, heavy_term, weighted_sum
from sapling.errors import MethodError, TrainingError
from sapling.types import PairInfo, Step


def test_sum_is_the_weighted_sum():
    terms = {"ce": torch.tensor(2.0), "kd": torch.tensor(3.0)}
    assert weighted_sum(terms, {"ce": 0.1, "kd": 0.9}).item() == pytest.approx(0.1 * 2 + 0.9 * 3)


def test_weight_one_leaves_the_bits_alone():
    term = torch.tensor(0.1, requires_grad=True)
    assert weighted_sum({"ce": term}, {"ce": 1.0, "kd": 0.0}) is term


def test_terms_of_weight_zero_are_not_wanted():
    assert active_terms({"ce": 1.0, "kd": 0.0}) == ("ce",)
    assert not Step(terms=("ce",)).wants("kd")
    assert Step(terms=("ce",)).wants("ce")
    assert Step().wants("kd")


def test_missing_and_shapeless_terms_are_refused():
    with pytest.raises(MethodError, match="no term 'kd'"):
        weighted_sum({"ce": torch.tensor(1.0)}, {"ce": 1.0, "kd": 1.0})
    with pytest.raises(MethodError, match="shape"):
        weighted_sum({"ce": torch.ones(2)}, {"ce": 1.0})
    with pytest.raises(MethodError, match=r"no term 'kd', .*; it gave ce, kdd"):
        weighted_sum({"ce": torch.tensor(1.0), "kdd": torch.tensor(1.0)}, {"ce": 1.0, "kd": 1.0})
    for wrong, message in ((None, "gave NoneType"), ([], "gave list"), ({"ce": 1.0}, "term 'ce' is float")):
        with pytest.raises(MethodError, match=message):
            weighted_sum(wrong, {"ce": 1.0})
    with pytest.raises(MethodError, match="nothing to learn"):
        weighted_sum({"ce": torch.tensor(1.0)}, {"ce": 0.0})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_names_term_epoch_and_remedy(value):
    with pytest.raises(TrainingError) as caught:
        check_finite({"ce": 1.0, "kd": value}, member="kd-s0", step=Step(epoch=4), batch=6)
    text = str(caught.value)
    assert text.startswith("training diverged: term 'kd'")
    assert "need another --output" in text
    assert "'kd'" in text
    assert "'kd-s0'" in text
    assert "epoch 5, batch 7" in text
    assert "try:" in text
    assert caught.value.exit_code == 1


def test_the_term_furthest_above_its_usual_weight_is_named():
    usual = {"ce": 0.1, "kd": 0.9, "at": 1000.0, "own": 0.0}
    assert heavy_term(usual, usual) is None
    assert heavy_term({"ce": 50.0, "kd": 9.0, "at": 10_000.0, "own": 5.0}, usual) is None
    advice = heavy_term({"ce": 1.0, "kd": 20.0, "at": 90_000.0}, usual)
    assert "of 'at': it is 90000, by itself 1000 (" in advice
    assert advice.endswith("; other settings need another --output")
    with pytest.raises(TrainingError) as caught:
        check_finite({"ce": math.nan}, member="m", step=Step(), batch=0, heavy="lower it")
    assert caught.value.remedy == "lower it"


@pytest.mark.parametrize("name", ["none", "kd", "dkd", "rkd", "kd+pkt", "sp+kd"])
def test_usual_weights_are_those_that_nobody_changed(name):
    shapes = {"embedding": (8,), **{f"stage{k}": (8, 4, 4) for k in range(1, 5)}}
    info = PairInfo(10, 100, shapes, shapes)
    assert methods.build(name, info).usual_weights == methods.build(name, info).weights
    if name == "kd+pkt":
        for options in ({"weights": {"kd": 500.0}}, {"kd": {"weights": {"kd": 500.0}}}):
            changed = methods.build(name, info, **options)
            assert (changed.weights["kd"], changed.usual_weights["kd"]) == (500.0, 1.0)
