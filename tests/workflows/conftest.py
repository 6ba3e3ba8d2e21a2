"""What tests of kept answers share: a cache of their own, and a trained teacher."""

import pytest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAPLING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def teacher(finished_run):
    return finished_run.folder / "teacher"
