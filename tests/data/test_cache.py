from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from sapling.data.cache import choose, clear_cache, list_cache
from sapling.data.packed import cache_folder, open_store
from sapling.data.sources import open_source
from sapling.errors import UsageError
from tests.data.pictures import class_pictures, process_environment, write_folder, write_zip


def stores() -> set[str]:
    """What lies in the folder of stores, but for empty lock files."""
    return {entry.name for entry in (cache_folder() / "stores").iterdir() if not entry.name.endswith(".lock")}


@pytest.fixture
def two(tmp_path):
    """Names of two stores that no process uses: of a zip and of a folder."""
    first = open_store(open_source(write_zip(tmp_path / "cats.zip", class_pictures())), 8).folder.name
    second = open_store(open_source(write_folder(tmp_path / "dogs", class_pictures(each=4))), 12).folder.name
    return first, second


def test_the_list_says_what_is_there(two, tmp_path):
    for place, when in zip(two, (2000, 1000), strict=True):
        os.utime(cache_folder() / "stores" / place / "checked.json", (when, when))
    shutil.rmtree(tmp_path / "dogs")
    cats, dogs = list_cache()
    assert (cats.name, dogs.name) == two
    assert (cats.kind, cats.data, cats.images, cats.pixels) == ("store", "cats", 12, 8)
    assert (cats.source, cats.source_exists) == (str(tmp_path / "cats.zip"), True)
    assert (dogs.images, dogs.pixels, dogs.source_exists) == (8, 12, False)
    assert cats.num_bytes == sum(path.stat().st_size for path in cats.place.iterdir())
    assert cats.last_used == "1970-01-01T00:33:20Z"
    assert abs(time.mktime(time.strptime(cats.created, "%Y-%m-%dT%H:%M:%SZ")) - time.mktime(time.gmtime())) < 100
    json.dumps(cats.as_dict())


def test_one_is_cleared_by_its_name_or_that_of_its_data(two):
    assert [entry.name for entry in choose(list_cache(), "dogs")] == [two[1]]
    cleared = clear_cache(choose(list_cache(), two[0]))
    assert [entry.name for entry in cleared.removed] == [two[0]]
    assert cleared.num_bytes > 12 * 192
    assert stores() == {two[1]}


def test_what_was_not_used_is_cleared(two):
    os.utime(cache_folder() / "stores" / two[0] / "checked.json", (0, 0))
    assert [entry.name for entry in choose(list_cache(), unused_days=1)] == [two[0]]
    assert len(choose(list_cache(), unused_days=1, now=time.time() + 2 * 86400)) == 2


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({}, "in one way"),
        ({"everything": True, "unused_days": 3}, "in one way"),
        ({"unused_days": -1}, "0 or more"),
        ({"name": "cots"}, "did you mean 'cats'"),
        ({"name": ".."}, "nothing in the cache is called '..'"),
    ],
)
def test_wrong_choices(two, how, says):
    with pytest.raises(UsageError, match=says):
        choose(list_cache(), **how)


def test_a_store_in_use_stays_until_it_is_let_go(two, tmp_path):
    store = open_store(open_source(tmp_path / "cats.zip"), 8)
    cleared = clear_cache(choose(list_cache(), everything=True))
    assert [entry.name for entry in cleared.in_use] == [two[0]]
    assert stores() == {two[0]}
    assert int(np.asarray(store.images).sum()) > 0
    del store
    assert clear_cache(list_cache()).in_use == ()
    assert stores() == set()


BUILD = """
import sys, time
from sapling.data import packed
from sapling.data.sources import open_source
packed.open_store(open_source(sys.argv[1]), 8, progress=lambda done, total: print(done, flush=True) or time.sleep(30))
"""


def test_a_store_that_is_being_built_stays_and_what_a_killed_build_left_goes(tmp_path):
    data = write_zip(tmp_path / "a.zip", class_pictures(each=100))
    command = [sys.executable, "-c", BUILD, str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=process_environment()) as process:
        assert process.stdout.readline() == "64\n"
        (entry,) = list_cache()
        assert (entry.kind, entry.last_used) == ("unfinished", None)
        assert clear_cache([entry]).in_use == (entry,)
        process.send_signal(signal.SIGKILL)
    assert clear_cache(choose(list_cache(), unused_days=1000)).removed[0].name == entry.name
    assert stores() == set()


def test_a_build_sweeps_what_killed_builds_of_other_data_left(tmp_path):
    root = cache_folder() / "stores"
    (root / ".building-0123456789abcdef-x_1").mkdir(parents=True)
    store = open_store(open_source(write_zip(tmp_path / "a.zip", class_pictures())), 8)
    assert stores() == {store.folder.name}


def test_nothing_else_is_touched_and_no_link_followed(two, tmp_path):
    root = cache_folder() / "stores"
    precious = tmp_path / "precious"
    shutil.copytree(root / two[0], precious)
    (root / "link-8-0123456789abcdef").symlink_to(precious)
    (root / "holiday").mkdir()
    (root / "holiday" / "images.npy").write_text("mine")
    (root / "notes-8-0123456789abcdee").mkdir()  # our kind of name, but nothing of ours inside
    (root / two[0] / "mine.txt").write_text("mine")
    (root / two[1] / "index.json").unlink()
    (root / two[1] / "index.json").symlink_to(precious / "index.json")
    cleared = clear_cache(choose(list_cache(), everything=True))
    assert {entry.name for entry in cleared.removed} == {two[1]}
    assert {entry.name for entry in cleared.left} == {two[0]}
    assert stores() == {"link-8-0123456789abcdef", "holiday", "notes-8-0123456789abcdee", two[0]}
    assert sorted(path.name for path in precious.iterdir()) == sorted(
        ["checked.json", "images.npy", "index.json", "meta.json", "rows.npy"]
    )
    assert (root / two[0] / "images.npy").is_file()


def test_old_and_damaged_stores_are_known(two):
    root = cache_folder() / "stores"
    (root / two[0] / "meta.json").write_text(json.dumps({"format": 1, "fingerprint": "x", "size": 8, "images": 12}))
    (root / two[1] / "meta.json").write_text("{")
    assert {entry.name: (entry.kind, entry.pixels) for entry in list_cache()} == {
        two[0]: ("old store", 8),
        two[1]: ("damaged store", None),
    }
    clear_cache(list_cache())
    assert stores() == set()


def test_what_searches_found_is_cleared_with_the_store(two, tmp_path):
    from sapling.data.similar import find_duplicates, find_pattern

    source = open_source(tmp_path / "cats.zip")
    store = open_store(source, 8)
    find_duplicates(store)
    find_pattern(source, store)
    del store  # a store in use stays
    cleared = clear_cache(list_cache())
    assert not cleared.left
    assert len(cleared.removed) == 2


def test_an_empty_cache_is_no_error(tmp_path):
    assert list_cache(tmp_path / "nowhere") == []
    assert clear_cache([]).num_bytes == 0


def test_what_a_phase_made_is_listed_and_cleared(tmp_path):
    place = tmp_path / "phases" / ("0123456789abcdef" * 2)
    place.mkdir(parents=True)
    (place / "card.json").write_text("{}")
    (place / "model.safetensors").write_bytes(b"12345678")
    (tmp_path / "phases" / "mine").mkdir()
    entries = list_cache(tmp_path)
    assert [(e.kind, e.num_bytes) for e in entries] == [("phase", 10)]
    assert clear_cache(entries).removed == tuple(entries)
    assert [p.name for p in (tmp_path / "phases").iterdir() if p.is_dir()] == ["mine"]
