"""Several networks as one teacher: means, features side by side, symmetries, out of fold; against plain loops."""

import numpy as np
import pytest
import torch

from sapling.errors import ModelError
from sapling.models.create import create_model
from sapling.models.load import Preprocess
from sapling.models.tapped import TappedModel
from sapling.teachers.ensemble import PLAIN, Ensemble, Symmetrised, Symmetry, symmetries_of
from sapling.teachers.live import LiveTeacher
from sapling.types import Batch

SIZE, CLASSES = 16, 3
PREPROCESS = Preprocess(SIZE, SIZE, (0.5,) * 3, (0.25,) * 3)


def tapped(seed, *taps, name="cnn3", size=SIZE):
    model = create_model(name, num_classes=CLASSES, img_size=size, seed=seed)
    with torch.no_grad():  # fresh logits are all alike
        model.get_classifier().weight.mul_(20)
    return TappedModel(model.eval(), Preprocess(size, size, PREPROCESS.mean, PREPROCESS.std), taps).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def logits_of(model, images):
    with torch.no_grad():
        return model(images).logits.double().numpy()


@pytest.mark.parametrize("temperature", [1.0, 2.5, 7.0])
def test_the_answer_is_the_geometric_mean_of_probabilities_at_any_temperature(images, temperature):
    members = [tapped(seed) for seed in range(3)]
    apart = [logits_of(member, images) / temperature for member in members]
    found = logits_of(Ensemble(members), images) / temperature
    for i in range(len(images)):
        product = np.ones(CLASSES)
        for logits in apart:
            p = np.exp(logits[i] - logits[i].max())
            product *= (p / p.sum()) ** (1 / 3)
        answer = np.exp(found[i] - found[i].max())
        assert np.allclose(answer / answer.sum(), product / product.sum(), atol=1e-6)
    assert not np.allclose(apart[0], apart[2], atol=0.1)


def test_features_stand_side_by_side_and_the_classifier_fits_them(images):
    members = [tapped(seed, "stage4", "embedding") for seed in range(2)]
    both = Ensemble(members)
    with torch.no_grad():
        answer, first, second = both(images), *(member(images) for member in members)
    for tap in ("stage4", "embedding"):
        assert both.shapes[tap] == tuple(answer.features[tap].shape[1:])
        channels = first.features[tap].shape[1]
        assert torch.equal(answer.features[tap][:, :channels], first.features[tap])
        assert torch.equal(answer.features[tap][:, channels:], second.features[tap])
    card = both.classifier_card
    remade = answer.features["embedding"] @ card["classifier.weight"].T + card["classifier.bias"]
    assert torch.allclose(remade, answer.logits, atol=1e-4)
    assert both.taps_without_activation == members[0].taps_without_activation


def test_members_of_other_sizes_may_answer_but_not_show_maps():
    small, large = (lambda *taps: tapped(0, *taps)), (lambda *taps: tapped(1, *taps, size=32))
    assert Ensemble([small(), large()]).shapes == {}
    with pytest.raises(ModelError, match="tap 'stage4' has several sizes in this ensemble"):
        Ensemble([small("stage4"), large("stage4")])
    with pytest.raises(ModelError, match="an ensemble of 1"):
        Ensemble([small()])


def test_symmetries_are_those_of_the_views():
    assert symmetries_of(flip=False, dihedral=False) == (PLAIN,)
    assert symmetries_of(flip=True, dihedral=False) == (PLAIN, Symmetry(0, mirrored=True))
    square = symmetries_of(flip=False, dihedral=True)
    assert (len(set(square)), square[0]) == (8, PLAIN)
    image = torch.arange(9.0).view(1, 1, 3, 3)
    assert len({tuple(s.apply(image).flatten().tolist()) for s in square}) == 8
    for s in square:
        expected = np.rot90(image[0, 0].numpy(), s.quarter_turns)
        assert np.array_equal(s.apply(image)[0, 0].numpy(), expected[:, ::-1] if s.mirrored else expected)


def test_symmetries_keep_the_memory_format(images):
    turn = Symmetry(1, mirrored=True)
    lying = images.contiguous(memory_format=torch.channels_last)
    assert turn.apply(lying).is_contiguous(memory_format=torch.channels_last)
    assert turn.apply(images).is_contiguous()
    assert torch.equal(turn.apply(lying), turn.apply(images))


def test_symmetrised_logits_are_the_mean_over_all_ways_to_lay_the_image(images):
    network = tapped(3, "stage4")
    both = Symmetrised(network, symmetries_of(flip=False, dihedral=True))
    found = logits_of(both, images)
    pixels = images.numpy()
    for i in range(len(images)):
        total = np.zeros(CLASSES)
        for turns in range(4):
            for mirror in (False, True):
                laid = np.rot90(pixels[i], turns, (1, 2))
                laid = laid[:, :, ::-1] if mirror else laid
                total += logits_of(network, torch.from_numpy(laid.copy())[None])[0]
        assert np.allclose(found[i], total / 8, atol=1e-5)
    for symmetry in both.symmetries:
        assert np.allclose(logits_of(both, symmetry.apply(images)), found, atol=1e-5)
    assert not np.allclose(logits_of(network, images), found, atol=1e-3)
    with torch.no_grad():
        assert torch.equal(both(images).features["stage4"], network(images).features["stage4"])
    assert both.shapes == network.shapes


def test_unfit_symmetries_are_refused():
    for wrong in ((), (Symmetry(1),), (PLAIN, PLAIN)):
        with pytest.raises(ModelError, match="no symmetries to average over"):
            Symmetrised(tapped(0), wrong)


def test_out_of_fold_answers_are_of_one_member_each(images):
    members = [tapped(seed) for seed in range(3)]
    both = Ensemble(members)
    apart = [logits_of(member, images) for member in members]
    folds = torch.tensor([2, -1, 0, 2, 1, -1])
    with torch.no_grad():
        found = both.out_of_fold(images, folds).logits.numpy()
        one = both.out_of_fold(images, torch.full((6,), 1)).logits.numpy()
    for i, fold in enumerate(folds.tolist()):
        expected = apart[fold][i] if fold >= 0 else sum(logits[i] for logits in apart) / 3
        assert np.allclose(found[i], expected, atol=1e-5)
    assert np.allclose(one, apart[1], atol=1e-6)


def test_a_live_teacher_finds_the_fold_by_the_image_number(images):
    members = [tapped(seed) for seed in range(2)]
    how = {"device": "cpu", "bf16": False, "channels_last": True}
    folds = torch.tensor([-1, 0, 1, 1, 0, 0, 1, 0, 1, -1])
    live = LiveTeacher(Ensemble(members), **how, folds=folds)
    index = torch.tensor([2, 9, 4, 1, 8, 0])
    batch = Batch(images, None, index, torch.zeros(6, dtype=torch.int64))
    found = live.outputs(batch).logits.numpy()
    apart = [logits_of(member, images) for member in members]
    for row, number in enumerate(index.tolist()):
        fold = int(folds[number])
        assert np.allclose(
            found[row], apart[fold][row] if fold >= 0 else (apart[0][row] + apart[1][row]) / 2, atol=1e-5
        )
    for wrong in (tapped(0), Ensemble([tapped(0, "stage4"), tapped(1, "stage4")])):
        with pytest.raises(ModelError, match="folds are for an ensemble without taps"):
            LiveTeacher(wrong, **how, folds=folds)
