from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import torch

from sapling.deploy.export import export_onnx
from sapling.models import save_model
from tests.models.shaken import loaded

NETWORKS = ("cnn3", "resnet18", "vit_tiny_patch16_224")


@pytest.fixture(autouse=True)
def one_thread():
    """Networks are tiny here: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory):
    """Per network: what it was, and its student/ folder with model.onnx; made when first asked for."""
    made = {}

    def make(name):
        if name not in made:
            what = loaded(name)
            folder = tmp_path_factory.mktemp(name) / "student"
            save_model(
                folder,
                what.model,
                architecture=what.architecture,
                classes=what.classes,
                preprocess=what.preprocess,
            )
            export_onnx(what, folder / "model.onnx")
            made[name] = (what, folder)
        return made[name]

    return make


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """Real images of several sizes and modes: satellite tiles of 64, 150 pixels, and 512-pixel grey trees."""
    folder = os.environ.get("SAPLING_TEST_DATA")
    if not folder or not Path(folder, "eurosat_rgb.zip").is_file():
        pytest.skip("SAPLING_TEST_DATA does not name a folder with the real images")
    out = tmp_path_factory.mktemp("photographs")
    for archive, count in (("eurosat_rgb.zip", 12), ("aid_100.zip", 6), ("street_trees_lidar.zip", 6)):
        with zipfile.ZipFile(Path(folder, archive)) as opened:
            names = sorted(n for n in opened.namelist() if n.lower().endswith((".jpg", ".jpeg", ".png")))
            for number, name in enumerate(names[:: max(1, len(names) // count)][:count]):
                target = out / f"{archive[:5]}{number}{Path(name).suffix}"
                target.write_bytes(opened.read(name))
    return sorted(out.iterdir())
