"""The record of who looked at which test images: it counts, and nothing that lies there stops anyone."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace

import numpy as np
import pytest

from sapling.cli import main
from sapling.data.cache import clear_cache, list_cache
from sapling.data.openings import FOLDER, MAX_BYTES, Looks, Opening, fingerprint_of_test, record_opening
from sapling.data.sources import open_source
from sapling.data.splits import make_split

PRINT = "ab" * 32


def opening(run="kd", started="2026-01-01T00:00:00", **other):
    return Opening("2026-01-02T00:00:00", "distill", run, started, **other)


def ledger(folder, fingerprint=PRINT):
    return folder / FOLDER / f"{fingerprint[:32]}.jsonl"


def test_runs_are_counted_and_a_run_that_goes_on_is_one(tmp_path):
    def look(*args, **other):
        return record_opening(PRINT, opening(*args, **other), tmp_path)

    assert look(method="kd", seeds=[0, 1]) == Looks(1, 0)
    assert look() == Looks(2, 0)  # killed while it judged, and resumed
    assert look("dkd") == Looks(1, 1)
    assert look("kd", "2026-03-01T00:00:00") == Looks(1, 2)  # another run in a folder of the same name
    assert look(started=None) == Looks(1, 3)
    assert look(started=None) == Looks(1, 4)  # every call of evaluate is a look
    assert look("dkd") == Looks(2, 4)
    assert record_opening("cd" * 32, opening(), tmp_path) == Looks(1, 0)
    lines = [json.loads(line) for line in ledger(tmp_path).read_text().splitlines()]
    assert lines[0] == {
        "when": "2026-01-02T00:00:00", "task": "distill", "run": "kd", "started": "2026-01-01T00:00:00",
        "method": "kd", "seeds": [0, 1],
    }  # fmt: skip


def test_many_at_once_lose_no_line(tmp_path):
    found = []
    threads = [
        threading.Thread(target=lambda k=k: found.append(record_opening(PRINT, opening(f"run {k}"), tmp_path)))
        for k in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(looks.before for looks in found) == list(range(16))


def test_names_of_any_kind_fit_on_a_line(tmp_path):
    for name in ("a\nb", "日" * 500, "\udcff", '"}{'):
        assert record_opening(PRINT, opening(name), tmp_path) is not None
    assert ledger(tmp_path).read_text().count("\n") == 4


HOSTILE = {
    "no JSON": b"hello\n",
    "cut": b'{"run": "kd", "star',
    "other JSON": b"[1]\n",
    "no names": b'{"run": "kd"}\n',
    "deep": b"[" * 100_000 + b"\n",
    "no text": b"\xff\xfe\x00\n",
    "a number of many digits": b'{"run": ' + b"9" * 5000 + b', "started": 1}\n',
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_damaged_record_is_unknown_and_stops_nobody(tmp_path, content):
    path = ledger(tmp_path)
    path.parent.mkdir()
    path.write_bytes(content)
    assert record_opening(PRINT, opening(), tmp_path) is None


def test_no_other_file_is_written_to(tmp_path):
    path = ledger(tmp_path)
    path.parent.mkdir()
    other = tmp_path / "mine.txt"
    other.write_text("mine")
    path.symlink_to(other)
    assert record_opening(PRINT, opening(), tmp_path) is None
    assert other.read_text() == "mine"
    path.unlink()
    os.mkfifo(path)
    assert record_opening(PRINT, opening(), tmp_path) is None  # and does not wait for a reader
    path.unlink()
    path.mkdir()
    assert record_opening(PRINT, opening(), tmp_path) is None
    path.rmdir()
    with path.open("wb") as file:
        file.truncate(MAX_BYTES)
    assert record_opening(PRINT, opening(), tmp_path) is None
    assert path.stat().st_size == MAX_BYTES


def test_a_cache_that_cannot_be_written_is_unknown(tmp_path):
    (tmp_path / "file").write_text("")
    assert record_opening(PRINT, opening(), tmp_path / "file") is None


def test_test_images_are_told_by_their_names_and_labels(photos):
    source = open_source(photos)
    first, second = (make_split(source, seed=seed).test for seed in (0, 1))
    assert fingerprint_of_test(source, first) == fingerprint_of_test(source, first[::-1].copy())
    assert fingerprint_of_test(source, first) != fingerprint_of_test(source, second)
    assert fingerprint_of_test(source, first) != fingerprint_of_test(source, first[:-1])
    assert fingerprint_of_test(source, np.array([], dtype=np.int64))
    other = replace(source.items[int(first[0])], label=(source.items[int(first[0])].label + 1) % 3)
    items = tuple(other if i == first[0] else item for i, item in enumerate(source.items))
    assert fingerprint_of_test(source, first) != fingerprint_of_test(replace(source, items=items), first)


def test_a_look_that_comes_later_is_not_ones_own(tmp_path, monkeypatch):
    """Another run writes between our line and our reading."""
    write, late = os.write, [opening("later")]

    def busy(handle, line):
        written = write(handle, line)
        if late:
            other = late.pop()
            record_opening(PRINT, other, tmp_path)
        return written

    monkeypatch.setattr(os, "write", busy)
    assert record_opening(PRINT, opening("first"), tmp_path) == Looks(1, 0)
    monkeypatch.undo()
    assert record_opening(PRINT, opening("first"), tmp_path) == Looks(2, 1)


def test_the_cache_is_cleared_and_the_record_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SAPLING_CACHE", str(tmp_path))
    record_opening(PRINT, opening())
    before = ledger(tmp_path).read_bytes()
    assert list_cache() == []
    assert main(["cache", "list"]) == 0
    assert main(["cache", "clear", "--all", "--yes"]) == 0
    capsys.readouterr()
    clear_cache(list_cache())
    assert ledger(tmp_path).read_bytes() == before
