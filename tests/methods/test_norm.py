"""NORM against loops; its block folds into the student's classifier, and the folded network answers the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sapling import methods
from sapling.errors import MethodError
from sapling.methods.base import Method
from sapling.models.create import create_model
from sapling.models.load import Preprocess, load_model, save_model
from sapling.models.tapped import TappedModel
from sapling.types import Batch, Outputs, PairInfo, Step
from tests.losses.test_hierarchical import draw
from tests.methods.hidden import VIT, K, outputs_of
from tests.methods.toys import batch

MIDDLE = Step(progress=0.5, terms=("ce", "norm"))


def make(student=(10, 2, 2), teacher=(6, 3, 3), **config):
    torch.manual_seed(0)
    info = PairInfo(K, 9, {"last_map": student}, {"stage4": teacher})
    return methods.build("norm", info, **{"num_copies": 3, **config}).double()


def of(name, features):
    return Outputs(draw(7, len(features), K), {name: features})


def normed(maps):
    return (maps - maps.mean((0, 2, 3), keepdims=True)) / np.sqrt(maps.var((0, 2, 3), keepdims=True) + 1e-5)


def test_is_the_naive_one():
    method, own, theirs = make(), draw(1, 4, 10, 2, 2), draw(2, 4, 6, 3, 3)
    got = method(of("last_map", own), of("stage4", theirs), batch(batch_size=4), MIDDLE)
    first, second = (part[0].weight.detach().numpy()[:, :, 0, 0] for part in (method.widen, method.narrow))
    wide = normed(np.einsum("oc,bchw->bohw", first, own.numpy()))
    error = 0.0
    for b in range(4):
        for copy in range(3):
            for c in range(6):
                for i in range(2):
                    for j in range(2):
                        target = float(theirs[b, c, i : i + 2, j : j + 2].max())
                        error += (wide[b, copy * 6 + c, i, j] - target) ** 2 / (4 * 6 * 2 * 2)
    back = (own.numpy() + normed(np.einsum("oc,bchw->bohw", second, wide))).mean((2, 3))
    logits = back @ method.classifier.weight.detach().numpy().T + method.classifier.bias.detach().numpy()
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = batch(batch_size=4).labels.tolist()
    assert float(got["norm"].detach()) == pytest.approx(error, rel=1e-9)
    assert float(got["ce"].detach()) == pytest.approx(-np.mean([np.log(chances[i, y]) for i, y in enumerate(labels)]))


def test_the_match_rises_and_falls():
    method, own, theirs = make(), of("last_map", draw(1, 4, 10, 2, 2)), of("stage4", draw(2, 4, 6, 2, 2))
    method = make(teacher=(6, 2, 2))

    def at(progress):
        return float(method(own, theirs, batch(), Step(progress=progress, terms=("norm",)))["norm"].detach())

    epochs = [0, 9, 10, 19, 20, 179, 180, 209, 210, 239]
    found = [at((e + 0.5) / 240) / at(0.5) for e in epochs]
    assert found == pytest.approx([0.1, 0.1, 0.5, 0.5, 1, 1, 0.5, 0.5, 0.1, 0.1])


def test_the_labels_train_the_block_and_its_classifier():
    method, own = make(), draw(1, 4, 10, 2, 2).requires_grad_()
    method(of("last_map", own), of("stage4", draw(2, 4, 6, 3, 3)), batch(batch_size=4), MIDDLE)["ce"].backward()
    assert own.grad.abs().sum() > 0
    assert all(p.grad is not None for p in method.parameters())


def test_kd_compares_logits_of_one_scale():
    method, theirs = make(weights={"kd": 1}), of("stage4", draw(2, 4, 6, 3, 3))
    step = Step(progress=0.5, terms=("kd",))
    own = of("last_map", draw(1, 4, 10, 2, 2))
    usual = method(own, theirs, batch(), step)["kd"]
    louder = Outputs(5 * theirs.logits + 2, theirs.features)
    torch.testing.assert_close(method(own, louder, batch(), step)["kd"], usual, rtol=1e-4, atol=0)


@pytest.fixture(scope="module")
def trained():
    """A student, and a method that has met a few batches: running statistics are none that fold to nothing."""
    torch.manual_seed(0)
    model = create_model("cnn3", num_classes=K, in_chans=3, img_size=16, pretrained=False, seed=0)
    student = TappedModel(model, Preprocess(16, 16, (0.5,) * 3, (0.5,) * 3), ("last_map",))
    method = methods.build("norm", PairInfo(K, 9, student.shapes, {"stage4": VIT["stage4"]}), num_copies=2)
    optimizer = torch.optim.SGD([*student.parameters(), *method.parameters()], lr=0.05)
    for step in range(4):
        images = torch.rand(8, 3, 16, 16) * (step + 1) / 4
        data = Batch(images, torch.arange(8) % K, torch.arange(8), torch.zeros(8, dtype=torch.int64))
        teacher = outputs_of(VIT, step, size=8, dtype=torch.float32)
        optimizer.zero_grad()
        sum(method(student(images), teacher, data, MIDDLE).values()).backward()
        optimizer.step()
    return student.eval(), method.eval()


def in_training(student, method, images):
    """The logits that the label term read."""
    seen = {}
    method.label_loss = lambda logits, target: seen.setdefault("logits", logits).sum()
    data = Batch(images, torch.zeros(len(images), dtype=torch.int64), torch.arange(3), torch.zeros(3))
    method(student(images), outputs_of(VIT, 1, size=len(images), dtype=torch.float32), data, MIDDLE)
    method.label_loss = None
    return seen["logits"].detach()


def test_the_network_that_is_saved_answers_as_in_training(trained, tmp_path):
    student, method = trained
    images = torch.rand(3, 3, 16, 16)
    shipped = method.deployable(student.model)
    assert shipped is student.model
    assert type(method).ships_own_parts()
    assert not Method.ships_own_parts()
    save_model(tmp_path, shipped, architecture="sapling_cnn3", classes="abcde", preprocess=student.preprocess)
    loaded = load_model(tmp_path)
    with torch.no_grad():
        answer = TappedModel(loaded.model, loaded.preprocess)(images).logits
        expected = in_training(student, method, images)
    torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-5)


def test_measuring_changes_no_training(trained):
    """The student's own classifier is written when it is measured, and nothing that is trained reads it."""
    student, method = trained
    images, kept = torch.rand(3, 3, 16, 16), {k: v.clone() for k, v in method.state_dict().items()}
    with torch.no_grad():
        before = in_training(student, method, images)
        method.deployable(student.model)
        assert torch.equal(in_training(student, method, images), before)
    assert all(torch.equal(v, kept[k]) for k, v in method.state_dict().items())


def test_alpha_one_ships_the_student_as_it_is():
    model = create_model("cnn3", num_classes=K, in_chans=3, img_size=16, pretrained=False, seed=0)
    before = model.fc.weight.clone()
    make((128, 4, 4), alpha=1).deployable(model)
    assert torch.equal(model.fc.weight, before)


def test_a_classifier_without_bias_is_refused():
    model = torch.nn.Sequential(torch.nn.Linear(10, K, bias=False))
    model.get_classifier = lambda: model[0]
    with pytest.raises(MethodError, match=r"into the student's classifier, which is Linear"):
        make().deployable(model)
