from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sapling.data.groups import with_groups
from sapling.data.sources import Item, open_source
from sapling.data.splits import make_split
from sapling.errors import ConfigError, DataError
from tests.data.pictures import listed_source, real

PARTS = ("train", "val", "test")


def items_of(sizes, split=None):
    return [
        Item(f"{split or 'all'}/{label}/{k}", label, split) for label, size in enumerate(sizes) for k in range(size)
    ]


def counts(source, split):
    return {part: np.bincount(source.labels[split.part(part)], minlength=len(source.classes)) for part in PARTS}


def parts_by_key(source, split):
    return {source.items[i].key: part for part in PARTS for i in split.part(part)}


sizes = st.lists(st.integers(3, 60), min_size=2, max_size=6)
shares = st.tuples(st.floats(0.02, 0.45), st.floats(0.02, 0.45))
seeds = st.integers(0, 2**32)


@given(sizes, shares, seeds)
def test_every_image_is_in_one_part_and_classes_keep_their_shares(sizes, shares, seed):
    source = listed_source(items_of(sizes), len(sizes))
    split = make_split(source, val_share=shares[0], test_share=shares[1], seed=seed)
    together = np.concatenate([split.train, split.val, split.test])
    assert sorted(together) == list(range(sum(sizes)))
    for part, share in (("val", shares[0]), ("test", shares[1])):
        found = counts(source, split)[part]
        for size, count in zip(sizes, found, strict=True):
            assert count >= 1
            assert abs(count - size * share) <= 1 or count == 1
        if all(size * share >= 1 for size in sizes) and max(shares) <= 0.3:
            assert found.sum() == round(sum(sizes) * share)
    assert (counts(source, split)["train"] >= 1).all()
    for part in PARTS:
        assert (np.diff(split.part(part)) > 0).all()
        assert split.part(part).dtype == np.int64


@given(sizes, seeds, st.randoms())
def test_the_order_of_the_items_does_not_matter(sizes, seed, random):
    items = items_of(sizes)
    source = listed_source(items, len(sizes))
    shuffled = list(items)
    random.shuffle(shuffled)
    other = listed_source(shuffled, len(sizes))
    split, again = make_split(source, seed=seed), make_split(other, seed=seed)
    assert parts_by_key(source, split) == parts_by_key(other, again)
    assert split.fingerprint == again.fingerprint


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(1, 7), min_size=3, max_size=12), min_size=2, max_size=4),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), max_size=10),
    shares,
    seeds,
)
def test_groups_are_never_parted(groups, strangers, shares, seed):
    """Groups of any sizes, some with single images of other classes in them."""
    items = [
        Item(f"{label}/{g}/{k}", label, None, f"{label}-{g}")
        for label, sizes in enumerate(groups)
        for g, size in enumerate(sizes)
        for k in range(size)
    ]
    names = sorted({item.group for item in items})
    items += [
        Item(f"stranger/{n}", label % len(groups), None, names[g % len(names)])
        for n, (g, label) in enumerate(strangers)
    ]
    source = listed_source(items, len(groups))
    try:
        split = make_split(source, val_share=shares[0], test_share=shares[1], seed=seed)
    except DataError:
        assume(False)  # strangers outvoted a class: it has too few groups of its own, or no training image
    homes = {}
    for part in PARTS:
        for i in split.part(part):
            homes.setdefault(source.items[i].group, set()).add(part)
    assert all(len(home) == 1 for home in homes.values())
    assert len(np.concatenate([split.part(part) for part in PARTS])) == len(items)
    assert not any("Leak" in note for note in split.notes)


@given(st.lists(st.integers(3, 30), min_size=2, max_size=4), st.integers(1, 5), seeds)
def test_groups_of_one_size_keep_the_shares(num_groups, size, seed):
    items = [
        Item(f"{label}/{g}_{k}", label, None, f"{label}-{g}")
        for label, number in enumerate(num_groups)
        for g in range(number)
        for k in range(size)
    ]
    source = listed_source(items, len(num_groups))
    found = counts(source, make_split(source, seed=seed))
    for part in ("val", "test"):
        for number, count in zip(num_groups, found[part], strict=True):
            # Within a group of what was asked for, and never without a group at all.
            assert count == size or abs(count - 0.15 * number * size) <= size


def test_groups_of_one_image_are_split_as_images_alone():
    items = items_of([20, 30])
    alone = listed_source(items, 2)
    grouped = listed_source([replace(item, group=f"g{k}") for k, item in enumerate(items)], 2)
    for part, found in counts(alone, make_split(alone)).items():
        np.testing.assert_array_equal(found, counts(grouped, make_split(grouped))[part])


def test_another_seed_is_another_cut():
    source = listed_source(items_of([50, 50]), 2)
    prints = {make_split(source, seed=seed).fingerprint for seed in range(5)}
    assert len(prints) == 5
    assert make_split(source, seed=3).fingerprint in prints


def test_which_images_are_taken_looks_random():
    source = listed_source(items_of([200, 200]), 2)
    times = Counter(int(i) for seed in range(200) for i in make_split(source, seed=seed).test)
    taken = np.array([times[i] for i in range(400)])
    # Binomial(200, 0.15): mean 30, variance 25.5.
    assert abs(taken.mean() - 30) < 1e-9
    assert 19 < taken.var() < 33
    assert taken.min() > 8


def test_a_new_image_hardly_moves_the_others():
    items = items_of([200, 300])
    before = listed_source(items, 2)
    after = listed_source([*items, Item("all/0/new", 0)], 2)
    old, new = parts_by_key(before, make_split(before)), parts_by_key(after, make_split(after))
    assert sum(old[key] != new[key] for key in old) <= 4


# Given splits -------------------------------------------------------------------------------------------


def test_three_given_splits_stay():
    source = listed_source(items_of([5, 5], "train") + items_of([2, 3], "val") + items_of([1, 4], "test"), 2)
    split = make_split(source)
    assert {key: part for key, part in parts_by_key(source, split).items() if not key.startswith(part)} == {}
    assert split.notes == ()


def test_a_given_val_becomes_test_and_val_is_cut_from_train():
    source = listed_source(items_of([20, 40], "train") + items_of([5, 7], "val"), 2)
    split = make_split(source)
    homes = parts_by_key(source, split)
    assert {part for key, part in homes.items() if key.startswith("val/")} == {"test"}
    assert {part for key, part in homes.items() if key.startswith("train/")} == {"train", "val"}
    assert [len(split.part(part)) for part in PARTS] == [51, 9, 12]
    assert counts(source, split)["val"].tolist() == [3, 6]
    assert "given val split is used as test" in split.notes[0]
    assert "Cut from train" in split.notes[1]


def test_a_given_test_is_test_and_nothing_else():
    source = listed_source(items_of([20, 40], "train") + items_of([5, 7], "test"), 2)
    split = make_split(source)
    assert {key for key, part in parts_by_key(source, split).items() if part == "test"} == {
        item.key for item in source.items if item.split == "test"
    }
    assert len(split.val) == 9


def test_train_alone_is_split_in_three():
    source = listed_source(items_of([20, 40], "train"), 2)
    assert [len(make_split(source).part(part)) for part in PARTS] == [42, 9, 9]


def test_a_group_in_two_given_splits_is_called_a_leak():
    items = items_of([5, 5], "train") + items_of([2, 2], "val") + items_of([2, 2], "test")
    leaking = [replace(item, group="tree 7") if item.key.endswith("/1/0") else item for item in items]
    notes = make_split(listed_source(leaking, 2)).notes
    assert notes == ("Leak: 1 group with images in more than one split, for example 'tree 7'.",)


def test_a_class_that_is_missing_in_a_given_part_is_noted():
    source = listed_source(items_of([5, 5], "train") + items_of([2, 2], "val") + items_of([2, 0], "test"), 2)
    assert make_split(source).notes == ("Classes without an image in test: class 1.",)


# What cannot be split -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("val", "test"), [(0, 0.1), (0.1, 0), (0.5, 0.5), (-0.1, 0.1), (1.5, 0.1), (float("nan"), 0.1)]
)
def test_shares_out_of_range(val, test):
    with pytest.raises(ConfigError, match="val_share"):
        make_split(listed_source(items_of([9, 9]), 2), val_share=val, test_share=test)


def test_classes_that_are_too_small_are_named():
    with pytest.raises(DataError, match=r"2 classes have too few images to be split: class 0 \(2\), class 2 \(1\)"):
        make_split(listed_source(items_of([2, 9, 1]), 3))


def test_classes_with_too_few_groups_are_named():
    items = [Item(f"{label}/{k}", label, None, f"{label}-{k % 2}") for label in range(2) for k in range(10)]
    with pytest.raises(DataError, match=r"too few groups of images to be split: class 0 \(2\), class 1 \(2\)"):
        make_split(listed_source(items, 2))


def test_a_class_only_in_test_is_named():
    source = listed_source(items_of([5, 0], "train") + items_of([2, 0], "val") + items_of([2, 4], "test"), 2)
    with pytest.raises(DataError, match="classes without a training image: class 1"):
        make_split(source)


def test_no_training_image_at_all():
    with pytest.raises(DataError, match="no training image"):
        make_split(listed_source(items_of([5, 5], "test"), 2))


def test_an_unknown_part():
    with pytest.raises(ConfigError, match="no split 'dev'"):
        make_split(listed_source(items_of([9, 9]), 2)).part("dev")


# Real data ----------------------------------------------------------------------------------------------


def test_eurosat():
    source = open_source(real("eurosat_rgb.zip"))
    split = make_split(source)
    assert [len(split.part(part)) for part in PARTS] == [18_900, 4_050, 4_050]
    found = counts(source, split)
    sizes = np.bincount(source.labels)
    for part, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        np.testing.assert_allclose(found[part], sizes * share)


def test_trees_keep_their_views_together():
    source = with_groups(open_source(real("street_trees_lidar.zip")), "(.+)_view")
    split = make_split(source)
    homes = {}
    for part in PARTS:
        for i in split.part(part):
            homes.setdefault(source.items[i].group, set()).add(part)
    assert len(homes) == 847
    assert all(len(home) == 1 for home in homes.values())
    assert [len(split.part(part)) % 3 for part in PARTS] == [0, 0, 0]
