"""Digests of files: of unequal bytes pytest would print every difference, for minutes where CI is set."""

import hashlib
from pathlib import Path


def digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sources_digest(root: Path) -> str:
    """SHA-256 of everything that decides whether a test passes: names and contents of src, tests and settings."""
    found = [p for folder in ("src", "tests") for p in (root / folder).rglob("*") if p.suffix != ".pyc" and p.is_file()]
    whole = hashlib.sha256()
    for path in [root / "pyproject.toml", *sorted(found)]:
        whole.update(f"{path.relative_to(root)}\0{digest(path)}\n".encode())
    return whole.hexdigest()
