"""at, sp, rkd and pkt: their formulas against loops, any two networks, and what they refuse."""

from __future__ import annotations

import copy

import pytest
import torch

from sapling import methods
from sapling.errors import ConfigError, MethodError
from sapling.models import TappedModel
from sapling.types import Batch, Outputs, PairInfo, Step
from tests.losses import naive_features as naive
from tests.methods.toys import batch, outputs, pair_info
from tests.models.families import network, settings

STUDENT, TEACHER = outputs(1, "student", 8), outputs(2, "teacher", 8)
DATA = batch(batch_size=8)
EVERY = ("at", "fitnet", "mimic", "nuclear", "pkt", "rkd", "sp")


def terms(name, student=STUDENT, teacher=TEACHER, **config):
    method = methods.build(name, pair_info(), **config)
    wanted = tuple(t for t in method.terms if t != "ce")
    return {k: float(v.detach()) for k, v in method(student, teacher, DATA, Step(progress=0.9, terms=wanted)).items()}


def arrays(tap):
    return STUDENT.features[tap].double().numpy(), TEACHER.features[tap].double().numpy()


@pytest.mark.parametrize("power", [1, 2])
def test_at_is_the_naive_sum_over_stages(power):
    taps = [("stage1", "stage1"), ("stage3", "stage3"), ("stage2", "stage1")]
    expected = sum(naive.attention_error(arrays(s)[0], arrays(t)[1], power) for s, t in taps)
    chosen = {"stages": [s for s, _ in taps], "teacher_stages": [t for _, t in taps]}
    assert terms("at", power=power, **chosen)["at"] == pytest.approx(expected, rel=1e-5)


def test_relations_are_the_naive_ones():
    maps, embeddings = arrays("stage4"), arrays("embedding")
    assert terms("sp") == pytest.approx({"sp": naive.similarity_error(*maps)}, rel=1e-5)
    assert terms("pkt") == pytest.approx({"pkt": naive.affinity_divergence(*embeddings)}, rel=1e-5)
    expected = {"distance": naive.distance_error(*embeddings), "angle": naive.angle_error(*embeddings)}
    assert terms("rkd") == pytest.approx(expected, rel=1e-5)
    means = [m.mean(axis=(2, 3)) for m in maps]
    assert terms("pkt", tap="stage4")["pkt"] == pytest.approx(naive.affinity_divergence(*means), rel=1e-5)
    assert terms("rkd", tap="stage4")["angle"] == pytest.approx(naive.angle_error(*means), rel=1e-5)
    mixed = naive.similarity_error(maps[0], embeddings[1])
    assert terms("sp", teacher_tap="embedding")["sp"] == pytest.approx(mixed, rel=1e-5)


def test_angles_of_the_first_images_only():
    first = [e[:5] for e in arrays("embedding")]
    got = terms("rkd", angle_images=5)
    assert got["angle"] == pytest.approx(naive.angle_error(*first), rel=1e-5)
    assert got["distance"] == pytest.approx(naive.distance_error(*arrays("embedding")), rel=1e-5)


def test_default_weights_are_the_published_ones():
    expected = {
        "at": {"ce": 1, "at": 1000},
        "fitnet": {"ce": 1, "hint": 100},
        "pkt": {"ce": 1, "pkt": 30000},
        "rkd": {"ce": 1, "distance": 25, "angle": 50},
        "sp": {"ce": 1, "sp": 3000},
    }
    assert {name: methods.build(name, pair_info()).weights for name in expected} == expected


@pytest.mark.parametrize("name", ["sp", "rkd", "pkt", "nuclear"])
def test_relations_refuse_small_batches(name):
    method = methods.build(name, pair_info())
    few = outputs(1, "student", 7), outputs(2, "teacher", 7)
    with pytest.raises(MethodError, match="batch of 7 images"):
        method(*few, batch(batch_size=7), Step())


def test_at_refuses_what_has_no_attention():
    def build(student, teacher, **config):
        info = PairInfo(5, 40, {"stage4": student}, {"stage4": teacher})
        return methods.build("at", info, stages=["stage4"], **config)

    with pytest.raises(MethodError, match=r"single one in the student's stage4 \[8, 1, 1\][\s\S]*stages="):
        build((8, 1, 1), (16, 4, 4))
    with pytest.raises(MethodError, match=r"the teacher's stage4 \[16\]"):
        build((8, 2, 2), (16,))
    with pytest.raises(MethodError, match=r"the student's stage4 has the shape \[15, 8\]"):
        build((15, 8), (16, 4, 4))
    with pytest.raises(ConfigError, match="1 stages and 2 teacher_stages"):
        build((8, 2, 2), (16, 2, 2), teacher_stages=["stage4", "stage3"])
    with pytest.raises(ConfigError, match="stages: has 0 values"):
        methods.build("at", pair_info(), stages=[])


PAIRS = [("cnn3", "vit_tiny_patch16_224"), ("deit_tiny_distilled_patch16_224", "cnn4"), ("cnn3", "cnn4")]


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_any_two_networks(student, teacher):
    """Convolutions and vision transformers in either place: finite terms, and a gradient in the student."""
    last = "stage4"
    taps = ("stage3", last, "embedding")
    ours, theirs = (TappedModel(copy.deepcopy(network(n)), settings(n), taps) for n in (student, teacher))
    g = torch.Generator().manual_seed(0)
    images = torch.rand(8, 3, 32, 32, generator=g)
    data = Batch(images, torch.arange(8) % 5, torch.arange(8), torch.zeros(8, dtype=torch.int64))
    info = PairInfo(5, 40, ours.shapes, theirs.shapes)
    with torch.no_grad():
        answers = theirs.eval()(images)
    given = ours.train()(images)
    first = next(p for p in ours.parameters() if p.dim() > 1)
    for name in EVERY:
        method = methods.build(name, info, **({"stages": ["stage3", last]} if name == "at" else {}))
        wanted = tuple(t for t in method.terms if t != "ce")
        found = method(given, answers, data, Step(progress=0.9, terms=wanted))
        loss = sum(method.weights[k] * v for k, v in found.items())
        (gradient,) = torch.autograd.grad(loss, first, retain_graph=True)
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().sum() > 0, name


@pytest.mark.parametrize("name", EVERY)
def test_several_labels_per_image(name):
    info = pair_info()
    info = PairInfo(5, 40, info.student_shapes, info.teacher_shapes, multi_label=True)
    method = methods.build(name, info)
    data = Batch(DATA.images, None, DATA.indices, DATA.views, torch.eye(5)[DATA.labels])
    found = method(STUDENT, TEACHER, data, Step(progress=0.9, terms=tuple(method.weights)))
    assert set(found) == set(method.weights) == {"bce", *method.terms[1:]}
    assert all(torch.isfinite(v) for v in found.values())


@pytest.mark.parametrize("name", ["at", "sp", "rkd", "pkt"])
def test_a_student_like_the_teacher_has_nothing_to_learn(name):
    """The scale of its features aside."""
    info = PairInfo(5, 40, pair_info().teacher_shapes, pair_info().teacher_shapes)
    method = methods.build(name, info)
    scaled = Outputs(TEACHER.logits, {k: 3 * v for k, v in TEACHER.features.items()})
    wanted = tuple(t for t in method.terms if t != "ce")
    found = method(scaled, TEACHER, DATA, Step(terms=wanted))
    assert all(abs(float(v)) < 1e-9 for v in found.values())
