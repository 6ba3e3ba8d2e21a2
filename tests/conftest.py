"""What every test shares: a cache of its own, a small folder of images, one finished run."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from tests.digests import sources_digest
from tests.exporter import parse_functions_once

# threads that wait for work sleep; by default they spin, and on a busy machine hold the core of what they wait for
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # is read when torch is first loaded
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: one thread each, and so do their children
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# a busy machine must not fail a test: no deadline; the same examples every time
settings.register_profile("sapling", deadline=None, derandomize=True)
settings.load_profile("sapling")

PASSED = "sapling/passed"
"""Where pytest's cache keeps which tests passed on which sources: plant_faults.py need not run them again."""

CLASSES = ("Linde & Söhne", "枫树", "<b>oak</b>")


def pytest_sessionfinish(session):
    """Keep which tests passed, and on which sources."""
    config = session.config
    reporter, cache = config.pluginmanager.get_plugin("terminalreporter"), getattr(config, "cache", None)
    if reporter is None or cache is None or config.option.collectonly:
        return
    sources, before = sources_digest(config.rootpath), cache.get(PASSED, {})
    known = dict(before.get("tests", {})) if before.get("sources") == sources else {}
    for outcome in ("passed", "skipped", "failed", "error"):  # the worst is said last
        known.update({r.nodeid: outcome for r in reporter.stats.get(outcome, ()) if getattr(r, "nodeid", None)})
    cache.set(PASSED, {"sources": sources, "tests": known})


@pytest.fixture(autouse=True)
def same_threads():
    """A test that changes the number of threads changes no bit of another."""
    before = torch_threads()
    yield
    if before is not None and torch_threads() != before:
        sys.modules["torch"].set_num_threads(before)


def torch_threads():
    """Threads of torch, or None where it is not imported: many tests must do without."""
    return sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None


@pytest.fixture(autouse=True)
def quick_exports():
    """Twenty tests write an ONNX file."""
    parse_functions_once()


@pytest.fixture
def run(capsys):
    """The command line in process: exit code, stdout, stderr."""
    from sapling.cli import main

    def call(*arguments):
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Decoded images of the tests never land in the user's cache."""
    before = os.environ.get("SAPLING_CACHE")
    os.environ["SAPLING_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["SAPLING_CACHE"]
    else:
        os.environ["SAPLING_CACHE"] = before


def write_images(folder: Path, *, per_class: int = 30, size: int = 16, seed: int = 0) -> Path:
    """Noisy squares whose colour tells the class."""
    rng = np.random.default_rng(seed)
    for number, name in enumerate(CLASSES):
        (folder / name.replace("/", "∕")).mkdir(parents=True)
        for k in range(per_class):
            pixels = rng.integers(0, 120, (size, size, 3))
            pixels[..., number] += 60
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name.replace("/", "∕") / f"{k}.png")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Folder of 3 classes with 30 images each; the names try to break HTML."""
    return write_images(tmp_path_factory.mktemp("photos") / "photos")


SMALL_RUN = {
    "student": "cnn3",
    "teacher": {"model": "cnn4", "epochs": 8},
    "train": {"epochs": 3, "batch_size": 16, "num_seeds": 2, "precision": "fp32", "lr": 0.05, "threads": 2},
    "deploy": {"parity_images": 8, "latency_seconds": 0.01},
}


@pytest.fixture(scope="session")
def finished_run(photos, tmp_path_factory):
    """A whole run on ``photos``: cnn4 teaches cnn3, two seeds."""
    from sapling import distill

    return distill(
        data={"source": str(photos), "img_size": 16}, output=tmp_path_factory.mktemp("run") / "r", **SMALL_RUN
    )
