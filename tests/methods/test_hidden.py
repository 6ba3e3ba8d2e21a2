"""What the methods on features have in common: several labels per image, and real networks."""

from __future__ import annotations

import pytest
import torch

from sapling import methods
from sapling.errors import ConfigError, MethodError
from sapling.models.create import create_model
from sapling.models.load import Preprocess
from sapling.models.tapped import TappedModel
from sapling.types import Batch, PairInfo, Phase, Step
from tests.methods.hidden import CNN, WIDE, K, info_of, outputs_of

NAMES = ["mgd", "reviewkd", "srrl", "vid", "vkd"]
REAL = [*NAMES, "attention_guided", "byot", "cosine"]
WITH_STAGES = ["attention_guided", "byot", "ofd", "reviewkd", "vid"]
NETWORKS = ["cnn3", "resnet8x4", "vit_tiny_patch16_224", "mobilenetv3_small_050"]


@pytest.fixture(scope="module")
def networks():
    made = {}
    for name in NETWORKS:
        made[name] = create_model(name, num_classes=K, in_chans=3, img_size=32, pretrained=False, seed=0).eval()
    return made


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize(("s", "t"), [("cnn3", "vit_tiny_patch16_224"), ("vit_tiny_patch16_224", "resnet8x4")])
def test_real_networks(name, s, t, networks):
    one_step(name, s, t, networks)


@pytest.mark.parametrize("name", ["byot", "cosine"])
def test_a_last_map_of_one_pixel(name, networks):
    one_step(name, "mobilenetv3_small_050", "resnet8x4", networks)


def test_one_pixel_cannot_be_weighed(networks):
    with pytest.raises(MethodError, match=r"weighs pixels.*single one in the student's stage4"):
        one_step("attention_guided", "mobilenetv3_small_050", "resnet8x4", networks)


def one_step(name, s, t, networks):
    preprocess = Preprocess(32, 32, (0.5,) * 3, (0.5,) * 3)
    taps = methods.taps(name)
    student = TappedModel(networks[s], preprocess, taps.student)
    teacher = TappedModel(networks[t], preprocess, taps.teacher)
    info = PairInfo(K, 9, student.shapes, teacher.shapes, teacher_card=teacher.classifier_card)
    method = methods.build(name, info)
    images = torch.rand(4, 3, 32, 32)
    batch = Batch(images, torch.arange(4), torch.arange(4), torch.zeros(4, dtype=torch.int64))
    step = Step(progress=0.5, terms=method.active_terms(Phase()))
    with torch.no_grad():
        target = teacher(images)
    terms = method(student(images), target, batch, step)
    student.zero_grad()
    sum(v for k, v in terms.items() if k != "ce").backward()
    first = next(student.parameters())
    assert first.grad is not None
    assert first.grad.abs().sum() > 0
    assert torch.isfinite(first.grad).all()


@pytest.mark.parametrize("name", WITH_STAGES)
def test_a_stage_counts_once(name):
    with pytest.raises(ConfigError, match="stage4, stage4 names one twice"):
        methods.build(name, info_of(CNN, WIDE), stages=["stage4", "stage4"])


@pytest.mark.parametrize("name", [*NAMES, "byot", "cosine", "ofd"])
def test_several_labels_per_image(name):
    method = methods.build(name, info_of(CNN, WIDE, multi_label=True)).double()
    targets = (torch.rand(6, K) < 0.4).double()
    batch = Batch(torch.zeros(6, 3, 2, 2), None, torch.arange(6), torch.zeros(6, dtype=torch.int64), targets)
    terms = method(outputs_of(CNN, 1), outputs_of(WIDE, 2), batch, Step(progress=0.5))
    assert set(terms) == {"bce", *method.terms[1:]}
    assert all(torch.isfinite(v) for v in terms.values())
