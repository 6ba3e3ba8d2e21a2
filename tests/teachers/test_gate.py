"""Good teachers pass, planted bad ones are stopped by name."""

import numpy as np
import pytest

from sapling.errors import GateError
from sapling.teachers.gate import Check, GateResult, check_answers, check_classes, stop_if_failed


def answers(accuracy, *, num=400, classes=10, seed=0, permute=False):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, num)
    logits = rng.normal(size=(num, classes)).astype(np.float32)
    sure = rng.random(num) < accuracy
    told = (labels + 1) % classes if permute else labels
    logits[sure, told[sure]] += 20
    return logits, labels


def gate(logits, labels, accept_weak=False):
    return stop_if_failed(check_answers(logits, labels), accept_weak=accept_weak, where="teacher x")


@pytest.mark.parametrize("seed", range(20))
def test_good_teachers_pass(seed):
    assert gate(*answers(0.2 + 0.04 * seed, seed=seed, classes=2 + seed)).passed


@pytest.mark.parametrize("seed", range(10))
def test_random_head_is_stopped_by_name(seed):
    with pytest.raises(GateError, match="random head"):
        gate(*answers(0.0, seed=seed))


def test_always_the_largest_class_is_a_random_head():
    labels = np.array([0] * 90 + [1] * 10)
    logits = np.zeros((100, 2), np.float32)
    logits[:, 0] = 5
    with pytest.raises(GateError, match="random head"):
        gate(logits, labels)


def test_two_swapped_classes_of_ten_are_stopped_by_name():
    logits, labels = answers(0.95)
    logits[:, [3, 7]] = logits[:, [7, 3]]
    with pytest.raises(GateError, match=r"permuted class order .*\[3, 7\]"):
        gate(logits, labels)


def test_a_teacher_that_knows_the_small_class_passes_although_the_large_one_is_a_better_bet():
    labels = np.array([0] * 190 + [1] * 10)
    predicted = labels.copy()
    predicted[[190, 191, 0]] = [0, 0, 1]
    assert gate(np.eye(2, dtype=np.float32)[predicted], labels).passed


def test_too_few_validation_images_are_called_that():
    labels = np.array([0, 0, 1, 1])
    with pytest.raises(GateError, match="too few validation images"):
        gate(np.eye(2, dtype=np.float32)[labels], labels)


def test_a_weak_but_honest_teacher_of_many_classes_passes():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), 2)
    logits = rng.normal(size=(200, 100)).astype(np.float32)
    logits[np.arange(200), labels] += 2.0
    assert gate(logits, labels).passed


def test_permuted_classes_are_stopped_by_name():
    with pytest.raises(GateError, match="pass the gate: permuted class order"):
        gate(*answers(0.9, permute=True))


def test_broken_weights_are_stopped_by_name():
    logits, labels = answers(0.9)
    logits[3, 2] = np.nan
    with pytest.raises(GateError, match=r"broken weights"):
        gate(logits, labels)


def test_override_goes_on_and_is_recorded():
    result = gate(*answers(0.0), accept_weak=True)
    assert result.as_dict()["overridden"] is True
    assert result.as_dict()["passed"] is False
    assert gate(*answers(0.9), accept_weak=True).as_dict()["overridden"] is False


def test_class_lists():
    check_classes(["a", "b"], ["a", "b"], where="t")
    with pytest.raises(GateError, match="class count: the teacher answers with 3 classes, the data has 2"):
        check_classes(["a", "b", "c"], ["a", "b"], where="t")
    with pytest.raises(GateError, match="class order"):
        check_classes(["b", "a"], ["a", "b"], where="t")
    check_classes(["0", "1"], ["a", "b"], where="t")  # a card without names: its answers will tell the order
    with pytest.raises(GateError, match="class count: the teacher answers with 3"):
        check_classes(["0", "1", "2"], ["a", "b"], where="t")
    with pytest.raises(GateError, match="class names: the teacher knows 'c'"):
        check_classes(["a", "c"], ["a", "b"], where="t")


def test_what_explains_the_rest_is_named_first():
    names = ["above chance", "preprocessing", "class order", "finite answers"]
    failed = GateResult(tuple(Check(name, False, "x") for name in names))
    with pytest.raises(GateError, match=r"broken weights .*permuted class order .*wrong preprocessing .*random head"):
        stop_if_failed(failed, accept_weak=False, where="t")
    with pytest.raises(GateError, match="correct input_size, mean and std"):
        stop_if_failed(GateResult((Check("preprocessing", False, "x"),)), accept_weak=False, where="t")


@pytest.mark.parametrize("seed", range(5))
def test_a_fresh_head_on_a_trained_body_is_a_random_head_although_each_class_gets_its_own_name(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, 400)
    body = np.eye(10, dtype=np.float32)[labels] + rng.normal(scale=0.2, size=(400, 10)).astype(np.float32)
    logits = body @ rng.normal(scale=0.3, size=(10, 10)).astype(np.float32)
    with pytest.raises(GateError, match="pass the gate: random head") as caught:
        gate(logits, labels)
    assert "permuted" not in str(caught.value)


def test_of_two_explanations_the_one_that_mends_more_is_kept():
    order, chance = Check("class order", False, "o", 0.5), Check("above chance", False, "c")
    for accuracy, named, other in ((0.7, "preprocessing", "class order"), (0.2, "class order", "preprocessing")):
        result = GateResult((chance, order)).joined(Check("preprocessing", False, "p", accuracy))
        assert [c.name for c in result.checks if not c.passed] == ["above chance", named]
        (aside,) = [c for c in result.checks if c.name == other]
        assert f"{named} explains more" in aside.detail
    passed = GateResult((chance, order)).joined(Check("preprocessing", True, "p"))
    assert [c.name for c in passed.checks if not c.passed] == ["above chance", "class order"]


def test_classes_that_are_merely_alike_are_not_permuted():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 100)
    told = labels.copy()
    for one, two in ((0, 1), (1, 0), (2, 3), (3, 2)):  # a third keeps its own name: a poor teacher, no swap
        mine = np.flatnonzero(labels == one)
        told[rng.permutation(mine)[:67]] = two
    logits = (4 * np.eye(6)[told] + rng.normal(size=(600, 6))).astype(np.float32)
    assert gate(logits, labels).passed
