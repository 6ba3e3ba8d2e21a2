"""A cache that can only be read, as a shared one may be: what is complete is used, what is missing is said."""

import pytest

from sapling.cli import main
from sapling.teachers.live import LiveTeacher
from tests.data.readonly import read_only
from tests.digests import digest
from tests.workflows.test_answers import run

FDBD = {"name": "fdbd", "phase1_epochs": 1}
pytestmark = pytest.mark.usefixtures("cache", "no_page")


@pytest.fixture
def asked(monkeypatch):
    """Numbers of the views that live teachers were asked about."""
    seen, outputs = [], LiveTeacher.outputs
    monkeypatch.setattr(LiveTeacher, "outputs", lambda self, b: seen.extend(b.views.tolist()) or outputs(self, b))
    return seen


def call(capsys, *arguments):
    code = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_cache_that_can_only_be_read_serves_what_is_complete(photos, teacher, tmp_path, cache, asked, capsys):
    first = run(photos, teacher, tmp_path / "a", method=FDBD)
    asked.clear()
    before = {p: digest(p) for p in cache.rglob("*") if p.is_file()}
    with read_only(cache):
        again = run(photos, teacher, tmp_path / "b", method=FDBD)
        assert max(asked) == -1  # images of validation and test only
        assert call(capsys, "cache", "verify", tmp_path / "b")[0] == 0
        code, out, _ = call(capsys, "cache", "build", tmp_path / "b")
        assert (code, "were there" in out) == (0, True)
        # another view more is not there
        few = ["--teacher", teacher, "--num-views", 4, "--set", "data.img_size=16", "--set", "train.threads=1"]
        code, _, err = call(capsys, "cache", "build", photos, *few)
        assert code == 2
        assert "Read-only file system; some are missing" in err
        assert "Traceback" not in err
        # one view of a feature less
        lost = next(cache.glob("answers/*/tap.*-0001-*"))
    lost.rename(tmp_path / lost.name)
    with read_only(cache):
        code, _, err = call(capsys, "cache", "build", tmp_path / "b")
        assert (code, "some are missing" in err) == (2, True)
        code, _, err = call(capsys, "cache", "verify", tmp_path / "b")
        assert (code, "1 of 3 views are missing" in err) == (1, True)
    (tmp_path / lost.name).rename(lost)
    assert {p: digest(p) for p in cache.rglob("*") if p.is_file()} == before
    names = ["members/fdbd-s0/model.safetensors", "phases/denoiser/model.safetensors"]
    assert [digest(first.folder / n) for n in names] == [digest(again.folder / n) for n in names]


def test_what_is_missing_in_such_a_cache_is_asked_for_live(photos, teacher, tmp_path, cache):
    run(photos, teacher, tmp_path / "a")
    with read_only(cache):
        found = run(photos, teacher, tmp_path / "b", method="at", teacher={"cache": "auto"}, train={"epochs": 8})
    record = found.results["teacher"]["heard"]
    assert not record["kept"]
    assert "Read-only file system" in record["reason"]
