"""The lists of planted faults fit the source, and the runner tells the outcomes apart.

Planting them all is ``python tests/plant_faults.py``: it takes minutes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import yaml

from tests.plant_faults import ROOT, load_faults

SOURCE = """\
def add(a, b):
    return a + b


def unused():
    return 0
"""
TESTS = """\
from pathlib import Path

import pytest

import sapling


def test_add():
    assert sapling.add(2, 3) == 5


def test_that_never_passes():
    assert sapling.add(2, 3) == 6


def test_without_images():
    pytest.skip("no images")


def test_that_writes_into_its_sources():
    Path(sapling.__file__).open("a").write("# more")
    assert sapling.add(2, 3) == 5
"""
START = "import sys, tests.plant_faults as p; p.PRELOAD = ('pytest', '_hypothesis_pytestplugin'); sys.exit(p.main())"


def entry(name, test, find="a + b", replace="a - b"):
    return {
        "name": name,
        "file": "src/sapling/__init__.py",
        "find": find,
        "replace": replace,
        "test": f"tests/test_toy.py::{test}",
    }


@pytest.fixture
def planted(tmp_path):
    """Plants a list of faults into a toy of its own; gives the exit code and a word for each."""
    for path, text in (("src/sapling/__init__.py", SOURCE), ("tests/test_toy.py", TESTS), ("tests/__init__.py", "")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "pyproject.toml").write_text("")
    for name in ("plant_faults.py", "digests.py", "exporter.py"):
        shutil.copy(ROOT / "tests" / name, tmp_path / "tests" / name)

    def run(*entries, jobs=2):
        (tmp_path / "tests" / "faults").mkdir(exist_ok=True)
        (tmp_path / "tests" / "faults" / "toy.yaml").write_text(yaml.safe_dump(list(entries)))
        done = subprocess.run(
            [sys.executable, "-c", START, "-j", str(jobs)], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert (tmp_path / "src/sapling/__init__.py").read_text() == SOURCE
        rows = [line.partition("  ") for line in done.stdout.splitlines() if line.startswith("toy/")]
        return done.returncode, {name.removeprefix("toy/"): rest.strip() for name, _, rest in rows}, done.stdout

    return run


def test_every_fault_can_still_be_planted():
    wrong = [f"{f.area}/{f.name}: {problem}" for f in load_faults() if (problem := f.problem())]
    assert not wrong, "\n".join(wrong)


def test_names_are_told_apart():
    names = [f"{f.area}/{f.name}" for f in load_faults()]
    assert len(set(names)) == len(names)
    assert len(names) > 20


def test_outcomes_are_told_apart(planted):
    code, rows, shown = planted(
        entry("caught", "test_add"),
        entry("survives", "test_add", "return 0", "return 1"),
        entry("fails anyway", "test_that_never_passes"),
        entry("elsewhere", "test_add", "a * b"),
        entry("no change", "test_add", "a + b", "a + b"),
        entry("no import", "test_add", "def unused", "def def"),
        entry("no images", "test_without_images"),
    )
    assert rows["caught"].startswith("caught "), shown
    assert rows["survives"].startswith("SURVIVED ")
    assert rows["fails anyway"].startswith("its test fails unfaulted (exit 1)")
    assert rows["elsewhere"].startswith("its text occurs 0 times in src/sapling/__init__.py")
    assert rows["no change"].startswith("it changes nothing")
    assert rows["no import"].startswith("test did not run (exit 4)")
    assert rows["no images"].startswith("skipped ")
    assert "1 of 7 faults were caught, 1 skipped" in shown
    assert code == 1


def test_all_caught_is_success_and_one_survivor_is_not(planted):
    # faults of one file, one after another in one process: none may see what another left behind
    caught = [entry(f"caught {number}", "test_add", "a + b", f"a + b + {number}") for number in (1, 2)]
    assert planted(*caught, jobs=1)[0] == 0
    code, rows, shown = planted(caught[0], entry("survives", "test_add", "a + b", "b + a"), caught[1], jobs=1)
    assert [row.split()[0] for row in rows.values()] == ["caught", "caught", "SURVIVED"], shown
    assert code == 1


def test_a_test_that_writes_into_the_shared_sources_is_noticed(planted):
    code, rows, shown = planted(entry("caught", "test_that_writes_into_its_sources", "return 0", "return 1"))
    assert (code, rows) == (1, {})
    assert "a test wrote into its sources" in shown
