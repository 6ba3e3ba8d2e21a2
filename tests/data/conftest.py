from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.web import web as web


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test writes into the user's cache or finds what another test left."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SAPLING_CACHE", str(folder))
    return folder
