"""Several labels per image: how they are listed, kept, counted and cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sapling.data.groups import with_groups
from sapling.data.layout import Item
from sapling.data.listing import Columns
from sapling.data.loader import load_data
from sapling.data.packed import open_store
from sapling.data.pictures import contact_sheet
from sapling.data.sources import open_source
from sapling.data.splits import make_split
from sapling.data.stratify import deal_out
from sapling.errors import DataError
from tests.data.pictures import listed_source, pictures, write_folder

PARTS = ("train", "val", "test")


def listed(root, rows, header="image,label"):
    names = [row.split(",")[0] for row in rows]
    write_folder(root, pictures(names))
    path = root / "data.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def several(counts, *, split=None, group=None):
    """A source of three labels: ``counts`` maps sets of labels to numbers of images."""
    items = [
        Item(f"{''.join(map(str, labels)) or 'none'}/{k:03}", max(labels, default=-1), split, group, labels)
        for labels, count in counts.items()
        for k in range(count)
    ]
    return replace(listed_source(items, 3), classes=("a", "b", "c"))


def test_labels_are_read(tmp_path):
    rows = ["a.png,dog;cat", "b.png,cat", "c.png,", "d.png, dog ; cat;dog ;", "e.png,;", "f.png,newt"]
    source = open_source(listed(tmp_path, rows))
    assert source.multi_label
    assert source.classes == ("cat", "dog", "newt")
    assert [item.labels for item in source.items] == [(0, 1), (0,), (), (0, 1), (), (2,)]
    # the rarest label stands for an image, -1 for none
    assert source.labels.tolist() == [1, 0, -1, 1, -1, 2]
    assert source.targets.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert source.count_labels().tolist() == source.count_labels(np.arange(6)).tolist() == [3, 2, 1]
    assert "3 labels, 1.00 per image, 2 images without any" in " ".join(source.notes)
    assert [source.label_name(item) for item in source.items[:3]] == ["cat;dog", "cat", ""]
    sheet = contact_sheet(source)
    assert sheet[0] == ["a.png", "b.png", "d.png"]


def test_one_class_per_image_is_as_ever(tmp_path):
    rows = ["a.png,dog", "b.png,cat"]
    source = open_source(listed(tmp_path, rows))
    assert not source.multi_label
    assert source.items[0].labels is None
    assert source.truth.tolist() == [1, 0]
    assert source.targets.tolist() == [[0, 1], [1, 0]]
    with pytest.raises(DataError, match="the label is empty"):
        open_source(listed(tmp_path, [*rows, "c.png,"]))


def test_it_can_be_said_in_a_setting(tmp_path):
    path = listed(tmp_path, ["a.png,dog", "b.png,cat", "c.png,"])
    assert open_source(path, columns=Columns(multi_label=True)).targets.tolist() == [[0, 1], [1, 0], [0, 0]]
    path = listed(tmp_path, ["a.png,dog;cat", "b.png,cat"])
    with pytest.raises(DataError) as caught:
        open_source(path, columns=Columns(multi_label=False))
    for part in ("names several classes", "data.multi_label is false", "a class of its own ('dog+cat')"):
        assert part in str(caught.value)
    with pytest.raises(DataError, match="multi_label"):
        open_source("digits", columns=Columns(multi_label=True))


def test_wrong_names_among_several_are_told(tmp_path):
    with pytest.raises(DataError, match="control character"):
        open_source(listed(tmp_path, ["a.png,dog;c\aat", "b.png,cat"]))
    with pytest.raises(DataError, match="only one class, 'cat'"):
        open_source(listed(tmp_path, ["a.png,cat;cat", "b.png,"]))


def test_every_label_counts_in_stamp_and_fingerprint(tmp_path):
    first, second = ["a.png,x;y", "b.png,y", "c.png,x"], ["a.png,x;y", "b.png,y", "c.png,x;y"]
    one = open_source(listed(tmp_path, first))
    two = open_source(listed(tmp_path, second))
    # as a single label and as the only one of several it is not the same store
    plain = open_source(listed(tmp_path, ["a.png,x", "b.png,y", "c.png,x"]))
    alone = open_source(tmp_path / "data.csv", columns=Columns(multi_label=True))
    stores = [open_store(source, 8) for source in (one, two, plain, alone)]
    assert len({source.stamp() for source in (one, two, plain, alone)}) == 4
    assert len({store.fingerprint for store in stores}) == 4
    assert [store.targets is None for store in stores] == [False, False, True, False]
    assert stores[0].targets.tolist() == [[1, 1], [0, 1], [1, 0]]


def test_batches_have_targets(tmp_path):
    rows = [f"{k:02}.png,{'x' if k % 2 else ''};{'y' if k % 3 else ''}" for k in range(24)]
    data = load_data(listed(tmp_path, rows), img_size=8, mixup=0.5)
    (batch,) = data.eval_batches("test", batch_size=100)
    assert batch.labels is None
    assert batch.targets.dtype.is_floating_point
    assert batch.targets.tolist() == data.source.targets[data.split.test].tolist() == data.truth("test").tolist()
    mixed = next(data.train_batches(0, batch_size=8, seed=0))
    assert mixed.labels is None
    own = data.store.targets[mixed.indices.numpy()]
    partner = np.roll(own, -1, 0)
    low, high = np.minimum(own, partner), np.maximum(own, partner)
    assert ((mixed.targets.numpy() >= low - 1e-6) & (mixed.targets.numpy() <= high + 1e-6)).all()
    assert not np.isin(mixed.targets.numpy(), (0, 1)).all()
    assert data.card()["split"]["train"] == len(data.split.train)
    assert data.card()["counts"]["test"] == data.truth("test").sum(0).tolist()


COMBINATIONS = [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]


@settings(max_examples=40, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.lists(st.integers(0, 40), min_size=8, max_size=8), st.integers(0, 99))
def test_parts_have_every_label_and_their_shares(sizes, seed):
    source = several(dict(zip(COMBINATIONS, sizes, strict=True)))
    assume(source.items and (source.count_labels() >= 10).all())
    split = make_split(source, val_share=0.2, test_share=0.2, seed=seed)
    total = source.count_labels()
    seen = np.concatenate([split.part(part) for part in PARTS])
    assert sorted(seen.tolist()) == list(range(len(source.items)))
    for part, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        counts = source.count_labels(split.part(part))
        assert (counts > 0).all()
        assert np.abs(counts - share * total).max() <= 3
    again = make_split(replace(source, items=source.items[::-1]), val_share=0.2, test_share=0.2, seed=seed)
    assert again.fingerprint == split.fingerprint


def test_groups_stay_together_and_rare_labels_are_everywhere():
    items = [
        Item(f"{group:02}_{k}", 0, None, f"g{group}", (0, 2) if group < 3 else (group % 2,))
        for group in range(30)
        for k in range(3)
    ]
    source = listed_source(items, 3)
    for seed in range(5):
        split = make_split(source, seed=seed)
        homes = {part: {items[i].group for i in split.part(part)} for part in PARTS}
        assert sum(map(len, homes.values())) == 30
        assert all((source.count_labels(split.part(part)) > 0).all() for part in PARTS)


def test_too_few_images_of_a_label_are_told():
    with pytest.raises(DataError, match=r"1 class has too few images to be split: c \(2\)"):
        make_split(several({(0,): 20, (1,): 20, (1, 2): 2}))


def test_the_label_with_fewest_images_is_dealt_out_first():
    """By hand: all images have a, the first and the third b, too; dealt out by a alone, b would be in one half."""
    counts = np.array([[1, int(k in (0, 2))] for k in range(12)])
    part = deal_out(counts, np.ones(12, np.int64), np.array([0.5, 0.5]))
    assert [counts[part == k].sum(0).tolist() for k in (0, 1)] == [[6, 1], [6, 1]]


def test_groups_by_pattern_cross_label_sets():
    source = several({(0,): 4, (1,): 4, (): 4})
    grouped = with_groups(source, r"^(\d\d)")
    assert grouped.items[0].group == grouped.items[4].group == grouped.items[8].group
