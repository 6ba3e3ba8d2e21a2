from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapling.data.loader import load_data
from sapling.data.sampling import balanced_counts, balanced_order
from tests.data.pictures import class_pictures, write_zip

LABELS = np.repeat([0, 1, 2], [90, 9, 1])


def order(power=1.0, seed=0, labels=LABELS):
    return balanced_order(labels, np.random.default_rng(seed), power)


@pytest.mark.parametrize(("power", "shares"), [(1.0, (1, 1, 1)), (0.5, (90**0.5, 3, 1)), (0.0, (90, 9, 1))])
def test_classes_are_drawn_in_proportion(power, shares):
    found = np.mean([np.bincount(LABELS[order(power, seed)[0]], minlength=3) for seed in range(200)], axis=0)
    assert found == pytest.approx(100 * np.array(shares) / sum(shares), abs=0.15)


def test_images_of_a_class_are_drawn_equally_often():
    positions, repeats = order()
    times = np.bincount(positions, minlength=100)
    assert times[:90].max() == 1
    assert times[90:99].max() - times[90:99].min() <= 1
    assert repeats.max() == times[99] - 1
    assert len({*zip(positions.tolist(), repeats.tolist(), strict=True)}) == 100


def test_it_is_a_function_of_the_generator():
    first, again, other = order(seed=4), order(seed=4), order(seed=5)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], other[0])


counts = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)


@given(counts=counts, power=st.floats(0, 1), seed=st.integers(0, 99))
def test_an_epoch_has_as_many_images_as_ever(counts, power, seed):
    counts = np.array(counts)
    drawn = balanced_counts(counts, np.random.default_rng(seed), power)
    assert drawn.sum() == counts.sum()
    assert (drawn >= 0).all()
    assert (drawn[counts == 0] == 0).all()
    shares = np.where(counts > 0, np.maximum(counts, 1) ** (1 - power), 0)
    assert (np.abs(drawn - counts.sum() * shares / shares.sum()) < 1 + 1e-6).all()


# In the loader ------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path):
    files = class_pictures(("many",), each=80) | class_pictures(("few",), each=8)
    return write_zip(tmp_path / "a.zip", files)


def epoch_of(data, epoch, seed=1):
    return list(data.train_batches(epoch, batch_size=16, seed=seed))


def test_the_loader_draws_rare_classes_more_often(source):
    data = load_data(source, img_size=12, sample_power=1.0)
    plain = load_data(source, img_size=12)
    batches = epoch_of(data, 0)
    labels = np.concatenate([batch.labels.numpy() for batch in batches])
    assert len(batches) == len(epoch_of(plain, 0))
    assert abs(labels.mean() - 0.5) < 0.1
    trained = set(data.split.train.tolist())
    assert all(set(batch.indices.tolist()) <= trained for batch in batches)


def test_an_epoch_is_the_same_whatever_came_before_it(source):
    data, again = (load_data(source, img_size=12, sample_power=0.5) for _ in range(2))
    epoch_of(data, 0)
    for first, second in zip(epoch_of(data, 1), epoch_of(again, 1), strict=True):
        assert first.images.equal(second.images)
        assert first.indices.equal(second.indices)
        assert first.views.equal(second.views)
    assert not epoch_of(data, 1)[0].indices.equal(epoch_of(data, 2)[0].indices)
    assert not epoch_of(data, 1)[0].indices.equal(epoch_of(data, 1, seed=2)[0].indices)


@pytest.mark.parametrize("num_views", [0, 4])
def test_an_image_that_is_drawn_again_shows_another_view(source, num_views):
    data = load_data(source, img_size=12, sample_power=1.0, views="aerial", num_views=num_views)
    shown = [
        (index, view)
        for batch in epoch_of(data, 3)
        for index, view in zip(*(values.tolist() for values in (batch.indices, batch.views)), strict=True)
    ]
    by_image = {}
    for index, view in shown:
        by_image.setdefault(index, []).append(view)
    most = max(by_image.values(), key=len)
    assert len(most) >= 4
    assert len(set(most)) == min(len(most), num_views or len(most))
    if num_views:
        assert max(view for _, view in shown) < num_views
    else:
        later = {view for batch in epoch_of(data, 4) for view in batch.views.tolist()}
        assert later.isdisjoint(view for _, view in shown)


def test_without_it_batches_are_what_they_were(source):
    data = load_data(source, img_size=12)
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([1, 0])))
    expected = generator.permutation(data.split.train)[:16]
    assert epoch_of(data, 0)[0].indices.tolist() == expected.tolist()
    assert set(epoch_of(data, 0)[0].views.tolist()) == {data.view_number(0, 1)}
