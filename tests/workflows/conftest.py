"""What tests of kept answers share: a cache of their own, and a trained teacher."""

import pytest

from sapling.workflows import distill


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAPLING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def teacher(finished_run):
    return finished_run.folder / "teacher"


@pytest.fixture
def no_page(monkeypatch):
    """Runs without report.html, which takes a third of a small run; tests of the page are in ``tests/report``."""
    monkeypatch.setattr(distill, "write_report", lambda folder: None)
