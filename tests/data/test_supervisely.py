"""Annotations of Supervisely: which class an image gets, what is left out, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapling.data import supervisely
from sapling.data.layout import Item
from sapling.data.sources import open_source
from sapling.data.splits import make_split
from sapling.data.supervisely import arrange_annotated
from sapling.errors import DataError
from tests.data.pictures import encoded, picture, write_folder, write_zip


def annotation(*, tags=(), objects=()):
    content = {
        "description": "",
        "tags": [{"name": tag, "value": None} if isinstance(tag, str) else tag for tag in tags],
        "size": {"height": 12, "width": 12},
        "objects": [{"classTitle": title, "geometryType": "rectangle", "tags": []} for title in objects],
    }
    return json.dumps(content, ensure_ascii=False).encode()


def project(labels, *, home="ds0", top="", **kind):
    """Files of a project: class by name of image."""
    files = {}
    for number, (name, label) in enumerate(labels.items()):
        files[f"{top}{home}/img/{name}"] = encoded(picture(number))
        tags, objects = ((), (label, label)) if kind.get("as_objects") else ((label,), ())
        files[f"{top}{home}/ann/{name}.json"] = annotation(tags=tags, objects=objects)
    return files


TREES = {f"{name}_{k}.png": name for name in ("樱花", "oak <b>", "elm") for k in range(4)}


@pytest.mark.parametrize("as_objects", [False, True])
@pytest.mark.parametrize("top", ["", "urban/trees/"])
def test_a_folder_and_a_zip_in_this_layout_are_recognised(tmp_path, as_objects, top):
    files = project(TREES, top=top, as_objects=as_objects)
    files[f"{top}meta.json"] = b'{"classes": [{"title": "elm"}], "tags": []}'
    files["README.md"] = b"# trees"
    folder = open_source(write_folder(tmp_path / "f", files))
    zipped = open_source(write_zip(tmp_path / "z.zip", files))
    assert folder.classes == zipped.classes == ("elm", "oak <b>", "樱花")
    assert folder.items == zipped.items
    assert {item.key: folder.classes[item.label] for item in folder.items} == {
        f"ds0/img/{name}": label for name, label in TREES.items()
    }
    assert all(item.split is None for item in folder.items)
    np.testing.assert_array_equal(folder.open(folder.items[3]), zipped.open(zipped.items[3]))
    assert len(folder.stamp()) == len(zipped.stamp()) == 64
    assert "Labels are those of the Supervisely annotations." in folder.notes


def test_data_sets_named_as_splits_are_splits(tmp_path):
    files = {}
    for home in ("train", "val", "test"):
        files |= project(TREES, home=home)
    source = open_source(write_zip(tmp_path / "z.zip", files))
    assert source.items[0] == Item("test/img/elm_0.png", 0, "test")
    split = make_split(source)
    assert [len(split.part(part)) for part in ("train", "val", "test")] == [12, 12, 12]


def test_data_sets_of_other_names_are_cut(tmp_path):
    files = project(TREES, home="train") | project(TREES, home="ds1")
    source = open_source(write_zip(tmp_path / "z.zip", files))
    assert {item.split for item in source.items} == {"train", None}
    assert any("12 images of no split" in note for note in source.notes)


def test_the_ending_of_the_image_may_be_left_out_of_the_name(tmp_path):
    files = {name.replace(".png.json", ".json"): data for name, data in project(TREES).items()}
    assert len(open_source(write_zip(tmp_path / "z.zip", files)).items) == 12


@pytest.mark.parametrize(
    ("content", "label"),
    [
        (annotation(tags=["oak"]), "oak"),
        (annotation(tags=["oak"], objects=["crown", "trunk"]), "oak"),
        (annotation(tags=["oak", {"name": "city", "value": "Wuhan"}]), "oak"),
        (annotation(tags=[{"name": "species", "value": "oak"}]), "oak"),
        (annotation(tags=[{"name": "height", "value": 7}], objects=["oak"]), "oak"),
        (annotation(tags=["for objects"], objects=["oak"]), "oak"),
        (annotation(tags=["  oak "]), "oak"),
        (annotation(objects=["oak", "oak"]), "oak"),
        (annotation(), None),
        (b"{}", None),
        (b'{"tags": "oak", "objects": {"classTitle": "oak"}}', None),
        (b'{"tags": [1, null, {"name": 3}, {}], "objects": [[]]}', None),
        (annotation(tags=["oak", "elm"]), "several"),
        (annotation(objects=["oak", "elm"]), "several"),
        (annotation(tags=[{"name": "a", "value": "x"}, {"name": "b", "value": "y"}]), "several"),
    ],
)
def test_the_class_of_an_image(tmp_path, content, label):
    files = project({f"{k}.png": "elm" if k % 2 else "ash" for k in range(20)})
    files |= {"ds0/img/x.png": encoded(picture()), "ds0/ann/x.png.json": content}
    files["meta.json"] = b'{"tags": [{"name": "for objects", "applicable_type": "objectsOnly"}]}'
    source = open_source(write_zip(tmp_path / "z.zip", files))
    named = {item.key: source.classes[item.label] for item in source.items}.get("ds0/img/x.png")
    if label in (None, "several"):
        said = "names no class" if label is None else "of several classes"
        assert named is None
        assert any(said in note and "ds0/img/x.png" in note and "1 image" in note for note in source.notes)
    else:
        assert named == label


def test_many_images_of_several_classes_are_refused(tmp_path):
    files = project(TREES)
    for name in ("elm_0", "elm_1"):
        files[f"ds0/ann/{name}.png.json"] = annotation(objects=["elm", "oak"])
    with pytest.raises(DataError, match=r"2 images of several classes \(ds0/img/elm_0\.png, .* only one class"):
        open_source(write_zip(tmp_path / "z.zip", files))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is no JSON"),
        (b"\xff\xfe", "it is no JSON"),
        (b"[1, 2]", "it holds no JSON object"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"a":' * 100_000, "it is nested too deeply"),
        (b'{"tags": ' + b"9" * 10_000 + b"}", "it is no JSON"),
        (b'{"tags": [' + b"{}," * 3_000_000 + b"{}]}", "more than the 8,388,608 bytes"),
    ],
)
def test_annotations_that_cannot_be_used_are_named(tmp_path, content, says):
    files = project(TREES) | {"ds0/ann/elm_2.png.json": content}
    for source in (write_zip(tmp_path / "z.zip", files), write_folder(tmp_path / "f", files)):
        with pytest.raises(DataError) as caught:
            open_source(source)
        assert "1 of 12 annotations cannot be used:\n    ds0/ann/elm_2.png.json: " in str(caught.value)
        assert says in str(caught.value)


def test_a_bomb_in_a_zip_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisely, "MAX_JSON_BYTES", 10_000)
    read = []
    files = project(TREES) | {"ds0/ann/elm_2.png.json": b" " * 5_000_000}
    path = write_zip(tmp_path / "z.zip", files)
    assert path.stat().st_size < 100_000
    from sapling.data import archives

    real = archives._read
    monkeypatch.setattr(archives, "_read", lambda a, e, n: read.append(len(found := real(a, e, n))) or found)
    with pytest.raises(DataError, match="more than the 10,000 bytes"):
        open_source(path)
    assert max(read) <= 10_001


def test_a_bad_meta_json_is_named(tmp_path):
    with pytest.raises(DataError, match=r"meta\.json cannot be used: it is no JSON"):
        open_source(write_zip(tmp_path / "z.zip", project(TREES) | {"meta.json": b"{"}))


def test_folders_called_img_without_annotations_are_class_folders(tmp_path):
    files = {f"{name}/{k}.png": encoded(picture(k)) for name in ("img", "ann") for k in range(3)}
    assert open_source(write_zip(tmp_path / "z.zip", files)).classes == ("ann", "img")


def test_only_one_class(tmp_path):
    with pytest.raises(DataError, match="only one class, 'elm'"):
        open_source(write_zip(tmp_path / "z.zip", project({"1.png": "elm", "2.png": "elm"})))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["tags", "objects", "name", "value", "classTitle"]), inner, max_size=4)
    ),
    max_leaves=12,
)


ANY = JSON.map(json.dumps).map(str.encode) | st.binary(max_size=12)


@settings(max_examples=40)
@given(st.lists(ANY, min_size=1, max_size=3), st.binary(max_size=9))
def test_any_annotation_is_read_or_refused_in_words(contents, meta):
    files = {f"a/ann/{k}.png.json": content for k, content in enumerate(contents)}
    files |= {f"a/img/{k}.png": b"" for k in range(len(contents))}
    files |= {"a/img/z.png": b"", "a/ann/z.png.json": annotation(tags=["z"]), "a/meta.json": meta or b"{}"}
    try:
        layout = arrange_annotated(files, lambda name, limit: files[name][:limit], where="here")
    except DataError as error:
        str(error).encode()  # it can be shown, whatever was read
        return
    assert layout is not None
    assert {layout.prefix + item.key for item in layout.items} <= set(files)
    assert len(layout.classes) >= 2
