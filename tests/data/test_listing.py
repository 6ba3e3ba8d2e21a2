"""CSV files of labelled images: what is read, what is refused, and that they are as good as folders."""

from __future__ import annotations

import csv
import io
import os
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapling.data import archives, table
from sapling.data.layout import Item
from sapling.data.listing import read_listing
from sapling.data.packed import open_store
from sapling.data.sources import open_source
from sapling.data.splits import make_split
from sapling.data.table import Faults, read_table
from sapling.errors import DataError
from tests.data.pictures import class_pictures, pictures, write_folder, write_zip


def listed(root, text, files=("a.png", "b.png", "c.png"), name="data.csv"):
    write_folder(root, pictures(files))
    path = root / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(path):
    with pytest.raises(DataError) as caught:
        open_source(path)
    return str(caught.value)


def as_csv(rows):
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    return file.getvalue()


def test_a_csv_of_a_folder_is_the_same_data_as_the_folder(tmp_path):
    files = class_pictures(["七叶树", "Ärger", "dog"], each=7)
    folder = open_source(write_folder(tmp_path / "data", files))
    rows = [["image", "label"], *([name, name.partition("/")[0]] for name in reversed(files))]
    (tmp_path / "data" / "all.csv").write_text(as_csv(rows), encoding="utf-8")
    source = open_source(tmp_path / "data" / "all.csv")
    assert (source.kind, source.name) == ("csv", "all")
    assert (source.classes, source.items, source.stamp()) == (folder.classes, folder.items, folder.stamp())
    assert make_split(source).fingerprint == make_split(folder).fingerprint
    assert open_store(source, 12).folder == open_store(folder, 12).folder
    np.testing.assert_array_equal(source.open(source.items[3]), folder.open(folder.items[3]))


def test_splits_and_groups(tmp_path):
    text = "Image,LABEL,Split,gRoup\nb.png,cat,Training,t1\na.png,dog,VALID,\nc.png,dog,,t 2\n"
    source = open_source(listed(tmp_path, text))
    assert source.classes == ("cat", "dog")
    assert source.items == (
        Item("a.png", 1, "val", None),
        Item("b.png", 0, "train", "t1"),
        Item("c.png", 1, None, "t 2"),
    )
    assert source.notes == ("Counted to train, from where missing splits are cut: 1 image of no split.",)


def test_columns_stand_in_any_order_and_others_are_noted(tmp_path):
    source = open_source(listed(tmp_path, "group,width,label,image\nt1,3,cat,a.png\n,4,dog,b.png\n"))
    assert source.items == (Item("a.png", 0, None, "t1"), Item("b.png", 1))
    assert source.notes == ("Ignored: 1 column of data.csv (width).",)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_marks_line_ends_quotes_and_empty_rows(tmp_path, end, mark):
    files = ['1, "the" best.png', "树/二.png", "c.png"]
    text = mark + end.join(
        ["image,label", '"1, ""the"" best.png","cat, small"', "", ",", '树/二.png,"dog"', "c.png,狗", ",", ""]
    )
    source = open_source(listed(tmp_path, text, files))
    assert source.classes == ("cat, small", "dog", "狗")
    assert [item.key for item in source.items] == sorted(files)
    assert source.open(source.items[0]).size == (12, 12)


def test_paths_have_one_spelling(tmp_path):
    files = ["x/a.png", "x/b.png", "c.png"]
    source = open_source(listed(tmp_path, "image,label\n./x//a.png,1\nx\\b.png,2\nx/../c.png,2\n", files))
    assert [item.key for item in source.items] == ["c.png", "x/a.png", "x/b.png"]


def test_letters_with_accents_taken_apart_are_one_class(tmp_path):
    source = open_source(listed(tmp_path, "image,label\na.png,cafe\u0301\nb.png,caf\u00e9\nc.png,x\n"))
    assert source.classes == ("caf\u00e9", "x")


def test_an_image_needs_no_ending_that_says_so(tmp_path):
    assert len(open_source(listed(tmp_path, "image,label\na,1\nb,2\n", ["a", "b"])).items) == 2


def test_the_stamp_follows_the_files_and_labels(tmp_path):
    path = listed(tmp_path, "image,label,split\na.png,cat,\nb.png,dog,\nc.png,dog,\n")
    first = open_source(path).stamp()
    assert open_source(path).stamp() == first
    path.write_text("image,label,split\na.png,cat,\nb.png,dog,\nc.png,cat,\n")
    assert open_source(path).stamp() != first
    path.write_text("image,label,split\na.png,cat,train\nb.png,dog,test\nc.png,dog,\n")
    assert open_source(path).stamp() == first  # the store does not depend on the split
    os.utime(tmp_path / "a.png", (1, 1))
    assert open_source(path).stamp() != first


# What is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("gone.png,cat", "there is no file 'gone.png'"),
        (" a.png,cat", "there is no file ' a.png'; its name begins or ends with a blank"),
        ("../a.png,cat", "the path '../a.png' leaves the folder"),
        ("x/../../a.png,cat", "leaves the folder"),
        ("..,cat", "leaves the folder"),
        ("x\\..\\..\\a.png,cat", "leaves the folder"),
        ("/etc/passwd,cat", "the path '/etc/passwd' is absolute"),
        ("C:\\a.png,cat", "is absolute"),
        ("\\\\server\\a.png,cat", "is absolute"),
        ("https://example.org/a.png,cat", "is an address"),
        (".,cat", "'.' is no file"),
        ("a\0b.png,cat", "cannot be read"),
        (",cat", "no image is named"),
        ("c.png,", "the label is empty"),
        ("c.png,  ", "the label is empty"),
        ("c.png, cat", "a blank at an end"),
        ('c.png,"c\nat"', "control character"),
        ("c.png,cat,tset", "there is no split 'tset'; did you mean 'test'?"),
        ("c.png,cat,7", "allowed: train, val, test or nothing"),
        ("c.png,cat,,g ", "the group 'g ' has a control character or a blank"),
        ("a.png,dog", "the image 'a.png' is listed twice, first in line 2"),
        ("./a.png,dog", "listed twice"),
        ("c.png,cat,,g,more", "5 cells instead of 4; a comma in a name needs quotes"),
    ],
)
def test_a_row_that_cannot_be_used(tmp_path, row, says):
    row += "," * max(0, 3 - row.count(","))
    text = f'image,label,split,group\na.png,cat,,\nb.png,"dog",,\n{row}\n'
    said = refused(listed(tmp_path, text))
    assert "1 thing is wrong in data.csv:\n    line 4: " in said
    assert says in said
    assert str(tmp_path / "data.csv") in said


def test_all_that_is_wrong_is_said_at_once_in_the_order_of_the_lines(tmp_path):
    rows = ["a.png,cat", *(f"gone{k}.png,dog" for k in range(30)), "only one"]
    rows[4] = "b.png,"
    said = refused(listed(tmp_path, "image,label\n" + "\n".join(rows) + "\n"))
    assert "31 things are wrong" in said
    shown = [line.strip() for line in said.splitlines() if line.startswith("    line ")]
    assert [int(line.split()[1].rstrip(":")) for line in shown] == list(range(3, 23))
    assert "line 6: the label is empty" in shown
    assert "and 11 more" in said


def test_lines_are_counted_from_the_start_of_a_row_of_several(tmp_path):
    said = refused(listed(tmp_path, 'image,label,note\na.png,cat,"one\ntwo\nthree"\n\ngone.png,dog,"x\ny"\n'))
    assert "line 6: there is no file 'gone.png'" in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (b"image,label\n", "no image is listed"),
        (b"image,label\na.png,cat\n", "only one class, 'cat'"),
        (b"a.png,cat\nb.png,dog\n", "the first line is 'a.png, cat': it names no column 'image'"),
        (b"images,label\na.png,cat\n", "names no column 'image'; did you mean 'images'?"),
        (b"image,Image,label\n", "names the column 'image' twice"),
        (b"image;label\na.png;cat\n", "the columns are separated by ';'"),
        (b"", "a header image,label[,split][,group] and cells separated by commas"),
        (b'"image";"label";"split"\na.png;cat;\n', "the columns are separated by ';'"),
        (b"image\tlabel\na.png\tcat\n", "the columns are separated by tabs"),
        (b"image,label,Gruop\na.png,cat,1\n", "the column 'Gruop': did you mean 'group'?"),
        (b"image, label\na.png,cat\n", "names no column 'label'"),
        ("image,label\na.png,Käse\n".encode("latin-1"), "not UTF-8 text (byte 19)"),
        ("image,label\n".encode("utf-16"), "not UTF-8 text"),
        (b'image,label\na.png,"cat\nb.png,dog\n', "line 2 is no CSV: unexpected end of data"),
        (b'image,label\na.png,"cat"x\n', "line 2 is no CSV"),
        (b"image,label\na.png," + b"x" * 200_000 + b"\n", "line 2 is no CSV: field larger"),
    ],
)
def test_a_file_that_is_no_such_table(tmp_path, text, says):
    assert says in refused(listed(tmp_path, text))


def test_names_cannot_command_the_terminal(tmp_path):
    said = refused(listed(tmp_path, "image,label,\x1b[2J\n\x1b[2J.png,cat,1\na.png,\x1b[2J;dog,1\n"))
    assert "\x1b" not in said


@pytest.mark.parametrize("content", [b"image,label\n" + b"a" * 3000, b"image,label\n" + b"a.png,cat\n" * 300])
def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch, content):
    monkeypatch.setattr(table, "MAX_TABLE_BYTES", 2000)
    monkeypatch.setattr(archives, "MAX_TABLE_BYTES", 2000)
    path = listed(tmp_path, content)
    monkeypatch.setattr(type(path), "read_bytes", None)
    assert f"the file has {len(content):,} bytes, more than the 2,000 that are read" in refused(path)
    assert "more than the 2,000" in refused(write_zip(tmp_path / "z.zip", {"a.csv": content, "x/a.png": b""}))


def test_a_csv_elsewhere_and_in_capitals(tmp_path, monkeypatch):
    path = listed(tmp_path / "sub", "image,label\na.png,cat\nb.png,dog\n", name="ALL.CSV")
    monkeypatch.chdir(tmp_path)
    source = open_source("sub/ALL.CSV")
    assert source.open(source.items[0]).size == (12, 12)
    assert open_source(path).stamp() == source.stamp()


# Properties ---------------------------------------------------------------------------------------------

CELLS = st.text(st.characters(blacklist_categories=("Cs",)), max_size=8)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=8),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    mark=st.booleans(),
)
def test_what_a_csv_writer_writes_is_read_back(tmp_path_factory, rows, end, quoting, mark):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    with path.open("w", newline="", encoding="utf-8-sig" if mark else "utf-8") as file:
        # The reader is strict about lone line ends, which some versions of the writer do not quote.
        write = csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL if "\n" in str(rows) else quoting)
        write.writerow(["one", "two", "three"])
        write.writerows([cell.replace("\r", "") for cell in row] for row in rows)
    faults = Faults(path)
    found, notes = read_table(path, faults, needed=("one",), optional=("two", "three"))
    expected = [[cell.replace("\r", "") for cell in row] for row in rows]
    assert [list(row.cells.values()) for row in found] == [row for row in expected if any(row)]
    assert (faults.found, notes) == ([], ())
    assert [row.line for row in found] == sorted({row.line for row in found})


LABELS = st.text(string.ascii_letters + "äß树, '\"-", min_size=1, max_size=6).filter(lambda name: name == name.strip())


@settings(max_examples=60, deadline=None)
@given(
    rows=st.dictionaries(
        st.sampled_from([f"x/{k}.png" for k in range(9)]),
        st.tuples(LABELS, st.sampled_from(["", "train", "VAL", "testing"]), st.sampled_from(["", "g1", "g,2"])),
        min_size=2,
    ),
    seed=st.randoms(use_true_random=False),
)
def test_the_order_of_the_rows_does_not_matter(tmp_path_factory, rows, seed):
    root = tmp_path_factory.mktemp("listing")
    write_folder(root, dict.fromkeys(rows, b"never opened"))
    table = [[name, *cells] for name, cells in rows.items()]
    found = []
    for number in range(2):
        path = root / f"{number}.csv"
        path.write_text(as_csv([["image", "label", "split", "group"], *table]), encoding="utf-8")
        found.append(None if len({row[1] for row in table}) < 2 else read_listing(path))
        seed.shuffle(table)
    if found[0] is None:
        return
    assert found[0] == found[1]
    assert {item.key: found[0].classes[item.label] for item in found[0].items} == {k: v[0] for k, v in rows.items()}
    assert {item.key: item.group for item in found[0].items} == {k: v[2] or None for k, v in rows.items()}
    splits = {"": None, "train": "train", "VAL": "val", "testing": "test"}
    assert {item.key: item.split for item in found[0].items} == {k: splits[v[1]] for k, v in rows.items()}


@settings(max_examples=200, deadline=None)
@given(content=st.one_of(st.binary(max_size=60), st.text("image,label\n\"';\t\0ab.", max_size=60).map(str.encode)))
def test_any_file_is_read_or_refused_in_words(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "any.csv"
    path.write_bytes(b"image,label\n" + content)
    with pytest.raises(DataError) as caught:  # no image is there, so nothing can be right
        read_listing(path)
    assert str(caught.value).isprintable() or "\n" in str(caught.value)
