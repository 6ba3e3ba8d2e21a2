"""The weighted sum is plain arithmetic, skips what has weight 0 and stops at what is not finite."""

import pytest
import torch

from sapling.engine.objective import active_terms, check_finite, weighted_sum
from sapling.errors import MethodError, TrainingError
from sapling.types import Step


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
    with pytest.raises(MethodError, match="nothing to learn"):
        weighted_sum({"ce": torch.tensor(1.0)}, {"ce": 0.0})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_names_term_epoch_and_remedy(value):
    with pytest.raises(TrainingError) as caught:
        check_finite({"ce": 1.0, "kd": value}, member="kd-s0", step=Step(epoch=4), batch=6)
    text = str(caught.value)
    assert "'kd'" in text
    assert "'kd-s0'" in text
    assert "epoch 5, batch 7" in text
    assert "try:" in text
    assert caught.value.exit_code == 1
