from __future__ import annotations

import pytest

from sapling.data.groups import propose_pattern, with_groups
from sapling.data.layout import Item
from sapling.data.sources import open_source
from sapling.data.splits import make_split
from sapling.errors import ConfigError
from tests.data.pictures import class_pictures, listed_source, pictures, real, write_zip


def test_groups_come_from_the_file_name(tmp_path):
    paths = [f"{name}/tree{k}_view{v}.png" for name in ("ash", "oak") for k in range(3) for v in range(2)]
    path = write_zip(tmp_path / "a.zip", pictures([*paths, "oak/alone.png"]))
    source = with_groups(open_source(path), "(.+)_view")
    assert {item.key: item.group for item in source.items}["oak/tree1_view0.png"] == "oak/tree1"
    assert {item.key: item.group for item in source.items}["oak/alone.png"] is None
    assert "6 groups" in source.notes[-2]
    assert "2 images in the largest" in source.notes[-2]
    assert "1 image without a match" in source.notes[-2]
    assert "3 group names such as 'tree0' in more than one class" in source.notes[-1]
    whole = with_groups(open_source(path), r"tree\d")
    assert {item.group for item in whole.items} == {f"{c}/tree{k}" for c in ("ash", "oak") for k in range(3)} | {None}


def test_groups_of_two_classes_are_one_only_where_the_pattern_is_for_paths():
    items = [Item(f"train/{c}/P{k}_left.png", c, "train") for c in range(2) for k in range(3)]
    by_name = with_groups(listed_source(items, 2), r"^(P\d+)_")
    assert len({item.group for item in by_name.items}) == 6
    by_path = with_groups(listed_source(items, 2), r"/(P\d+)_")
    assert {item.group for item in by_path.items} == {"P0", "P1", "P2"}
    assert not any("more than one class" in note for note in by_path.notes)
    # A slash in brackets says what the name must not hold, not that folders are asked for.
    assert len({item.group for item in with_groups(listed_source(items, 2), "([^/]+)_left").items}) == 6
    # The class counts, not its folder: images of one group in train and in val are a leak that must be seen.
    items += [Item("val/0/P1_right.png", 0, "val")]
    groups = {item.key: item.group for item in with_groups(listed_source(items, 2), r"^(P\d+)_").items}
    assert groups["val/0/P1_right.png"] == groups["train/0/P1_left.png"]
    with pytest.raises(ConfigError, match="matches no path"):
        with_groups(listed_source(items, 2), "test/(zebra)")


@pytest.mark.parametrize(("pattern", "says"), [("(", "no regular expression"), ("zebra", "matches no file name")])
def test_a_wrong_group_pattern(tmp_path, pattern, says):
    path = write_zip(tmp_path / "a.zip", class_pictures())
    with pytest.raises(ConfigError, match=says):
        with_groups(open_source(path), pattern)


def listed(*names):
    return tuple(Item(f"train/oak/{name}.png", 0, "train") for name in names)


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["oak_1_view000", "oak_1_view120", "oak_2_view000", "oak_2_view120"], "(.+)_view"),
        (["p3-slice-001", "p3-slice-002", "p3-slice-003"], "(.+)-slice-"),
        (["AnnualCrop_1", "AnnualCrop_10", "AnnualCrop_100"], None),
        (["airport_1", "airport_2"], None),
        (["IMG_0001", "IMG_0002", "overview1"], None),
        (["a_view1", "b_view1", "c_view1"], None),  # nothing is there twice
        (["a_view1", "a_view2", "b", "c", "d", "e"], None),  # only few are numbered
    ],
)
def test_names_that_speak_of_groups(names, pattern):
    assert propose_pattern(listed(*names)) == pattern
    if pattern:
        source = with_groups(listed_source(listed(*names), 1), pattern)
        assert len({item.group for item in source.items}) < len(names)


def test_a_split_that_parts_views_says_so_unless_it_knows_the_groups():
    items = [Item(f"{c}/{c}{k}_view{v}.png", c) for c in range(2) for k in range(9) for v in range(3)]
    source = listed_source(items, 2)
    assert make_split(source).notes[0].startswith("Leak? Names such as '0/0" + "0_view0.png'")
    assert "'(.+)_view'" in make_split(source).notes[0]
    assert not any("Leak" in note for note in make_split(with_groups(source, "(.+)_view")).notes)


def test_real_trees_are_found_out_and_other_sets_are_not():
    trees = open_source(real("street_trees_lidar.zip"))
    assert propose_pattern(trees.items) == "(.+)_view"
    assert len({item.group for item in with_groups(trees, "(.+)_view").items}) == 847
    assert propose_pattern(open_source(real("aid_100.zip")).items) is None
    assert propose_pattern(open_source(real("eurosat_rgb.zip")).items) is None
