"""Write ``catalogue.json``: ``python -m sapling.methods.generate``; with ``--check`` only compare."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sapling.methods.describe import describe
from sapling.methods.registry import CATALOGUE, built_in, load_class


def catalogue_text() -> str:
    """Text of the catalogue as it should be now."""
    entries = {name: describe(load_class(name)) for name in built_in()}
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"


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
