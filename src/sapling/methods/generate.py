"""Write ``catalogue.json``: ``python -m sapling.methods.generate``; with ``--check`` only compare.

What is measured comes from ``benchmarks/results/step_cost.json``; where there is no such file (the package without its
repository) the figures of the catalogue that is there stay.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sapling.methods.describe import MEASURED, describe
from sapling.methods.registry import CATALOGUE, FOLDER, built_in, load_class

STEP_COST = FOLDER.parents[2] / "benchmarks" / "results" / "step_cost.json"


def catalogue_text() -> str:
    """Text of the catalogue as it should be now."""
    figures = measured()
    entries = {name: {**describe(load_class(name)), **figures.get(name, {})} for name in built_in()}
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"


def measured() -> dict[str, dict[str, Any]]:
    """Method to what was measured of it: ``own_parameters``, and ``step_cost`` with a note of how."""
    if STEP_COST.is_file():
        found = json.loads(STEP_COST.read_text(encoding="utf-8"))
        return {
            name: {
                "own_parameters": one["own_parameters"],
                "step_cost": {**{key: one[key] for key in ("extra", "low", "high", "live")}, "measured": found["note"]},
            }
            for name, one in found["methods"].items()
        }
    known = json.loads(CATALOGUE.read_text(encoding="utf-8")) if CATALOGUE.is_file() else {}
    return {name: {key: one.get(key) for key in MEASURED} for name, one in known.items()}


def is_current(path: Path = CATALOGUE) -> bool:
    """Whether the stored catalogue is what the classes say."""
    return path.is_file() and path.read_text(encoding="utf-8") == catalogue_text()


def write(path: Path = CATALOGUE) -> None:
    """Write the catalogue, whole or not at all."""
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(catalogue_text(), encoding="utf-8")
    temporary.replace(path)


def main(arguments: list[str]) -> int:
    """Write, or with ``--check`` say whether that would change anything (exit code 1)."""
    if "--check" not in arguments:
        write()
        print(f"wrote {CATALOGUE}")
        return 0
    if is_current():
        return 0
    print(f"{CATALOGUE} is not current; run: python -m sapling.methods.generate", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
