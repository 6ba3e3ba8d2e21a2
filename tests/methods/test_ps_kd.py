"""PS-KD: the past answers of each image, and the target that they soften, against loops."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from sapling import methods
from sapling.errors import ConfigError, MethodError
from sapling.methods.labelloss import make_label_loss
from sapling.methods.memory import write_rows
from sapling.types import Outputs, Step
from tests.losses import naive
from tests.methods.toys import K, N, batch, outputs, pair_info


def make(**more):
    return methods.build("ps_kd", dataclasses.replace(pair_info(), **more)).double()


def student(seed):
    return outputs(seed, "student", dtype=torch.float64)


def cross_entropy(logits, target):
    return -sum(t * math.log(q) for t, q in zip(target, naive.softmax(logits, 1), strict=True))


def test_is_the_naive_one_over_three_epochs():
    method, table = make(), {}
    for epoch in range(3):
        given, said = batch(seed=epoch), student(10 + epoch)
        share = 0.8 * epoch / 3
        total = 0.0
        for i, y, z in zip(given.indices.tolist(), given.labels.tolist(), said.logits.tolist(), strict=True):
            hard = [float(k == y) for k in range(K)]
            soft = [(1 - share) * h + share * p for h, p in zip(hard, table.get(i, hard), strict=True)]
            total += cross_entropy(z, soft) / len(given.labels)
            table[i] = naive.softmax(z, 1)
        terms = method(said, None, given, Step(epoch=epoch, progress=epoch / 3))
        assert sum(terms.values()).item() == pytest.approx(total)
        assert float(method.observations()["share"]) == pytest.approx(share)
        assert method.is_known.nonzero().flatten().tolist() == sorted(table)
        for i, answer in table.items():
            assert method.answers[i].tolist() == pytest.approx(answer)


def test_what_was_not_shown_yet_is_the_control():
    terms = make()(student(1), None, batch(), Step(progress=0.9))
    assert terms["past"].item() == 0
    assert float(terms["past"].detach()) == 0


def test_gradient_is_that_of_the_softened_label():
    method, given = make(), batch()
    method(student(1), None, given, Step(progress=0.2))
    logits = student(2).logits.requires_grad_()
    sum(method(Outputs(logits), None, given, Step(progress=0.5)).values()).backward()
    past = student(1).logits.softmax(1)
    target = 0.6 * torch.nn.functional.one_hot(given.labels, K) + 0.4 * past
    expected = (student(2).logits.softmax(1) - target) / len(target)
    torch.testing.assert_close(logits.grad, expected)


def test_class_weights_hold_for_both_halves():
    method, given = make(), batch()
    method.label_loss = make_label_loss("class_weights", torch.tensor([0, 0, 0, 1, 2, 3, 4]), K).double()
    method(student(1), None, given, Step(progress=0.2))
    past, weights = student(1).logits.softmax(1), method.label_loss.by_class
    target = 0.6 * torch.nn.functional.one_hot(given.labels, K) + 0.4 * past
    log_q = student(2).logits.log_softmax(1)
    terms = method(student(2), None, given, Step(progress=0.5))
    torch.testing.assert_close(sum(terms.values()), -(weights * target * log_q).sum(1).mean())


def test_rows_follow_the_store_and_strangers_are_refused():
    places = torch.arange(N) * 3 + 7
    method, given = make(train_indices=places), batch()
    moved = dataclasses.replace(given, indices=places[given.indices])
    method(student(1), None, moved, Step(progress=0.5))
    assert method.is_known.nonzero().flatten().tolist() == sorted(given.indices.tolist())
    for stranger in (8, 10_000, -1):
        moved.indices[3] = stranger
        with pytest.raises(MethodError, match=f"image {stranger} of the batch is none of the {N}|image {stranger} is"):
            method(student(1), None, moved, Step(progress=0.5))


def test_of_an_image_that_is_there_twice_the_last_answer_is_kept():
    rows, values = torch.tensor([2, 0, 2, 2]), torch.arange(8.0).reshape(4, 2)
    table = torch.full((4, 2), -1.0)
    assert write_rows(table, rows, values).tolist() == [[2, 3], [-1, -1], [6, 7], [-1, -1]]


def test_evaluation_remembers_nothing_and_the_memory_is_bounded():
    method = make().eval()
    method(student(1), None, batch(), Step(progress=0.5))
    assert not method.is_known.any()
    with pytest.raises(MethodError, match="GiB about the training images"):
        make(num_samples=2**25, num_classes=100)


def test_mixed_images_and_several_labels_are_refused():
    mixed = dataclasses.replace(batch(), targets=torch.full((16, K), 0.2, dtype=torch.float64))
    with pytest.raises(MethodError, match="were mixed"):
        make()(student(1), None, mixed, Step(progress=0.5))
    with pytest.raises(MethodError, match="one class per image"):
        make(multi_label=True)


@pytest.mark.parametrize("options", [{"alpha": 0.4}, {"weights": {"ce": 0.7}}, {"weights": {"past": 1.3}}])
def test_the_true_label_never_counts_below_nothing(options):
    with pytest.raises(ConfigError, match="from the true label"):
        methods.build("ps_kd", pair_info(), **options)
    methods.build("ps_kd", pair_info(), alpha=0.45)
    methods.build("ps_kd", pair_info(), alpha=0.4, last_share=0.5)
