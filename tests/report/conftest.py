from __future__ import annotations

from pathlib import Path

import pytest

from sapling.report import write_report
from tests.report.synthetic import make_run

RUNS = {
    "better": {"classes": 10},
    "worse": {"classes": 2, "outcome": "worse", "seeds": 5},
    "none": {"classes": 200, "outcome": "no difference shown", "seeds": 4, "per_class": 12},
    "hostile": {"classes": 12, "hostile": True, "gate": "overridden", "outcome": "worse"},
    "one_seed": {"classes": 17, "seeds": 1},
    "train": {"task": "train", "seeds": 1},
}


class Runs:
    """Finished run folders with their report, by name; each is made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root, self.made = root, {}

    def __getitem__(self, name: str) -> Path:
        if name not in self.made:
            self.made[name] = make_run(self.root / name, **RUNS[name])
            write_report(self.made[name])
        return self.made[name]

    def values(self) -> list[Path]:
        return [self[name] for name in RUNS]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """See ``Runs``."""
    return Runs(tmp_path_factory.mktemp("runs") / "runs")
