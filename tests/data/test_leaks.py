"""What crosses a split stops a run; what can be kept together is."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageOps

from sapling.data import similar
from sapling.data.duplicates import Match
from sapling.data.groups import with_groups
from sapling.data.leaks import check_leaks, clean_split, refuse_torn_groups, torn_groups
from sapling.data.namegroups import NamePattern
from sapling.data.packed import open_store
from sapling.data.pairs import keep_together, plain
from sapling.data.sources import Item, open_source
from sapling.data.splits import Split, make_split
from sapling.errors import DataError
from tests.data.pictures import listed_source, real
from tests.data.scenes import scene, split_scenes, write_scenes


def checked(path: Path, *, allow: bool = False, given_whole: bool = False, pattern: str | None = None):
    source = open_source(path)
    if pattern:
        source = with_groups(source, pattern)
    store = open_store(source, 48)
    return check_leaks(source, make_split(source), store, recut=None if given_whole else make_split, allow=allow)


def test_nothing_is_found_where_nothing_is(tmp_path):
    for path, whole in ((write_scenes(tmp_path / "a"), False), (split_scenes(tmp_path / "b"), True)):
        found = checked(path, given_whole=whole)
        found.stop_unless_allowed()
        assert found.leaks.found == ()
        assert found.pairs == ()
        assert not any("Leak" in note or "Kept" in note for note in found.split.notes)
        assert all(item.group is None for item in found.source.items)


def test_a_test_image_seen_in_training_stops_the_run(tmp_path):
    root = split_scenes(tmp_path / "d")
    scene(1003).save(root / "test" / "oak" / "again.png")
    ImageOps.mirror(scene(1105)).save(root / "val" / "lime" / "mirrored.png")
    found = checked(root, given_whole=True)
    with pytest.raises(DataError) as caught:
        found.stop_unless_allowed()
    said = str(caught.value)
    assert "2 pairs of images in different splits show the same picture" in said
    assert "test/oak/again.png (test) = train/oak/oak03.png (train)" in said
    assert "train/lime/lime05.png (train) = val/lime/mirrored.png (val), mirrored" in said
    assert "--allow-leaks" in said
    assert f"sapling inspect {root}" in said
    assert caught.value.exit_code == 2


def test_what_is_allowed_goes_on_and_says_so(tmp_path):
    root = split_scenes(tmp_path / "d")
    scene(1003).save(root / "test" / "oak" / "again.png")
    found = checked(root, given_whole=True, allow=True)
    found.stop_unless_allowed()
    [note] = [note for note in found.split.notes if note.startswith("Leak")]
    assert note == (
        "Leak, and the run was told to go on: 1 pair of images in different splits shows the same picture, for "
        "example test/oak/again.png (test) = train/oak/oak03.png (train)."
    )
    block = json.loads(json.dumps(found.leaks.as_dict()))
    assert block["allowed"] is True
    assert block["crossing"]["pairs"] == 1
    assert block["duplicates"] == {"exact": 1, "near": 0}
    assert block["found"] == ["1 pair of images in different splits shows the same picture"]


def test_a_split_made_here_keeps_the_same_picture_together(tmp_path):
    root = write_scenes(tmp_path / "d")
    for k in range(10):
        scene(k).save(root / "oak" / f"copy{k}.png")
    source = open_source(root)
    apart = make_split(source)
    parts = {source.items[int(i)].key: part for part in ("train", "val", "test") for i in apart.part(part)}
    assert any(parts[f"oak/copy{k}.png"] != parts[f"oak/oak{k:02d}.png"] for k in range(10)), "else this tests nothing"
    found = checked(root)
    found.stop_unless_allowed()
    assert "Kept together in the split: 20 images that show 10 pictures." in found.split.notes
    assert not any(pair.crosses for pair in found.pairs)
    assert (found.leaks.num_kept, found.leaks.num_kept_images) == (10, 20)
    groups = {item.key: item.group for item in found.source.items}
    assert groups["oak/copy3.png"] == groups["oak/oak03.png"] == "same picture: oak/copy3.png"
    assert groups["oak/oak15.png"] is None
    again = checked(root)
    assert again.split.fingerprint == found.split.fingerprint


def test_only_the_part_that_is_cut_here_can_be_kept_together(tmp_path):
    """Val becomes test and validation is cut from train: copies inside train part ways only if nobody looks."""
    root = tmp_path / "d"
    for part in ("train", "val"):
        write_scenes(root, part=part)
    for k in range(8):
        scene(1000 + k).save(root / "train" / "oak" / f"copy{k}.png")
    checked(root).stop_unless_allowed()
    scene(1001).save(root / "val" / "oak" / "copy.png")
    with pytest.raises(DataError, match="1 pair of images in different splits"):
        checked(root).stop_unless_allowed()


def test_one_picture_in_two_classes_is_named_and_stops_nothing(tmp_path):
    root = write_scenes(tmp_path / "d")
    scene(4).save(root / "lime" / "other.png")
    found = checked(root)
    found.stop_unless_allowed()
    [note] = [note for note in found.split.notes if note.startswith("Conflict")]
    assert note == (
        "Conflicting labels: 1 pair of images show the same picture in two classes: lime/other.png (lime) = "
        "oak/oak04.png (oak)."
    )


def test_groups_that_a_given_split_tears_stop_the_run(tmp_path):
    root = split_scenes(tmp_path / "d")
    scene(1).save(root / "test" / "oak" / "tree7_b.png")
    scene(2).save(root / "train" / "oak" / "tree7_a.png")
    source = with_groups(open_source(root), "(tree[0-9]+)_")
    split = make_split(source)
    with pytest.raises(DataError, match=r"tree7: test/oak/tree7_b.png \(test\), train/oak/tree7_a.png \(train\)"):
        refuse_torn_groups(source, split)
    refuse_torn_groups(source, split, allow=True)
    with pytest.raises(DataError, match="1 group with images in more than one split"):
        checked(root, given_whole=True, pattern="(tree[0-9]+)_").stop_unless_allowed()


def propose(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = NamePattern(pattern, 10, 40, ("oak: oak00.png, oak01.png",), 0.9, 1e-6)
    monkeypatch.setattr(similar, "propose_group_pattern", lambda *_, **__: found)


def test_groups_that_nobody_told_about_stop_the_run(tmp_path, monkeypatch):
    propose("([a-z]+[0-9])", monkeypatch)
    root = write_scenes(tmp_path / "d", each=40)
    found = checked(root)
    with pytest.raises(DataError) as caught:
        found.stop_unless_allowed()
    assert "names and pictures say that 40 images are 10 groups of images of one thing" in str(caught.value)
    assert "oak/oak0: oak/oak0" in str(caught.value)
    assert "--group-pattern '([a-z]+[0-9])' keeps them together" in str(caught.value)
    told = checked(root, pattern="([a-z]+[0-9])")
    told.stop_unless_allowed()
    assert told.leaks.pattern is None


def test_a_group_of_a_few_images_does_not_end_the_search_for_the_others(tmp_path, monkeypatch):
    propose("([a-z]+[0-9])", monkeypatch)
    source = open_source(write_scenes(tmp_path / "d", each=40))
    items = tuple(replace(item, group="one" if i < 2 else None) for i, item in enumerate(source.items))
    source = replace(source, items=items)
    found = check_leaks(source, make_split(source), open_store(source, 48), recut=make_split)
    with pytest.raises(DataError, match="names and pictures say"):
        found.stop_unless_allowed()


def test_a_pattern_that_cannot_help_is_not_proposed_as_the_remedy(tmp_path, monkeypatch):
    propose("([a-z]+[0-9])", monkeypatch)
    root = split_scenes(tmp_path / "d")  # the same names in all three parts
    with pytest.raises(DataError, match="without splits, and let --group-pattern"):
        checked(root, given_whole=True).stop_unless_allowed()


def test_too_few_pictures_to_split_are_said_to_be_copies(tmp_path):
    root = write_scenes(tmp_path / "d")
    for path in sorted((root / "lime").iterdir()):
        scene(500 + int(path.stem[-2:]) % 2).save(path)
    with pytest.raises(DataError, match=r"(?s)must stay in one split, and then 1 class has too few.*--allow-leaks"):
        checked(root)
    found = checked(root, allow=True)
    assert any(note.startswith("Leak") for note in found.split.notes)


def test_what_was_found_is_kept_and_not_searched_again(tmp_path, monkeypatch):
    root = write_scenes(tmp_path / "d")
    scene(4).save(root / "oak" / "again.png")
    first = checked(root)
    monkeypatch.setattr(similar, "find_matches", lambda *_, **__: pytest.fail("searched again"))
    monkeypatch.setattr(similar, "propose_group_pattern", lambda *_, **__: pytest.fail("searched again"))
    assert checked(root).pairs == first.pairs


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 1, "mark": "x", "found": []}', "damaged"])
def test_what_was_kept_of_other_pixels_or_is_damaged_is_searched_anew(tmp_path, content):
    root = write_scenes(tmp_path / "d")
    scene(4).save(root / "oak" / "again.png")
    source = open_source(root)
    store = open_store(source, 48)
    first = similar.find_duplicates(store)
    place = store.folder / similar.MATCHES_FILE
    whole = json.loads(place.read_text())
    bad = {"damaged": json.dumps({**whole, "found": [[0, 10**6, "near", "none", 0.1]]})}
    place.write_text(bad.get(content, content))
    assert similar.find_duplicates(store) == first
    assert json.loads(place.read_text()) == whole


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path, monkeypatch):
    root = write_scenes(tmp_path / "d")
    store = open_store(open_source(root), 48)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(similar.tempfile, "mkstemp", full)
    assert similar.find_duplicates(store) == ()
    assert not (store.folder / similar.MATCHES_FILE).exists()


def test_a_clean_split_is_crossed_by_nothing(tmp_path):
    root = split_scenes(tmp_path / "d")
    for k in range(4):
        scene(1000 + k).save(root / "test" / "oak" / f"copy{k}.png")
    found = checked(root, given_whole=True)
    store = open_store(found.source, 48)
    split = clean_split(found.source, similar.find_duplicates(store), None, make_split)
    assert split is not None
    assert sum(len(split.part(part)) for part in ("train", "val", "test")) == len(found.source.items)
    again = check_leaks(found.source, split, store, recut=None)
    assert again.leaks.found == ()


@settings(max_examples=60)
@given(
    groups=st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=2, max_size=12),
    links=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=8),
    zones=st.lists(st.integers(0, 1), min_size=12, max_size=12),
)
def test_joining_keeps_groups_and_joins_what_matches_within_a_zone(groups, links, zones):
    total = len(groups)
    items = [Item(f"x/{k:02d}.png", 0, None, group) for k, group in enumerate(groups)]
    matches = [Match(min(a, b), max(a, b), "near", "none", 0.1) for a, b in links if a != b and max(a, b) < total]
    joined, sets = keep_together(listed_source(items, 1), matches, np.array(zones[:total]))
    after = [item.group for item in joined.items]
    for i in range(total):
        for j in range(i):
            if groups[i] is not None and groups[i] == groups[j]:
                assert after[i] == after[j] is not None
    for match in matches:
        if zones[match.first] == zones[match.second]:
            assert after[match.first] == after[match.second] is not None
    assert sum(map(len, sets)) <= total
    # nothing else is changed: an image without group and match stays alone
    touched = {k for m in matches if zones[m.first] == zones[m.second] for k in (m.first, m.second)}
    for k in range(total):
        if groups[k] is None and k not in touched:
            assert after[k] is None
    assert [(i.key, i.label, i.split) for i in joined.items] == [(i.key, i.label, i.split) for i in items]


def test_torn_groups_are_those_in_two_parts():
    items = [Item(f"x/{k}.png", 0, None, group) for k, group in enumerate(["a", "a", "b", "b", None, "c"])]
    split = Split(*(np.array(part) for part in ([0, 2, 4], [3], [1, 5])))
    assert torn_groups(items, split) == ("a", "b")


def test_names_that_are_no_utf8_can_be_written():
    name = b"b\xe4ume/1.png".decode(errors="surrogateescape")
    assert plain(name) == r"b\udce4ume/1.png"
    assert plain("枫树/1.png") == "枫树/1.png"
    json.dumps(plain(name)).encode()
    assert re.fullmatch(r"[\x20-\x7e]+", plain(name))


def test_real_trees_split_image_by_image_are_refused_with_their_pattern(tmp_path):
    """Three views show one tree; validation is cut from train here, image by image."""
    root = tmp_path / "trees"
    with zipfile.ZipFile(real("street_trees_lidar.zip")) as archive:
        seen: dict[str, int] = {}
        for entry in sorted(archive.namelist()):
            folder = entry.rpartition("/")[0]
            if entry.endswith(".png") and len({*seen, folder}) <= 4 and seen.get(folder, 0) < 45:
                seen[folder] = seen.get(folder, 0) + 1
                place = root / "train" / folder.rpartition("/")[2] / entry.rpartition("/")[2]
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(archive.read(entry))
    with pytest.raises(DataError, match=r"--group-pattern '\(\.\+\)_view' keeps them together"):
        checked(root).stop_unless_allowed()
    told = checked(root, pattern="(.+)_view")
    assert told.leaks.pattern is None
    assert torn_groups(told.source.items, told.split) == ()
