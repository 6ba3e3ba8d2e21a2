"""The nuclear norm beside kd: its modes against loops, its weights, and settings that contradict each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sapling import methods
from sapling.errors import ConfigError, MethodError
from sapling.types import Outputs, PairInfo, Phase, Step
from tests.losses import naive, naive_features
from tests.methods.toys import batch, outputs, pair_info

STUDENT, TEACHER = outputs(1, "student", 8), outputs(2, "teacher", 8)
DATA = batch(batch_size=8)
ROWS = STUDENT.features["embedding"].double().numpy()
UNIT = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
LABELS = DATA.labels.numpy()


def build(**config):
    return methods.build("nuclear", pair_info(), **config)


def nuclear(progress=0.9, student=STUDENT, **config):
    found = build(**config)(student, TEACHER, DATA, Step(progress=progress, terms=("nuclear",)))
    return float(found["nuclear"])


def of_classes(rows):
    return sum(naive_features.nuclear_norm(rows[c == LABELS]) for c in set(LABELS.tolist()))


def test_modes_are_the_naive_ones():
    most, norm = math.sqrt(8 * 8), naive_features.nuclear_norm(UNIT)  # 8 images of 8 values
    lengths = sorted((naive_features.length(c) for c in UNIT.T), reverse=True)[:8]
    expected = {
        "min": norm / most,
        "max": 1 - norm / most,
        "ole": (of_classes(UNIT) - norm) / most,
        "max_columns": 1 - sum(lengths) / most,
    }
    assert {mode: nuclear(mode=mode) for mode in expected} == pytest.approx(expected, rel=1e-5)


def test_modes_of_plain_rows_are_the_naive_ones():
    norm = naive_features.nuclear_norm(ROWS)
    expected = {
        "min": norm / 8,
        "max": 1 - norm / 8,
        "frobenius": math.sqrt((ROWS**2).sum() / 8),
    }
    found = {mode: nuclear(mode=mode, normalise=False) for mode in expected}
    assert found == pytest.approx(expected, rel=1e-5)


def test_pixels_of_each_image():
    maps = STUDENT.features["stage2"].double().numpy()  # 6 channels, 4 x 4
    found = []
    for one in maps:
        pixels = one.reshape(6, 16).T
        lengths = np.linalg.norm(pixels, axis=1, keepdims=True)
        rows = np.divide(pixels, lengths, out=np.zeros_like(pixels), where=lengths > 0)
        found.append(naive_features.nuclear_norm(rows) / math.sqrt(16 * 6))
    assert nuclear(tap="stage2", matrix="image") == pytest.approx(np.mean(found), rel=1e-5)


def test_the_scale_of_features_does_not_matter_unless_asked():
    scaled = Outputs(STUDENT.logits, {k: 9 * v for k, v in STUDENT.features.items()})
    assert nuclear(student=scaled) == pytest.approx(nuclear(), rel=1e-6)
    plain = nuclear(normalise=False)
    assert nuclear(student=scaled, normalise=False) == pytest.approx(9 * plain, rel=1e-6)


def test_it_rises_in_the_warm_up():
    assert nuclear(progress=0.025) == pytest.approx(nuclear() / 4)
    assert nuclear(progress=0.0) == 0
    assert nuclear(progress=0.0, warmup_share=0) == pytest.approx(nuclear())


def test_it_stands_beside_kd_with_its_alpha():
    assert build().weights == pytest.approx({"ce": 0.1, "kd": 0.9, "nuclear": 0.045})
    assert build(alpha=0.4).weights == pytest.approx({"ce": 0.4, "kd": 0.6, "nuclear": 0.03})
    fixed = {"ce": 0.4, "kd": 0.6, "nuclear": 0.05}
    assert build(weights=fixed).weights == fixed
    found = build(temperature=2)(STUDENT, TEACHER, DATA, Step(progress=0.9, terms=("ce", "kd", "nuclear")))
    expected = naive.kl_rows(STUDENT.logits.tolist(), TEACHER.logits.tolist(), 2).mean()
    assert float(found["kd"]) == pytest.approx(expected, rel=1e-5)
    kd = methods.build("kd", pair_info(), temperature=2)(STUDENT, TEACHER, DATA, Step(terms=("kd",)))
    assert torch.equal(found["kd"], kd["kd"])


def test_it_stands_beside_the_labels_alone():
    method = build(base="none")
    assert method.weights == {"ce": 1.0, "kd": 0.0, "nuclear": 0.05}
    assert method.active_terms(Phase()) == ("ce", "nuclear")
    assert build(base="none", alpha=0.4).weights == pytest.approx({"ce": 0.4, "kd": 0, "nuclear": 0.03})
    assert build(base="none", weights={"nuclear": 0.3}).weights == {"ce": 1.0, "kd": 0.0, "nuclear": 0.3}
    found = method(STUDENT, None, DATA, Step(progress=0.9, terms=("ce", "nuclear")))
    assert set(found) == {"ce", "nuclear"}
    several = PairInfo(5, 40, pair_info().student_shapes, multi_label=True)
    assert methods.build("nuclear", several, base="none").weights == {"bce": 1.0, "kd": 0.0, "nuclear": 0.05}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mode": "ole", "normalise": False}, "mode: ole is made small by shrinking all features"),
        ({"mode": "frobenius"}, "mode: frobenius is constant for rows of length 1; give normalise: false"),
        ({"mode": "ole", "matrix": "image", "tap": "stage2"}, "ole compares classes"),
        ({"tap": "predictions", "matrix": "image"}, "predictions are no map"),
        ({"base": "none", "weights": {"kd": 1}}, "weights.kd: base is none"),
    ],
)
def test_contradictions_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        build(**config)


def test_what_needs_one_class_or_pixels_is_refused():
    several = PairInfo(5, 40, pair_info().student_shapes, multi_label=True)
    for config in ({"mode": "ole"}, {"tap": "predictions"}):
        with pytest.raises(ConfigError, match="several labels"):
            methods.build("nuclear", several, **config)
    with pytest.raises(MethodError, match=r"the student's embedding has the shape \[8\]"):
        build(matrix="image")


def test_the_effective_rank_is_there_to_be_logged():
    method = build()
    assert method.observations() == {}
    method(STUDENT, TEACHER, DATA, Step(progress=0.9, terms=("nuclear",)))
    expected = naive_features.effective_rank(UNIT)
    assert float(method.observations()["effective_rank"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("mode", ["min", "max", "ole"])
def test_gradient_is_finite_and_small_where_all_images_look_the_same(mode):
    rows = STUDENT.features["embedding"][:1].repeat(8, 1)
    for given in (rows, rows * 0):
        given = given.clone().requires_grad_()
        found = build(mode=mode)(Outputs(STUDENT.logits, {"embedding": given}), TEACHER, DATA, Step(progress=0.9))
        found["nuclear"].backward()
        assert torch.isfinite(given.grad).all()
        assert float(given.grad.abs().max()) < 1


@pytest.mark.parametrize(("mode", "rises"), [("min", False), ("max", True)])
def test_min_lowers_the_effective_rank_and_max_raises_it(mode, rises):
    from sapling.losses import effective_rank

    embedding = STUDENT.features["embedding"].clone()
    before, method = float(effective_rank(embedding)), build(mode=mode)
    for _ in range(20):
        embedding.requires_grad_()
        given = Outputs(STUDENT.logits, {"embedding": embedding})
        loss = method(given, TEACHER, DATA, Step(progress=0.9, terms=("nuclear",)))["nuclear"]
        (gradient,) = torch.autograd.grad(loss, embedding)
        embedding = (embedding - 3 * gradient).detach()
    assert (float(effective_rank(embedding)) > before + 0.2) == rises
    assert (float(effective_rank(embedding)) < before - 0.2) != rises
