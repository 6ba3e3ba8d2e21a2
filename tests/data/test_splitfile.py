"""Splits as files: written, read back the same, and never half."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapling.data.layout import Item
from sapling.data.loader import load_data
from sapling.data.sources import open_source
from sapling.data.splitfile import read_split, split_text
from sapling.data.splits import make_split
from sapling.errors import DataError
from tests.data.pictures import class_pictures, encoded, listed_source, picture, write_folder, write_zip

PARTS = ("train", "val", "test")


@pytest.fixture
def source():
    return listed_source([Item(f"{name}/{k}.png", label) for label, name in enumerate("ab") for k in range(10)], 2)


def kept(path, source, split):
    path.write_bytes(split_text(source, split))
    return path


def lines_of(source, **changes):
    """A whole split as lines, in the order of the items; ``changes`` are by number of the line in the file."""
    lines = ["key,split", *(f"{item.key},{PARTS[k % 3]}" for k, item in enumerate(source.items))]
    for number, line in changes.items():
        lines[int(number.removeprefix("line")) - 1] = line
    return "\n".join(line for line in lines if line is not None) + "\n"


def refused(path, source, text, **options):
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_split(path, source, **options)
    return str(caught.value)


def test_a_split_is_read_back_as_it_was(source, tmp_path):
    split = make_split(source, seed=3)
    again = read_split(kept(tmp_path / "split.csv", source, split), source)
    for part in PARTS:
        np.testing.assert_array_equal(again.part(part), split.part(part))
    assert again.fingerprint == split.fingerprint
    assert again.notes == (f"The split is that of the file {tmp_path / 'split.csv'}.",)


def test_the_file_can_be_read_by_people(source):
    text = split_text(source, make_split(source)).decode().splitlines()
    assert text[0] == "key,split"
    assert [line.partition(",")[0] for line in text[1:]] == [item.key for item in source.items]
    assert {line.partition(",")[2] for line in text[1:]} == set(PARTS)


NAMES = st.text(st.characters(blacklist_characters="\0"), min_size=1, max_size=6).map(
    lambda name: os.fsdecode(name.encode("utf-8", "surrogatepass"))
)


@settings(max_examples=150, deadline=None)
@given(
    names=st.lists(NAMES, min_size=6, max_size=12, unique=True),
    seed=st.integers(0, 9),
)
def test_any_names_of_files_go_there_and_back(tmp_path_factory, names, seed):
    source = listed_source([Item(f"x/{name}", k % 2) for k, name in enumerate(sorted(names))], 2)
    split = make_split(source, seed=seed)
    path = kept(tmp_path_factory.mktemp("split") / "split.csv", source, split)
    assert read_split(path, source).fingerprint == split.fingerprint


def test_the_order_of_the_lines_and_the_case_of_names_do_not_matter(source, tmp_path):
    split = read_split(write_split(tmp_path, lines_of(source)), source)
    rest = lines_of(source).splitlines()[1:]
    text = "\n".join(["\ufeffKEY,Split,why", *(f"{line},x" for line in reversed(rest))])
    again = read_split(write_split(tmp_path, text.replace(",val,", ",Validation,")), source)
    assert again.fingerprint == split.fingerprint
    assert "Ignored: 1 column of given.csv (why)." in again.notes


def write_split(folder, text):
    path = folder / "given.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_given_val_stays_val(source, tmp_path):
    split = read_split(write_split(tmp_path, lines_of(source)), source)
    assert [list(split.part(part)[:2]) for part in PARTS] == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"line3": "a/77.png,val"}, "line 3: there is no image 'a/77.png'"),
        ({"line3": None}, "the image 'a/1.png' is not in the file"),
        ({"line4": "a/1.png,val"}, "line 4: the image 'a/1.png' stands there twice, first in line 3"),
        ({"line3": "a/1.png,vla"}, "line 3: there is no split 'vla'; did you mean 'val'?"),
        ({"line3": "a/1.png,"}, "line 3: there is no split ''; allowed: train, val, test"),
        ({"line3": "a/1.png"}, "line 3: 1 cell instead of 2"),
        ({"line3": "\x1b[2J,val"}, r"there is no image '\x1b[2J'"),
    ],
)
def test_what_does_not_fit_the_images_is_refused(source, tmp_path, changes, says):
    said = refused(tmp_path / "s.csv", source, lines_of(source, **changes))
    assert says in said
    assert "keys are such as 'a/0.png'" in said


def test_the_first_twenty_are_listed(source, tmp_path):
    said = refused(tmp_path / "s.csv", source, "key,split\n" + "".join(f"z/{k}.png,train\n" for k in range(15)))
    assert "35 things are wrong in s.csv" in said
    assert said.count("there is no image") == 15
    assert said.count("is not in the file") == 5
    assert "and 15 more" in said


def test_a_part_without_images_is_refused(source, tmp_path):
    said = refused(tmp_path / "s.csv", source, lines_of(source).replace(",test", ",train"))
    assert "no image is in test" in said


def test_a_class_without_a_training_image_is_refused(source, tmp_path):
    text = "\n".join(line.replace(",train", ",val") if line[:2] == "a/" else line for line in lines_of(source).split())
    assert "classes without a training image: class 0" in refused(tmp_path / "s.csv", source, text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is empty"),
        ("key;split\na;train\n", "separated by ';'"),
        ("image,split\na,train\n", "names no column 'key'"),
    ],
)
def test_what_is_no_split_file(source, tmp_path, text, says):
    assert says in refused(tmp_path / "s.csv", source, text)


def test_a_file_that_is_not_there(source, tmp_path):
    with pytest.raises(DataError, match=r"(?s)cannot be read: No such file.*none\.csv"):
        read_split(tmp_path / "none.csv", source)


def test_groups_that_the_file_parts_are_called_a_leak(tmp_path):
    source = listed_source([Item(f"{k % 2}/{k}.png", k % 2, None, f"tree {k // 4}") for k in range(12)], 2)
    split = read_split(write_split(tmp_path, lines_of(source)), source)
    assert any(note.startswith("Leak: 3 groups") for note in split.notes)


def test_some_may_be_missing_before_the_broken_are_known(source, tmp_path):
    text = lines_of(source, line3=None)
    assert sum(len(read_split(write_split(tmp_path, text), source, num_unlisted=1).part(p)) for p in PARTS) == 19
    assert "not in the file" in refused(tmp_path / "s.csv", source, lines_of(source, line3=None, line5=None))


# Through the loader -------------------------------------------------------------------------------------


def test_another_run_gets_the_same_split_from_a_zip_and_from_a_folder(tmp_path):
    files = class_pictures(each=20)
    first = load_data(write_zip(tmp_path / "a.zip", files), img_size=12, split_seed=5)
    path = kept(tmp_path / "split.csv", first.source, first.split)
    again = load_data(write_folder(tmp_path / "a", files), img_size=12, split_file=path)
    assert again.split.fingerprint == first.split.fingerprint
    assert load_data(tmp_path / "a", img_size=12).split.fingerprint != first.split.fingerprint


def test_broken_images_were_in_no_split_and_need_not_be_in_the_file(tmp_path):
    folder = write_folder(tmp_path / "a", class_pictures(each=60) | {"cat/cat_5.png": b""})
    first = load_data(folder, img_size=12)
    path = kept(tmp_path / "split.csv", first.source, first.split)
    assert b"cat_5.png" not in path.read_bytes()
    again = load_data(folder, img_size=12, split_file=path)
    assert again.split.fingerprint == first.split.fingerprint
    assert again.store.keys == tuple(item.key for item in again.source.items)
    # Repaired, it is an image that the file does not know.
    (folder / "cat/cat_5.png").write_bytes(encoded(picture(5)))
    with pytest.raises(DataError, match=r"the image 'cat/cat_5\.png' is not in the file"):
        load_data(folder, img_size=12, split_file=path)


def test_an_image_of_the_file_that_broke_since_is_named_as_that(tmp_path):
    folder = write_folder(tmp_path / "a", class_pictures(each=60))
    first = load_data(folder, img_size=12)
    path = kept(tmp_path / "split.csv", first.source, first.split)
    (folder / "cat/cat_5.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"the image 'cat/cat_5\.png' cannot be used and was skipped"):
        load_data(folder, img_size=12, split_file=path)


def test_a_wrong_file_is_found_before_anything_is_packed(tmp_path, monkeypatch):
    monkeypatch.setattr("sapling.data.loader.open_store", None)
    source = open_source(write_folder(tmp_path / "a", class_pictures(each=60)))
    with pytest.raises(DataError, match="there is no image"):
        load_data(source, split_file=write_split(tmp_path, "key,split\nelsewhere.png,train\n"))
