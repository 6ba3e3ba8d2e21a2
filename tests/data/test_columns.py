"""CSV files with columns of other names, inside zips and at the top of folders."""

from __future__ import annotations

import numpy as np
import pytest

from sapling.data.listing import Columns
from sapling.data.sources import open_source
from sapling.data.splits import make_split
from sapling.errors import DataError
from tests.data.pictures import class_pictures, encoded, picture, pictures, write_folder, write_zip
from tests.data.test_listing import as_csv, listed, refused

# Columns of other names -------------------------------------------------------------------------------------

FIELD = "file,species,Tree ID,height,group\na.png,elm,t1,3,x\nb.png,oak,t1,4,x\nc.png,oak,,5,y\n"


def test_columns_of_other_names(tmp_path):
    path = listed(tmp_path, FIELD)
    source = open_source(path, columns=Columns("File", "species", "tree id"))
    assert source.classes == ("elm", "oak")
    assert [item.group for item in source.items] == ["t1", "t1", None]
    assert "1 group by the column 'tree id', 2 images in the largest; 1 image of no group." in source.notes
    # A column that happens to be called group is not used beside the one that was asked for.
    assert any("Ignored: 2 columns" in note and "group" in note for note in source.notes)
    assert [item.group for item in open_source(path, columns=Columns("file", "species")).items] == ["x", "x", "y"]


def test_any_column_can_be_the_group(tmp_path):
    path = listed(tmp_path, "image,label\na.png,cat\nb.png,dog\nc.png,dog\n")
    source = open_source(path, columns=Columns(group="label"))
    assert [item.group for item in source.items] == ["cat", "dog", "dog"]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (Columns("file", "species", "tree_id"), "names no column 'tree_id'; did you mean 'tree id'?"),
        (Columns("file", "specie"), "names no column 'specie'; did you mean 'species'?"),
        (Columns("files", "species"), "names no column 'files'; did you mean 'file'?"),
    ],
)
def test_a_column_that_is_not_there(tmp_path, columns, says):
    with pytest.raises(DataError) as caught:
        open_source(listed(tmp_path, FIELD), columns=columns)
    assert says in str(caught.value)


def test_a_group_column_that_is_empty(tmp_path):
    path = listed(tmp_path, "image,label,tree\na.png,cat,\nb.png,dog,\n")
    with pytest.raises(DataError, match="the group column 'tree' is empty in every row"):
        open_source(path, columns=Columns(group="tree"))


def test_columns_of_what_is_no_csv_are_refused(tmp_path):
    files = class_pictures()
    for source in (write_folder(tmp_path / "f", files), write_zip(tmp_path / "z.zip", files), "digits", "eurosat"):
        with pytest.raises(DataError, match="group_column 'tree': these images are not listed by a CSV file"):
            open_source(source, columns=Columns(group="tree"))


def test_the_groups_of_a_column_stay_together(tmp_path):
    rows = [[f"x/{k}.png", "ab"[k // 4 % 2], f"t{k // 4}"] for k in range(80)]
    write_folder(tmp_path, pictures(row[0] for row in rows))
    (tmp_path / "all.csv").write_text(as_csv([["image", "label", "tree"], *rows]))
    source = open_source(tmp_path / "all.csv", columns=Columns(group="tree"))
    split = make_split(source)
    train, val, test = ({source.items[i].group for i in split.part(part)} for part in ("train", "val", "test"))
    assert len(train) + len(val) + len(test) == len(train | val | test) == 20


# Inside a zip or at the top of a folder ---------------------------------------------------------------------


@pytest.mark.parametrize("top", ["", "field work/2024/"])
def test_a_listing_inside_a_zip_or_folder(tmp_path, top):
    files = class_pictures(["七叶树", "Ärger", "dog"], each=4)
    rows = [["image", "label", "split", "group"]]
    rows += [
        [f"./{name}", name.partition("/")[0].upper(), "train" if k % 3 else "test", f"g{k}"]
        for k, name in enumerate(files)
    ]
    content = {top + name: data for name, data in files.items()} | {f"{top}labels.CSV": as_csv(rows).encode()}
    content |= {"__MACOSX/._labels.csv": b"\0\5", f"{top}read me.txt": b""}
    zipped = open_source(write_zip(tmp_path / "z.zip", content))
    folder = open_source(write_folder(tmp_path / "z", content))
    alone = open_source(tmp_path / "z" / top / "labels.CSV")
    assert zipped.classes == folder.classes == alone.classes == ("DOG", "ÄRGER", "七叶树")
    assert zipped.items == folder.items == alone.items
    assert {item.split for item in zipped.items} == {"train", "test"}
    assert f"Labels are those of {top}labels.CSV." in zipped.notes
    assert (zipped.name, folder.name) == ("z", "z")
    np.testing.assert_array_equal(zipped.open(zipped.items[5]), alone.open(alone.items[5]))
    assert make_split(zipped).fingerprint == make_split(folder).fingerprint
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != "z"] == ["z.zip"]


def test_groups_by_a_column_inside_a_zip(tmp_path):
    content = {name: encoded(picture(k)) for k, name in enumerate(("a.png", "b.png", "c.png"))}
    path = write_zip(tmp_path / "z.zip", content | {"field.csv": FIELD.encode()})
    source = open_source(path, columns=Columns("file", "species", "Tree ID"))
    assert [item.group for item in source.items] == ["t1", "t1", None]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("../../etc/passwd,cat", "leaves the folder of the CSV file"),
        ("/etc/passwd,cat", "is absolute"),
        ("gone.png,cat", "there is no file 'gone.png'"),
        ("list.csv/../../x.png,cat", "leaves the folder"),
        ("dog,cat", "there is no file 'dog'"),
    ],
)
def test_a_listing_inside_a_zip_names_only_what_is_in_it(tmp_path, row, says):
    (tmp_path / "gone.png").write_bytes(encoded(picture()))
    rows = "image,label\n" + "".join(f"{name},{name[:3]}\n" for name in class_pictures()) + row + "\n"
    path = write_zip(tmp_path / "z.zip", class_pictures() | {"list.csv": rows.encode()})
    said = refused(path)
    assert "1 thing is wrong in list.csv:\n    line 14: " in said
    assert says in said
    assert f"{path}/list.csv" in said


@pytest.mark.parametrize(
    "others",
    [
        {"meta.csv": b"image,width\ncat/cat_0.png,12\n"},
        {"cat/deep.csv": b"image,label\nx,y\n"},
        {"a.csv": b"image,label\nx,y\n", "b.csv": b"image,label\nx,y\n"},
        {"a.csv": b"\xff\xfe\0"},
        {"a.csv": b""},
        {"a.csv": b'"image,label'},
    ],
)
def test_class_folders_beside_other_csv_files_stay_class_folders(tmp_path, others):
    source = open_source(write_zip(tmp_path / "z.zip", class_pictures() | others))
    assert source.classes == ("cat", "dog")
    assert len(source.items) == 12
    if "b.csv" in others:
        assert any("2 CSV files that list images (a.csv, b.csv)" in note for note in source.notes)


def test_a_listing_of_other_delimiters_inside_a_zip_is_said(tmp_path):
    said = refused(write_zip(tmp_path / "z.zip", class_pictures() | {"l.csv": b"image;label\ncat/cat_0.png;x\n"}))
    assert "the columns are separated by ';'" in said
