"""A web of small files: what the loaders of public data sets would download, without a network."""

from __future__ import annotations

import hashlib
import importlib
import re
import urllib.error
from dataclasses import replace
from pathlib import Path

import pytest

from sapling.data import named
from sapling.data.named import named_sets
from tests.data import published

SETS = named_sets()


@pytest.fixture
def web(tmp_path, monkeypatch):
    """What torchvision would download, by the name of the file; its checksums are taken for the published ones."""
    from torchvision.datasets import utils

    files: dict[str, bytes] = {}
    asked = []

    def retrieve(url, place, *_, **__):
        name = url.rpartition("/")[2].partition("?")[0]
        asked.append(name)
        found = files.get(name) or next((data for alias, data in files.items() if Path(place).name == alias), None)
        if found is None:
            raise urllib.error.URLError("[Errno -3] Temporary failure in name resolution")
        Path(place).write_bytes(found)

    right = {}
    real = utils.calculate_md5

    def md5(path, *args, **options):
        found = real(path, *args, **options)
        return right.get(found, found)

    def publish(name, contents):
        entry = SETS[name]
        files.update(contents)
        source = "".join(Path(m.__file__).read_text() for m in modules_of(entry))
        for k, (file, data) in enumerate(contents.items()):
            if (known := entry.options.get("md5")) is None and entry.loader == "torchvision":
                known = _published_md5(source, file, k)
            right[hashlib.md5(data, usedforsecurity=False).hexdigest()] = known
        if "sha256" in entry.options:
            (data,) = contents.values()
            options = {**entry.options, "sha256": hashlib.sha256(data).hexdigest()}
            entry = replace(entry, options=options)
        return entry

    monkeypatch.setattr(utils, "_urlretrieve", retrieve)
    monkeypatch.setattr(utils, "_get_redirect_url", lambda url, *_, **__: url)
    monkeypatch.setattr(utils, "calculate_md5", md5)
    publish.files, publish.asked = files, asked
    return publish


def modules_of(entry):
    if entry.loader != "torchvision":
        return []
    kind = getattr(importlib.import_module("torchvision.datasets"), entry.options["class"])
    return [importlib.import_module(kind.__module__)]


def _published_md5(source, file, number):
    """The checksum that torchvision writes beside the name of a file."""
    found = re.search(re.escape(file) + r"""["'][^0-9a-f]{1,60}?(?:md5=)?["']([0-9a-f]{32})["']""", source, re.DOTALL)
    return found.group(1) if found else re.findall(r"""["']([0-9a-f]{32})["']""", source)[number]


def use(monkeypatch, entry, *, images, classes):
    """Replace a row of the table by one of these counts."""
    entry = replace(entry, images=images, classes=classes)
    monkeypatch.setattr(named, "named_sets", lambda: {**SETS, entry.name: entry})
    return entry


# images, classes, images by split, one (key, class)
CASES = {
    "eurosat": (6, 2, {None: 6}, ("Forest/Forest_1.jpg", "Forest")),
    "flowers102": (7, 3, {"train": 3, "val": 2, "test": 2}, ("image_00002.jpg", "hard-leaved pocket orchid")),
    "pets": (4, 2, {"train": 2, "test": 2}, ("beagle_4.jpg", "Beagle")),
    "food101": (5, 2, {"train": 3, "test": 2}, ("pho/5.jpg", "pho")),
    "dtd": (6, 2, {"train": 2, "val": 2, "test": 2}, ("woven/4.jpg", "woven")),
    "gtsrb": (14, 2, {"train": 12, "test": 2}, ("Final_Test/Images/00000.ppm", "01 limit 30")),
    "country211": (6, 2, {"train": 2, "val": 2, "test": 2}, ("valid/ZW/3.jpg", "ZW")),
    "imagenette": (4, 2, {"train": 2, "test": 2}, ("val/n03888257/3.JPEG", "parachute")),
    "uc-merced": (4, 2, {None: 4}, ("beach/beach01.tif", "beach")),
    "resisc45": (2, 2, {None: 2}, ("ship/ship_001.jpg", "ship")),
    "plantvillage": (2, 2, {None: 2}, ("Corn/image (1).JPG", "Corn")),
    "cassava": (6, 2, {"train": 2, "val": 2, "test": 2}, ("validation/healthy/5.jpg", "healthy")),
    "colorectal": (4, 2, {None: 4}, ("08_EMPTY/2_CRC-Prim-HE-02.tif_Row_1.tif", "08_EMPTY")),
}
MEDICAL = [name for name, entry in SETS.items() if entry.loader == "npz"]


def contents_of(name):
    if name in MEDICAL:
        return published.medmnist(name, SETS[name].classes, grey=name in ("octmnist", "organamnist"))
    return getattr(published, name.replace("-", "_"))()
