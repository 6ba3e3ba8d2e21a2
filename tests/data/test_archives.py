"""Zips that lie about the size of an entry must not fill the memory."""

from __future__ import annotations

import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sapling.data.sources import open_source
from sapling.errors import DataError
from tests.data.pictures import class_pictures, write_zip

MORE_MB = 200  # than the process has when it begins to read


def lying_zip(path, method, *, size):
    """A zip whose entry ``cat/bomb.png`` inflates to ``size`` bytes and says that it has 1,000."""
    write_zip(path, class_pictures())
    with zipfile.ZipFile(path, "a", method) as archive, archive.open("cat/bomb.png", "w", force_zip64=True) as entry:
        block = bytes(2**20)
        for _ in range(size >> 20):
            entry.write(block)
    data = bytearray(path.read_bytes())
    honest = struct.pack("<Q", size)
    while (at := data.find(honest)) >= 0:  # in the local and in the central header
        data[at : at + 8] = struct.pack("<Q", 1000)
    path.write_bytes(data)
    return path


CODE = """
import resource, sys
from pathlib import Path
from sapling.data.sources import open_source
source = open_source(sys.argv[1])
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = held + int(sys.argv[2]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
item = next(item for item in source.items if "bomb" in item.key)
try:
    source.open(item)
except Exception as error:
    print(type(error).__name__, error)
print(source.head(item, 100)[:4])
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to tell how much memory is held")
def test_an_entry_that_lies_about_its_size_is_refused_in_little_memory(tmp_path):
    path = lying_zip(tmp_path / "bomb.zip", zipfile.ZIP_DEFLATED, size=2**29)
    command = [sys.executable, "-c", CODE, str(path), str(MORE_MB)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert "MemoryError" not in done.stdout
    assert done.stdout.splitlines()[0].split()[0] in ("DataError", "BadZipFile", "UnidentifiedImageError")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_cannot_be_inflated_in_steps_is_named(tmp_path, method):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in class_pictures().items():
            archive.writestr(name, content)
    source = open_source(path)
    with pytest.raises(DataError, match="compressed in a way that is not read"):
        source.open(source.items[0])


def test_an_entry_without_a_name_is_damage(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo("x"), b"")
        archive.filelist[0].filename = ""
    with pytest.raises(DataError, match="an entry has no name"):
        open_source(tmp_path / "a.zip")
