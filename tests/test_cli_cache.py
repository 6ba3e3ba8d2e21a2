"""``sapling cache`` in process."""

import json
import sys

import pytest

from sapling.data.packed import cache_folder, open_store
from sapling.data.sources import open_source
from tests.data.pictures import class_pictures, write_zip


@pytest.fixture
def name(tmp_path, monkeypatch):
    monkeypatch.setenv("SAPLING_CACHE", str(tmp_path / "cache"))
    return open_store(open_source(write_zip(tmp_path / "-<b>\x1b[2J.zip", class_pictures())), 8).folder.name


def test_the_list(run, name, tmp_path):
    code, out, _ = run("cache", "list")
    assert code == 0
    assert name in out
    assert "decoded images" in next(line for line in out.splitlines() if name in line)
    assert "\x1b[2J" not in out
    (cache_folder() / "stores" / name / "meta.json").write_text("{}")
    assert "damaged store" in run("cache", "list")[1]


def test_the_list_as_json(run, name):
    _, out, _ = run("cache", "list", "--json")
    assert [entry["name"] for entry in json.loads(out)] == [name]


def test_an_empty_list(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SAPLING_CACHE", str(tmp_path))
    assert run("cache", "list")[1].startswith("nothing is in")


def test_clear_refuses_where_nobody_can_be_asked(run, name):
    code, _, err = run("cache", "clear", "--all")
    assert code == 2
    assert "--yes" in err
    assert (cache_folder() / "stores" / name).is_dir()


@pytest.mark.parametrize(("answer", "is_left"), [(False, True), (True, False)])
def test_clear_asks(run, name, monkeypatch, answer, is_left):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda text, **rest: answer)
    code, out, err = run("cache", "clear", name)
    assert code == 0
    assert ("nothing was removed" in err, "MB freed" in out) == (is_left, not is_left)
    assert (cache_folder() / "stores" / name).is_dir() is is_left


def test_clear_says_what_is_in_use(run, name, tmp_path):
    store = open_store(open_source(tmp_path / "-<b>\x1b[2J.zip"), 8)
    code, out, err = run("cache", "clear", "--all", "--yes")
    assert (code, out) == (1, "0.0 MB freed\n")
    assert f"{name} is in use by another process" in err
    assert store.folder.is_dir()


def test_clear_as_json(run, name):
    code, out, _ = run("cache", "clear", "--unused-days", "0", "--yes", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["removed"] == [name]
    assert found["num_bytes"] > 0
    assert run("cache", "clear", name, "--yes")[0] == 2


def test_a_wrong_call(run, name):
    for days in ("nan", "inf", "-1"):
        assert run("cache", "clear", "--unused-days", days, "--yes")[0] == 2
    for arguments in ((), ("--all", "--unused-days", "1"), (name, "--all")):
        code, _, err = run("cache", "clear", *arguments)
        assert code == 2
        assert "in one way" in err
