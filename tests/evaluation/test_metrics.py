"""Measures against scikit-learn and torchmetrics, and at their edges."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from torch import nn
from torchmetrics.functional.classification import multiclass_calibration_error

from sapling.errors import DataError, UsageError
from sapling.evaluation import classification_metrics, collect_logits
from sapling.evaluation.metrics import binary_auc, roc_points
from sapling.types import Batch, Outputs


def random_answers(num_classes: int, n: int = 300, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(num_classes)
    labels = rng.integers(0, num_classes, n)
    logits = rng.normal(size=(n, num_classes)) * scale
    logits[np.arange(n), labels] += 1.5
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("num_classes", [2, 5, 6, 40])
def test_measures_match_scikit_learn(num_classes: int) -> None:
    logits, labels = random_answers(num_classes)
    found = classification_metrics(logits, labels, num_classes)
    predicted, every = logits.argmax(1), np.arange(num_classes)
    probabilities = torch.from_numpy(logits).double().softmax(1).numpy()
    options = {"average": "macro", "labels": np.unique(labels), "zero_division": 0}
    assert found["top1"] == pytest.approx(reference.accuracy_score(labels, predicted))
    assert found["macro_f1"] == pytest.approx(reference.f1_score(labels, predicted, **options))
    assert found["macro_precision"] == pytest.approx(reference.precision_score(labels, predicted, **options))
    assert found["macro_recall"] == pytest.approx(reference.recall_score(labels, predicted, **options))
    assert found["nll"] == pytest.approx(reference.log_loss(labels, probabilities, labels=every))
    assert found["confusion"] == reference.confusion_matrix(labels, predicted, labels=every).tolist()
    if num_classes > 5:
        assert found["top5"] == pytest.approx(reference.top_k_accuracy_score(labels, logits, k=5, labels=every))
    else:
        assert found["top5"] is None
    ece = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels), num_classes, n_bins=15, norm="l1"
    )
    assert found["ece"] == pytest.approx(float(ece), abs=1e-6)
    assert found["num_images"] == 300


def test_measures_are_json() -> None:
    json.dumps(classification_metrics(*random_answers(7), 7), allow_nan=False)


def test_absent_classes_count_in_no_macro_mean() -> None:
    logits = np.array([[2.0, 0, 0], [0, 2.0, 0], [0, 0, 2.0]])
    found = classification_metrics(logits, np.array([0, 1, 1]), 3)
    assert found["per_class_recall"] == [1.0, 0.5, None]
    assert found["macro_recall"] == 0.75
    assert found["macro_precision"] == 1.0
    assert found["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["worst_class_recall"] == 0.5


def test_class_that_is_never_predicted_has_precision_zero() -> None:
    found = classification_metrics(np.array([[1.0, 0], [1.0, 0]]), np.array([0, 1]), 2)
    assert found["macro_precision"] == 0.25
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_ties_go_to_the_lower_class_as_in_argmax() -> None:
    """A network that says nothing must not be right in its top 5 always."""
    found = classification_metrics(np.zeros((10, 10)), np.arange(10), 10)
    assert found["top1"] == 0.1
    assert found["top5"] == 0.5
    low_classes = classification_metrics(np.zeros((10, 10)), np.zeros(10, int), 10)
    assert (low_classes["top1"], low_classes["top5"]) == (1.0, 1.0)


def test_huge_logits_stay_finite() -> None:
    found = classification_metrics(np.array([[3e4, -3e4], [3e4, -3e4]], np.float32), np.array([0, 1]), 2)
    assert found["nll"] == pytest.approx(3e4)


def test_confidence_one_and_right_is_perfectly_calibrated() -> None:
    found = classification_metrics(np.eye(4) * 1e3, np.arange(4), 4)
    assert found["ece"] == 0.0
    assert found["nll"] == 0.0


@pytest.mark.parametrize(
    ("logits", "labels", "error", "said"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), DataError, "no images"),
        (np.zeros((2, 4)), np.zeros(2, int), UsageError, "3 classes"),
        (np.zeros((2, 3)), np.zeros(3, int), UsageError, "3 classes"),
        (np.zeros((2, 3)), np.array([0, 3]), DataError, "from 0 to 2"),
        (np.zeros((2, 3)), np.array([-1, 0]), DataError, "from 0 to 2"),
        (np.array([[0, 1, np.nan], [0, 1, 2]]), np.array([0, 1]), DataError, "not finite"),
    ],
)
def test_wrong_input_is_said(logits, labels, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        classification_metrics(logits, labels, 3)


class Small(nn.Module):
    """Answers otherwise in train mode, and holds a part that is frozen in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.frozen = nn.Dropout(0.5), nn.BatchNorm2d(3).eval()

    def forward(self, images: torch.Tensor) -> Outputs:
        assert not torch.is_grad_enabled()
        return Outputs(self.drop(self.frozen(images)).mean((2, 3)) @ torch.ones(3, 3))


def batches(count: int) -> list[Batch]:
    made = []
    for k in range(count):
        images = torch.full((4, 3, 2, 2), float(k))
        indices = torch.arange(4) + 4 * k
        made.append(Batch(images, indices % 3, indices, torch.zeros(4, dtype=torch.int64)))
    return made


def test_logits_come_in_order_from_eval_mode_and_the_mode_comes_back() -> None:
    model = Small()
    logits, labels = collect_logits(model, batches(3))
    assert logits.dtype == np.float32
    assert logits.shape == (12, 3)
    np.testing.assert_allclose(logits[:, 0], np.repeat([0.0, 3.0, 6.0], 4), atol=1e-4)
    assert labels.tolist() == (np.arange(12) % 3).tolist()
    assert model.training
    assert model.drop.training
    assert not model.frozen.training


def test_logits_can_be_collected_in_half_precision() -> None:
    seen = []

    def model(images: torch.Tensor) -> Outputs:
        out = images.mean((2, 3)) @ torch.ones(3, 3)
        seen.append(out.dtype)
        return Outputs(out)

    logits, _ = collect_logits(model, batches(1), autocast=torch.bfloat16)
    assert seen == [torch.bfloat16]
    assert logits.dtype == np.float32


def test_mode_comes_back_after_an_error() -> None:
    model = Small()
    with pytest.raises(DataError, match="without labels"):
        collect_logits(model, [Batch(torch.zeros(1, 3, 2, 2), None, torch.zeros(1), torch.zeros(1))])
    assert model.training
    with pytest.raises(DataError, match="no images"):
        collect_logits(model, [])


def test_import_brings_no_torch() -> None:
    code = "import sys, sapling.evaluation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("levels", [4, 10_000])  # many equal scores, and hardly any
def test_the_roc_curve_is_that_of_scikit_learn(levels: int) -> None:
    rng = np.random.default_rng(levels)
    labels = rng.integers(0, 2, 300)
    scores = np.round(labels + rng.normal(0, 1.2, 300), 0 if levels == 4 else 9)
    alarms, found, _ = reference.roc_curve(labels, scores, drop_intermediate=False)
    curve = roc_points(scores, labels)
    for place, share in zip(np.linspace(0, 1, 101), curve, strict=True):
        after = int(np.searchsorted(alarms, place, side="right"))  # the last point that is not further right
        expected = found[after - 1]
        if after < len(alarms):
            way = (place - alarms[after - 1]) / (alarms[after] - alarms[after - 1])
            expected += way * (found[after] - found[after - 1])
        assert share == pytest.approx(expected)
    assert curve.mean() == pytest.approx(binary_auc(scores, labels), abs=0.01)
    logits = np.stack([np.zeros(300), scores], 1)
    assert classification_metrics(logits, labels, 2)["roc"] == curve.round(4).tolist()


def test_one_class_has_no_roc_curve_and_three_have_none() -> None:
    assert roc_points(np.arange(3.0), np.ones(3, int)) is None
    assert "roc" not in classification_metrics(np.eye(2), np.array([0, 0]), 2)
    assert "roc" not in classification_metrics(np.eye(3), np.array([0, 1, 2]), 3)
