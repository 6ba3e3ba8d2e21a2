import math

import numpy as np
import pytest

from sapling.errors import DataError
from sapling.evaluation.soft_targets import SoftTargets, memorised, soft_targets


def test_entropy_by_hand():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(20, 5)), rng.integers(0, 5, 20)
    total = 0.0
    for row in logits:
        weights = [math.exp(v) for v in row]
        total -= sum(w / sum(weights) * math.log(w / sum(weights)) for w in weights)
    found = soft_targets(logits, labels)
    assert found.entropy == pytest.approx(total / 20)
    assert found.top1 == (logits.argmax(1) == labels).mean()
    assert found.num_images == 20


def test_extremes():
    labels = np.arange(4)
    assert soft_targets(np.zeros((4, 4)), labels).entropy == pytest.approx(math.log(4))
    sure = soft_targets(1e4 * np.eye(4), labels)
    assert sure == SoftTargets(1.0, 0.0, pytest.approx(0.0), 4)
    assert sure.as_dict()["top1"] == 1.0
    with pytest.raises(DataError):
        soft_targets(np.full((2, 2), np.nan), [0, 1])


def test_overconfidence_is_miscalibration():
    logits = np.array([[9.0, 0.0]] * 10)
    assert soft_targets(logits, [0] * 5 + [1] * 5).ece == pytest.approx(0.5, abs=1e-3)


def answers(top1, entropy):
    return SoftTargets(top1, 0.0, entropy, 1000)


@pytest.mark.parametrize(
    ("train", "val", "expected"),
    [
        (answers(1.0, 0.01), answers(0.7, 0.6), True),
        (answers(0.998, 0.02), answers(0.694, 0.5), True),
        (answers(1.0, 0.002), answers(0.995, 0.03), False),  # an easy task: nothing is memorised
        (answers(0.78, 0.9), answers(0.72, 1.0), False),
        (answers(1.0, 0.5), answers(0.8, 0.9), False),  # mixup or smoothing: right, and still soft
        (answers(0.7, 0.3), answers(0.7, 0.3), False),
    ],
)
def test_memorised_means_right_and_sure_only_where_it_was_trained(train, val, expected):
    assert memorised(train, val) is expected
