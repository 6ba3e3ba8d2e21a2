"""A run folder may come from anyone: no link is followed, nothing large is read, nothing ends in a traceback."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sapling.errors import RunError
from sapling.report import write_report
from tests.report.synthetic import make_run

HUGE, DEEP = 10**400, "[" * 100_000


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", classes=3, seeds=2, epochs=2)


@pytest.mark.parametrize("name", ["config.yaml", "results.json", "metrics.jsonl", "data.json", "teacher"])
def test_no_link_is_read_through(run: Path, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "card.json").write_text("{}")
    kept = secret / "card.json" if name != "teacher" else secret
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(kept)
    with pytest.raises(RunError, match=f"(?s){name} is a link.*try: ") as caught:
        write_report(run)
    assert caught.value.where == str(run / name)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("name", ["figures", "report.html"])
def test_no_link_is_written_through(run: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "report.html").write_text("mine")
    (run / name).symlink_to(outside if name == "figures" else outside / name)
    with pytest.raises(RunError, match=f"{name} is a link"):
        write_report(run)
    assert [p.name for p in outside.iterdir()] == ["report.html"]
    (run / name).unlink()
    elsewhere = tmp_path / "latest"
    elsewhere.symlink_to(run)  # the folder itself was named by whoever called
    assert write_report(elsewhere).is_file()


def test_what_is_no_file_of_a_sane_size_is_refused(run: Path) -> None:
    for name, size in (("metrics.jsonl", 2**40), ("results.json", 2**40), ("config.yaml", 2**20 + 1)):
        good = (run / name).read_bytes()
        with (run / name).open("r+b") as file:  # a hole: terabytes by name, nothing on the disk
            file.truncate(size)
        with pytest.raises(RunError, match=f"{name} is larger than"):
            write_report(run)
        (run / name).unlink()
        os.mkfifo(run / name)
        with pytest.raises(RunError, match=f"{name} is no regular file"):
            write_report(run)
        (run / name).unlink()
        (run / name).write_bytes(good)
    (run / "figures").write_text("")
    with pytest.raises(RunError, match="figures is no folder"):
        write_report(run)
    (run / "figures").unlink()
    (run / "report.html").mkdir()
    with pytest.raises(RunError, match=r"report\.html is no regular file"):
        write_report(run)


def test_numbers_beyond_all_bounds_are_missing(run: Path) -> None:
    def spoil(content: object) -> object:
        """Every number a huge one."""
        if isinstance(content, dict):
            return {k: v if k in ("seed", "seeds") else spoil(v) for k, v in content.items()}
        if isinstance(content, list):
            return [spoil(v) for v in content]
        return HUGE if isinstance(content, int | float) and not isinstance(content, bool) else content

    for name in ("results.json", "data.json", "environment.json"):
        (run / name).write_text(json.dumps(spoil(json.loads((run / name).read_text()))))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"pass": "kd", "member": "kd-s0", "epoch": HUGE}) + "\n")
    assert write_report(run).is_file()


def test_numbers_that_overflow_together_are_an_error(run: Path) -> None:
    content = json.loads((run / "results.json").read_text())
    content["manifest"] |= {"epochs": 1e300, "steps_per_epoch": 1e300}
    (run / "results.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="holds what no run writes"):
        write_report(run)


def test_deep_nesting_is_an_error_or_half_a_line(run: Path) -> None:
    good = (run / "results.json").read_text()
    for text in (DEEP, '{"manifest": ' + "[" * 500 + "]" * 500 + "}"):
        (run / "results.json").write_text(text)
        with pytest.raises(RunError, match=r"results\.json cannot be read: .*deep"):
            write_report(run)
    (run / "results.json").write_text(good)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(DEEP + "\n")
    assert write_report(run).is_file()
