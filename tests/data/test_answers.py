"""The files of kept answers: what is whole is read, what is not is made anew, and nothing is taken for another's."""

import errno
import gc
import json
import os
import zlib
from contextlib import nullcontext
from types import SimpleNamespace
from zlib import crc32 as zlib_crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapling.data import answers
from sapling.data.answers import is_part, mark_of, open_answers, part_name
from sapling.data.cache import clear_cache, list_cache
from sapling.data.partwriter import PartWriter
from sapling.errors import DataError, RunError
from sapling.teachers import build_cache

OF = {"teacher": "a", "data": "b"}
ROWS = np.array([2, 3, 5, 9])


@pytest.fixture
def store(tmp_path):
    found = open_answers(OF, ROWS, num_views=2, name="photos", folder=tmp_path / "answers")
    yield found
    found.close()


def write(store, view, values, part="logits"):
    with PartWriter(store, view, {part: values.shape[1:]}) as writer:
        writer.append(part, values[:1])
        writer.append(part, values[1:])
        writer.finish()


def test_what_was_written_is_read_as_float16(store):
    values = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    write(store, 1, values)
    found = store.read("logits", 1)
    assert found.dtype == np.float16
    assert np.array_equal(found, values.astype(np.float16))
    assert store.missing(["logits"]) == {0: ["logits"]}


def test_views_and_parts_do_not_share_a_file(store):
    one, two = np.full((4, 2), 1.0), np.full((4, 2), 2.0)
    for view, part, values in ((0, "logits", one), (1, "logits", two), (0, "tap.x", two), (1, "tap.x", one)):
        write(store, view, values, part)
    found = [float(store.read(part, view)[0, 0]) for part in ("logits", "tap.x") for view in (0, 1)]
    assert found == [1.0, 2.0, 2.0, 1.0]


@pytest.mark.parametrize("change", ["flip", "cut", "append", "empty"])
def test_a_damaged_file_is_noticed_removed_and_asked_for_again(store, change):
    write(store, 0, np.ones((4, 7)))
    path = next(store.place.glob("logits-0000-*.npy"))
    content = bytearray(path.read_bytes())
    if change == "flip":
        content[-3] ^= 1
    path.write_bytes({"cut": content[:-2], "append": content + b"x", "empty": b""}.get(change, content))
    with pytest.raises(RunError, match="damaged"):
        store.read("logits", 0)
    assert store.missing(["logits"]) == {0: ["logits"], 1: ["logits"]}


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), MemoryError()])
def test_what_the_system_refuses_is_no_damage(store, monkeypatch, error):
    write(store, 0, np.ones((4, 7)))

    def refuses(*_, **__):
        raise error

    monkeypatch.setattr(np.lib.format, "open_memmap", refuses)
    for call in (lambda: store.read("logits", 0), lambda: store.is_whole(["logits"])):
        with pytest.raises(DataError, match=r"cannot be read: (Too many open files|no memory)"):
            call()
    monkeypatch.undo()
    assert store.read("logits", 0).all()


def test_few_files_are_open_at_once_and_each_is_read_over_once(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "MOST_OPEN", 2)
    read_over = []
    monkeypatch.setattr(answers.zlib, "crc32", lambda block, start=0: read_over.append(1) or zlib_crc32(block, start))
    store = open_answers(OF, ROWS, num_views=4, name="photos", folder=tmp_path)
    for view in range(4):
        write(store, view, np.full((4, 7), view))
    assert store.is_whole(["logits"])
    assert len(store._maps) == 0
    read_over.clear()
    for view in (0, 1, 0, 2, 3, 0):
        assert float(store.read("logits", view)[0, 0]) == view
        assert len(store._maps) <= 2
    assert not read_over
    store.close()


def test_what_another_build_writes_is_left_where_nothing_can_be_locked(store, monkeypatch):
    data = SimpleNamespace(split=SimpleNamespace(train=ROWS), view_batches=lambda *_, **__: [], num_classes=7)
    other = store.place / ".part-of-another"
    other.write_bytes(b"")
    for is_alone in (False, True):
        monkeypatch.setattr(build_cache, "locked", lambda *_, alone=is_alone, **__: nullcontext(alone))
        monkeypatch.setattr(build_cache, "shapes_of", lambda *_: {"logits": (7,)})
        with pytest.raises(RunError, match="answers to some images are missing"):
            build_cache.build_answers(
                store, SimpleNamespace(shapes={}), data, taps=(), batch_size=2, device="cpu", progress=None
            )
        assert other.exists() is not is_alone


def test_a_file_of_pickles_is_never_opened(store, tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}] * 4, dtype=object), allow_pickle=True)
    content = (tmp_path / "x.npy").read_bytes()
    (store.place / f"logits-0000-{zlib.crc32(content):08x}.npy").write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        store.read("logits", 0)


def test_half_a_view_gets_no_name(store):
    with pytest.raises(RunError, match="missing"), PartWriter(store, 0, {"logits": (7,)}) as writer:
        writer.append("logits", np.ones((3, 7)))
        writer.finish()
    assert {p.name for p in store.place.iterdir()} == {"meta.json", "rows.npy", "used"}


@pytest.mark.parametrize("value", [1e6, np.inf, np.nan])
def test_what_float16_cannot_hold_is_refused(store, value):
    with (
        pytest.raises(RunError, match="float16 cannot hold") as error,
        PartWriter(store, 0, {"logits": (7,)}) as writer,
    ):
        writer.append("logits", np.full((4, 7), value))
    assert "--teacher-cache off" in str(error.value)


def test_a_full_disk_leaves_no_half_file(store, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(answers.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(store, 0, np.ones((4, 7)))
    assert not list(store.place.glob(f"{answers.BUILDING}*"))
    assert not list(store.place.glob("logits-*"))


def test_other_teacher_data_views_or_images_have_another_folder(store, tmp_path):
    folder = tmp_path / "answers"
    others = [
        open_answers({**OF, "teacher": "c"}, ROWS, num_views=2, name="photos", folder=folder),
        open_answers(OF, ROWS, num_views=3, name="photos", folder=folder),
        open_answers(OF, ROWS + 1, num_views=2, name="photos", folder=folder),
    ]
    again = open_answers(OF, ROWS[::-1], num_views=2, name="another name", folder=folder)
    assert len({s.place for s in (store, *others)}) == 4
    assert again.place == store.place
    for opened in (*others, again):
        opened.close()


@pytest.mark.parametrize("what", ["other", "seal", "rows", "text"])
def test_a_record_that_is_of_something_else_is_an_error_with_the_command(store, tmp_path, what):
    meta_file = store.place / "meta.json"
    meta = json.loads(meta_file.read_text())
    if what == "other":
        meta.pop("seal")
        meta["of"]["teacher"] = "x"
        meta_file.unlink()
        answers.write_sealed(meta_file, meta)
    elif what == "seal":
        meta["images"] = 5
        meta_file.write_text(json.dumps(meta))
    elif what == "text":
        meta_file.write_text("[]")
    else:
        np.save(store.place / "rows.npy", ROWS + 1)
    with pytest.raises(RunError, match=r"sapling cache clear photos-2-[0-9a-f]{16}") as error:
        open_answers(OF, ROWS, num_views=2, name="photos", folder=tmp_path / "answers")
    if what == "other":
        assert "teacher differ" in str(error.value)


def test_a_folder_without_record_is_made_anew(store, tmp_path):
    write(store, 0, np.ones((4, 7)))
    (store.place / "meta.json").unlink()
    again = open_answers(OF, ROWS, num_views=2, name="photos", folder=tmp_path / "answers")
    assert again.missing(["logits"]) == {0: ["logits"], 1: ["logits"]}
    again.close()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be kept"):
        open_answers(OF, ROWS, num_views=2, name="photos", folder=tmp_path / "file")


def test_the_cache_lists_and_clears_answers_that_nobody_uses(tmp_path):
    store = open_answers(OF, ROWS, num_views=2, name="photos", folder=tmp_path / "answers")
    write(store, 0, np.ones((4, 7)))
    entry = next(e for e in list_cache(tmp_path) if e.kind == "answers")
    assert (entry.data, entry.images) == ("photos", 4)
    assert entry.num_bytes > 4 * 7 * 2
    assert clear_cache([entry]).in_use == (entry,)
    store.close()
    assert clear_cache([entry]).removed == (entry,)
    assert not store.place.exists()


def test_files_of_others_are_not_cleared(tmp_path):
    store = open_answers(OF, ROWS, num_views=2, name="photos", folder=tmp_path / "answers")
    (store.place / "thesis.tex").write_text("mine")
    store.close()
    assert len(clear_cache(list_cache(tmp_path)).left) == 1
    assert (store.place / "thesis.tex").exists()


def test_damaged_answers_are_listed_as_such(tmp_path):
    store = open_answers(OF, ROWS, num_views=2, name="photos", folder=tmp_path / "answers")
    store.close()
    (store.place / "meta.json").write_text("{}")
    assert [e.kind for e in list_cache(tmp_path)] == ["damaged answers"]


@given(st.lists(st.text(min_size=1, max_size=60), min_size=2, max_size=6, unique=True))
def test_taps_of_any_name_have_file_names_of_their_own(taps):
    names = [part_name(tap) for tap in taps]
    assert len(set(names)) == len(taps)
    for name in names:
        assert is_part(f"{name}-0003-0123abcd.npy")
        assert os.sep not in name
        assert not name.startswith(".")


def test_the_mark_depends_on_everything():
    assert len({mark_of(of) for of in ({}, {"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"})}) == 5


def test_answers_that_nobody_holds_any_more_can_be_cleared(tmp_path):
    store = open_answers(OF, ROWS, num_views=2, name="photos", folder=tmp_path / "answers")
    entry = next(e for e in list_cache(tmp_path) if e.kind == "answers")
    del store
    gc.collect()
    assert clear_cache([entry]).removed == (entry,)


def test_a_refused_folder_can_be_cleared(tmp_path):
    store = open_answers(OF, ROWS, num_views=2, name="photos", folder=tmp_path / "answers")
    store.close()
    np.save(store.place / "rows.npy", ROWS + 1)
    with pytest.raises(RunError, match="damaged"):
        open_answers(OF, ROWS, num_views=2, name="photos", folder=tmp_path / "answers")
    assert len(clear_cache(list_cache(tmp_path)).removed) == 1


def test_a_header_that_lies_about_its_size_takes_no_memory(store, tmp_path):
    with (store.place / "rows.npy").open("wb") as file:
        header = {"descr": "<i8", "fortran_order": False, "shape": (10**13,)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(RunError, match="damaged"):
        open_answers(OF, ROWS, num_views=2, name="photos", folder=tmp_path / "answers")


def test_a_link_in_place_of_a_file_is_not_followed(store, tmp_path):
    write(store, 0, np.ones((4, 7)))
    path = next(store.place.glob("logits-0000-*.npy"))
    path.rename(tmp_path / "elsewhere.npy")
    path.symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(RunError, match="damaged"):
        store.read("logits", 0)


def test_a_link_in_place_of_a_folder_is_not_followed(store, tmp_path):
    outside = tmp_path / "outside"
    store.place.rename(outside)
    store.place.symlink_to(outside)
    (outside / "meta.json").unlink()
    with pytest.raises(RunError, match="link"):
        open_answers(OF, ROWS, num_views=2, name="photos", folder=tmp_path / "answers")
    assert not (outside / "meta.json").exists()


def test_another_type_of_number_is_no_answer(store):
    with PartWriter(store, 0, {"logits": (7,)}, {"logits": np.complex128}) as writer:
        writer.append("logits", np.ones((4, 7)))
        writer.finish()
    with pytest.raises(RunError, match="damaged"):
        store.read("logits", 0)


def test_a_folder_of_others_with_such_a_name_is_not_ours(tmp_path):
    place = tmp_path / "answers" / "x-1-0123456789abcdef"
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(b"mine")
    assert list_cache(tmp_path) == []
    (place / "rows.npy").write_bytes(b"")
    assert len(clear_cache(list_cache(tmp_path)).left) == 1
    assert (place / "model.safetensors").exists()


def test_what_a_killed_clear_left_is_listed_and_cleared(tmp_path):
    place = tmp_path / "answers" / ".clearing-0123456789abcdef-123"
    place.mkdir(parents=True)
    (place / "logits-0000-01234567.npy").write_bytes(b"x")
    entries = list_cache(tmp_path)
    assert [e.kind for e in entries] == ["unfinished"]
    assert clear_cache(entries).removed == tuple(entries)


def test_a_record_that_is_nested_too_deeply_is_no_record(tmp_path):
    store = open_answers(OF, ROWS, num_views=2, name="photos", folder=tmp_path / "answers")
    store.close()
    (store.place / "meta.json").write_text("[" * 200_000)
    assert [e.kind for e in list_cache(tmp_path)] == ["damaged answers"]
