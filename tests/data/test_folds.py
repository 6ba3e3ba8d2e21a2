"""Folds of the training images: stratified, groups whole, the same for the same images in any order."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapling.data.folds import folds_text, make_folds, read_folds
from sapling.data.sources import Item
from sapling.errors import ConfigError, DataError
from tests.data.pictures import listed_source


def source(labels, groups=None, *, sets=None):
    """Images of three classes that are names only."""
    items = [
        Item(f"{i}.png", label, group=groups[i] if groups else None, labels=sets[i] if sets else None)
        for i, label in enumerate(labels)
    ]
    return listed_source(items, 3)


@settings(max_examples=40)
@given(
    counts=st.tuples(*[st.integers(2, 23)] * 3),
    num_folds=st.integers(2, 6),
    seed=st.integers(0, 50),
)
def test_every_training_image_is_in_one_fold_and_classes_are_spread_evenly(counts, num_folds, seed):
    labels = [k for k, count in enumerate(counts) for _ in range(count + 1)]
    train = np.array([i for i, label in enumerate(labels) if i == 0 or labels[i - 1] == label], dtype=np.int64)[1:]
    made = source(labels)
    folds = make_folds(made, train, num_folds, seed=seed)
    assert set(np.flatnonzero(folds >= 0)) == set(train)
    assert folds.max() < num_folds
    for k in range(3):
        own = Counter(folds[i] for i in train if labels[i] == k)
        sizes = [own[fold] for fold in range(num_folds)]
        assert max(sizes) - min(sizes) <= 1
    whole = np.bincount(folds[train], minlength=num_folds)
    assert whole.max() - whole.min() <= 1


def test_folds_follow_from_keys_not_from_order():
    labels = [i % 3 for i in range(60)]
    made, train = source(labels), np.arange(60)
    order = np.random.default_rng(0).permutation(60)
    turned = replace(made, items=tuple(made.items[i] for i in order))
    first, second = make_folds(made, train, 3), make_folds(turned, train, 3)
    assert np.array_equal(first[order], second)
    assert not np.array_equal(first, make_folds(made, train, 3, seed=1))


def test_groups_stay_in_one_fold():
    rng = np.random.default_rng(1)
    names = [f"tree {rng.integers(25)}" for _ in range(120)]
    labels = [int(name.split()[1]) % 3 for name in names]
    folds = make_folds(source(labels, names), np.arange(120), 3)
    homes = {}
    for name, fold in zip(names, folds, strict=True):
        assert homes.setdefault(name, fold) == fold
    assert np.bincount(folds).min() > 25


def test_several_labels_are_spread_too():
    rng = np.random.default_rng(2)
    sets = [tuple(k for k in range(3) if rng.random() < 0.4) for _ in range(90)]
    made = source([min(s, default=0) for s in sets], sets=sets)
    folds = make_folds(made, np.arange(90), 3)
    for k in range(3):
        own = np.bincount([f for f, s in zip(folds, sets, strict=True) if k in s], minlength=3)
        assert own.max() - own.min() <= 2


def test_a_class_that_one_teacher_would_never_see_is_refused():
    with pytest.raises(DataError, match="without a single image of class 2: all its training images are in one fold"):
        make_folds(source([0, 0, 0, 1, 1, 1, 2]), np.arange(7), 3)
    with pytest.raises(DataError, match="image of class 2"):
        make_folds(source([0, 0, 1, 1, 2, 2], ["0", "1", "2", "3", "x", "x"]), np.arange(6), 2)
    with pytest.raises(ConfigError, match="number of folds is 1"):
        make_folds(source([0, 0]), np.arange(2), 1)


def test_the_file_reads_back_and_foreign_ones_are_refused(tmp_path):
    made, train = source([i % 3 for i in range(30)]), np.arange(5, 30)
    folds = make_folds(made, train, 3)
    path = tmp_path / "folds.csv"
    path.write_bytes(folds_text(made, folds))
    assert np.array_equal(read_folds(path, made, train, 3), folds)
    with pytest.raises(DataError, match=r"no training image '5\.png'"):
        read_folds(path, made, np.arange(6, 30), 3)
    with pytest.raises(DataError, match=r"'4\.png' is not in the file"):
        read_folds(path, made, np.arange(4, 30), 3)
    with pytest.raises(DataError, match="there is no fold '2'; allowed: 0 to 1"):
        read_folds(path, made, train, 2)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]))
    with pytest.raises(DataError, match="stands there twice"):
        read_folds(path, made, train, 3)
