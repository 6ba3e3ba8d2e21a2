"""A student, a teacher and a method that do not go together are refused before the teacher is trained or asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import sapling
from sapling.config import build
from sapling.errors import GateError, MethodError, ModelError, UsageError
from sapling.models import create_model
from sapling.models.load import Preprocess, save_model
from sapling.screen import Screen
from sapling.workflows import distill as workflow
from sapling.workflows.dataset import open_dataset
from sapling.workflows.pair import check_pair
from tests.conftest import SMALL_RUN

TRAINED_HERE = {"model": "cnn4", "epochs": 1}


def blocks(photos, **changes):
    return {**SMALL_RUN, "data": {"source": str(photos), "img_size": 32}, "teacher": TRAINED_HERE, **changes}


def saved(folder, classes):
    preprocess = Preprocess(16, 16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    model = create_model("cnn4", num_classes=len(classes), img_size=16, seed=9)
    save_model(folder, model, architecture="sapling_cnn4", classes=classes, preprocess=preprocess)
    return str(folder)


@pytest.fixture
def no_teacher(monkeypatch):
    monkeypatch.setattr(workflow, "get_teacher", lambda *_, **__: pytest.fail("the teacher was trained or asked"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"method": {"name": "fitnet", "tap": "blocks.9"}}, ModelError, r"'\n.*the student, cnn3 \(SmallCNN\)"),
        ({"method": {"name": "fitnet", "teacher_tap": "blocks.9"}}, ModelError, r"'\n.*the teacher, cnn4 \(SmallCNN\)"),
        ({"method": "cat_kd", "student": "test_vit"}, ModelError, "VisionTransformer has no 'class_map'"),
        (
            {"method": "cat_kd", "teacher": {**TRAINED_HERE, "num_teachers": 2}},
            MethodError,
            "the teacher's class map has 6 channels for 3 classes",
        ),
    ],
)
def test_a_pair_that_does_not_fit_trains_no_teacher(photos, tmp_path, no_teacher, changes, error, message):
    with pytest.raises(error, match=message):
        sapling.distill(**blocks(photos, output=str(tmp_path / "r"), **changes))


def test_a_teacher_that_is_given_is_looked_at_before_it_is_asked(photos, tmp_path, no_teacher):
    method = {"name": "fitnet", "teacher_tap": "blocks.9"}
    known = sorted(p.name for p in photos.iterdir())
    for classes, error, message in (
        (known, ModelError, "no tap 'blocks.9'"),
        ([*known, "x"], GateError, "class count"),
    ):
        teacher = {"model": saved(tmp_path / f"t{len(classes)}", classes)}
        with pytest.raises(error, match=message):
            sapling.distill(**blocks(photos, teacher=teacher, method=method, output=str(tmp_path / "r")))


def test_images_too_few_for_the_method_train_no_teacher(tmp_path, no_teacher):
    for place in ("a", "b"):
        (tmp_path / "few" / place).mkdir(parents=True)
        for k in range(5):
            pixels = np.random.default_rng(k + 9 * (place == "b")).integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "few" / place / f"{k}.png")
    small = blocks(tmp_path / "few", method="kd+dist", output=str(tmp_path / "r"))
    with pytest.raises(UsageError, match=r"'kd\+dist' compares.*there are 6 to train on[\s\S]*--method kd"):
        sapling.distill(**small)


def test_looking_at_the_pair_draws_no_random_number_of_the_run(photos):
    config = build({**blocks(photos, method="fitnet"), "output": "r"})
    data = open_dataset(config, Screen(quiet=True))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    check_pair(config, data)
    assert torch.equal(torch.get_rng_state(), before)
