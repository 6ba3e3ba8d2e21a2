from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from sapling import methods
from sapling.data.sampling import balanced_order
from sapling.errors import ConfigError
from sapling.losses.labels import adjusted_cross_entropy, log_prior
from sapling.types import Batch, Outputs, PairInfo, Step
from tests.methods.toys import batch, outputs, pair_info

NUM_CLASSES = pair_info().num_classes
LABELS = torch.repeat_interleave(torch.arange(NUM_CLASSES), 2 ** torch.arange(NUM_CLASSES))
SETTINGS = ("none", "sampler", "class_weights", "logit_adjustment")


def built(name, imbalance, **config):
    method = methods.build(name, pair_info(), **config)
    method.label_loss = methods.make_label_loss(imbalance, LABELS, NUM_CLASSES)
    return method


def terms(method):
    return method(outputs(1, "student"), outputs(2, "teacher"), batch(), Step(terms=tuple(method.terms)))


@pytest.mark.parametrize("name", ["kd", "dkd", "dist"])
@pytest.mark.parametrize("imbalance", ["class_weights", "logit_adjustment"])
def test_only_the_label_term_changes(name, imbalance):
    plain, changed = terms(built(name, "none")), terms(built(name, imbalance))
    assert plain["ce"] != changed["ce"]
    for term in set(plain) - {"ce"}:
        assert torch.equal(plain[term], changed[term])


@pytest.mark.parametrize("imbalance", SETTINGS)
def test_control_and_student_have_the_same_label_term(imbalance):
    assert torch.equal(terms(built("none", imbalance))["ce"], terms(built("kd", imbalance))["ce"])


def test_mixed_images_use_their_targets():
    given = batch()
    targets = torch.softmax(torch.randn(len(given.indices), NUM_CLASSES), 1)
    method = built("none", "logit_adjustment")
    found = method(outputs(1, "student"), None, dataclasses.replace(given, targets=targets), Step(terms=("ce",)))["ce"]
    expected = adjusted_cross_entropy(outputs(1, "student").logits, targets, log_prior(LABELS, NUM_CLASSES))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("imbalance", SETTINGS)
def test_nothing_of_it_is_trained_or_kept(imbalance):
    method = built("kd", imbalance)
    assert list(method.parameters()) == []
    assert method.state_dict() == {}


def test_an_unknown_setting():
    with pytest.raises(ConfigError, match="class_weights"):
        methods.make_label_loss("weights", torch.tensor([0, 1]), 2)


# What it is for -----------------------------------------------------------------------------------------

CENTRES = torch.tensor([[0.0, 0.0], [1.5, 0.0], [0.0, 1.5]])


def cloud(counts, seed):
    """Three classes that overlap, as 2-D points."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    return CENTRES[labels] + 0.7 * torch.randn(len(labels), 2, generator=generator), labels


def macro_recall(imbalance):
    points, labels = cloud((450, 40, 10), seed=1)
    weight, bias = (torch.zeros(*shape, requires_grad=True) for shape in ((3, 2), (3,)))
    method = methods.build("none", PairInfo(3, len(labels)))
    method.label_loss = methods.make_label_loss(imbalance, labels, 3)
    generator = np.random.default_rng(0)
    for epoch in range(15):
        order = generator.permutation(len(labels))
        if imbalance == "sampler":
            order, _ = balanced_order(labels.numpy(), generator)
        for rows in np.array_split(order, 5):
            part = Batch(points[rows], labels[rows], torch.from_numpy(rows), torch.zeros(len(rows)))
            answers = Outputs(points[rows] @ weight.T + bias)
            loss = method(answers, None, part, Step(epoch=epoch, terms=("ce",)))["ce"]
            for value, slope in zip((weight, bias), torch.autograd.grad(loss, (weight, bias)), strict=True):
                value.data -= slope  # torch.optim takes seconds to import
    points, labels = cloud((300, 300, 300), seed=2)
    right = (points @ weight.T + bias).argmax(1) == labels
    return float(torch.stack([right[labels == k].float().mean() for k in range(3)]).mean())


def test_rare_classes_are_found_more_often():
    found = {imbalance: macro_recall(imbalance) for imbalance in SETTINGS}
    for imbalance in SETTINGS[1:]:
        assert found[imbalance] > found["none"] + 0.08, found
