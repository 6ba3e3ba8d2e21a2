"""Methods where an image may have several labels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sapling import methods
from sapling.errors import ConfigError, MethodError
from sapling.losses.labels import positive_weights
from sapling.types import Batch, Outputs, PairInfo, Phase, Step
from tests.losses import naive

INFO = PairInfo(num_classes=4, num_samples=10, multi_label=True)


def drawn(seed):
    return Outputs(torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)) * 2)


def batch():
    targets = (torch.rand(6, 4, generator=torch.Generator().manual_seed(3)) < 0.4).float()
    index = torch.arange(6)
    return Batch(torch.zeros(6, 3, 2, 2), None, index, index, targets)


def test_terms_are_bce_and_the_divergence_of_sigmoids():
    method = methods.build("kd", INFO, temperature=2.0)
    student, teacher = drawn(1), drawn(2)
    terms = method(student, teacher, batch(), Step(terms=method.active_terms(Phase())))
    p = torch.sigmoid(student.logits.double())
    own = -(batch().targets * p.log() + (1 - batch().targets) * (1 - p).log()).mean()
    assert float(terms["bce"]) == pytest.approx(float(own), rel=1e-5)
    assert float(terms["kd"]) == pytest.approx(naive.sigmoid_kl(student.logits, teacher.logits, 2.0), rel=1e-5)
    assert set(terms) == {"bce", "kd"}


def test_alpha_and_weights_mean_the_label_term():
    assert methods.build("kd", INFO).weights == {"bce": 1, "kd": 1}
    assert methods.build("kd", INFO, alpha=0.25).weights == {"bce": pytest.approx(0.25), "kd": pytest.approx(0.75)}
    assert methods.build("kd", INFO, alpha=1).weights == {"bce": 1, "kd": 0}
    assert methods.build("kd", INFO, alpha=1).active_terms(Phase(terms=("ce",))) == ("bce",)
    assert methods.build("kd", INFO, weights={"ce": 3}).weights["bce"] == 3
    assert methods.build("none", INFO).weights == {"bce": 1}


def test_a_term_that_is_not_wanted_is_not_given():
    method = methods.build("kd", INFO)
    assert set(method(drawn(1), drawn(2), batch(), Step(terms=("kd",)))) == {"kd"}
    assert set(method(drawn(1), None, batch(), Step(terms=("bce",)))) == {"bce"}


def sigmoids(logits, temperature):
    return 1 / (1 + np.exp(-logits.numpy().astype(np.float64) / temperature))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("center", [True, False])
def test_dist_correlates_sigmoids(temperature, center):
    """Inter over the labels of each image, intra over the images of each label; other places, other answers."""
    method = methods.build("dist", INFO, temperature=temperature, center=center)
    student, teacher = (Outputs(torch.cat([drawn(s).logits, drawn(s + 10).logits])) for s in (1, 2))
    several = Batch(torch.zeros(12, 3, 2, 2), None, torch.arange(12), torch.arange(12), batch().targets.repeat(2, 1))
    terms = method(student, teacher, several, Step(terms=method.active_terms(Phase())))
    q, p = sigmoids(student.logits, temperature), sigmoids(teacher.logits, temperature)
    like = naive.pearson if center else naive.cosine
    inter = 1 - np.mean([like(q[b], p[b]) for b in range(12)])
    intra = 1 - np.mean([like(q[:, k], p[:, k]) for k in range(4)])
    assert set(terms) == {"bce", "inter", "intra"}
    assert float(terms["inter"]) == pytest.approx(temperature**2 * inter, rel=1e-5)
    assert float(terms["intra"]) == pytest.approx(temperature**2 * intra, rel=1e-5)


def test_dist_of_two_labels_has_no_inter():
    method = methods.build("dist", PairInfo(num_classes=2, num_samples=10, multi_label=True))
    assert method.weights == {"bce": 1, "inter": 0, "intra": 2}


@pytest.mark.parametrize("name", ["dkd", "mlkd"])
def test_methods_of_one_class_are_refused(name):
    with pytest.raises(MethodError, match="one class per image") as caught:
        methods.build(name, INFO)
    assert "kd" in str(caught.value)


@pytest.mark.parametrize("name", ["kd", "function_matching"])
def test_standardize_is_refused_by_the_name_of_the_method(name):
    with pytest.raises(ConfigError, match=f"method '{name}': standardize"):
        methods.build(name, INFO, standardize=True)


def test_positive_weights():
    targets = torch.tensor([[1, 0], [0, 0], [0, 0], [1, 0]])
    # of a label that no image has, one is counted
    assert positive_weights(targets).tolist() == [1, 3]
    assert positive_weights(targets, 0.5).tolist() == pytest.approx([1, 3**0.5])
    loss = methods.make_label_loss("class_weights", targets, 2)
    logits, wanted = torch.randn(4, 2), torch.tensor([[1.0, 0], [0, 1], [0, 0], [1, 1]])
    p = torch.sigmoid(logits)
    own = -(torch.tensor([1.0, 3]) * wanted * p.log() + (1 - wanted) * (1 - p).log()).mean()
    assert float(loss(logits, wanted)) == pytest.approx(float(own), rel=1e-5)
    assert methods.make_label_loss("none", targets, 2) is None
    for setting in ("sampler", "logit_adjustment"):
        with pytest.raises(ConfigError, match="one class per image"):
            methods.make_label_loss(setting, targets, 2)


def test_mixed_targets_are_taken_as_they_are():
    method = methods.build("none", INFO)
    soft = batch().targets * 0.7
    given = Batch(batch().images, None, batch().indices, batch().views, soft)
    expected = F.binary_cross_entropy_with_logits(drawn(1).logits, soft)
    assert torch.equal(method(drawn(1), None, given, Step())["bce"], expected)


def test_kd_of_several_labels_has_no_other_reduction():
    with pytest.raises(ConfigError, match="'kd': reduction"):
        methods.build("kd", INFO, reduction="mean")
