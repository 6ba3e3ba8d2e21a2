"""Files compared by digest: of unequal bytes pytest would print every difference, for minutes where CI is set."""

import hashlib
from pathlib import Path


def digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
