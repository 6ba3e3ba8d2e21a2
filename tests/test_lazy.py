"""What must answer within a moment never imports torch. Each check runs in a fresh interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "accelerate",
    "scipy",
    "sklearn",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "torchmetrics",
)
TAIL = """
import sys
found = [m for m in {heavy!r} if m in sys.modules]
assert not found, f"imported: {{found}}"
"""
TORCH_FREE = (
    "sapling.errors",
    "sapling.config",
    "sapling.record",
    "sapling.report",
    "sapling.methods",
    "sapling.methods.validate",
    "sapling.methods.weights",
    "sapling.data",
    "sapling.data.sources",
    "sapling.data.splits",
    "sapling.data.cache",
    "sapling.data.packed",
    "sapling.data.pixels",
    "sapling.data.sampling",
)


def run(code: str, heavy: tuple[str, ...] = HEAVY) -> str:
    """Run code, then see that nothing heavy was imported; gives what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code + TAIL.format(heavy=heavy)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


needs_cli = pytest.mark.skipif(not exists("sapling.cli"), reason="the command line is not there yet")


@pytest.mark.parametrize("module", TORCH_FREE)
def test_module_needs_no_torch(module):
    if not exists(module):
        pytest.skip(f"{module} is not there yet")
    run(f"import {module}", heavy=("torch", "timm", "torchvision"))


def test_predicting_from_onnx_needs_no_torch_to_start():
    if not exists("sapling.deploy.predict"):
        pytest.skip("sapling.deploy.predict is not there yet")
    run("import sapling.deploy.predict", heavy=("torch", "timm", "torchvision"))


def test_methods_need_no_torch():
    run(
        """
from sapling import methods
assert {"none", "kd", "dkd", "dist"} <= set(methods.names())
assert methods.catalogue()["kd"]["fields"]["temperature"]["default"] == 4.0
assert methods.check_config("kd", {"temperature": 2}) == []
assert "did you mean 'temperature'" in methods.check_config("kd", {"temprature": 2})[0]
"""
    )


@needs_cli
def test_help_needs_no_torch():
    out = run(
        """
from sapling.cli import main
try:
    code = main(["--help"])
except SystemExit as stop:
    code = stop.code
assert not code, code
"""
    )
    assert "distill" in out


@needs_cli
@pytest.mark.parametrize("command", ["--help", "distill --help", "--version"])
def test_help_is_plain_and_quick(command):
    out = run(
        f"""
from sapling.cli import main
try:
    code = main({command.split()!r})
except SystemExit as stop:
    code = stop.code
assert not code, code
""",
        heavy=(*HEAVY, "numpy", "PIL", "typer.rich_utils", "markdown_it", "pygments"),
    )
    assert "\u2500" not in out


@needs_cli
def test_the_first_line_needs_neither_numpy_nor_pillow(tmp_path):
    out = run(
        f"""
import sys
from sapling.screen import Screen
def say(self, line):
    print(line)
    found = [m for m in {(*HEAVY, "numpy", "PIL", "rich")!r} if m in sys.modules]
    assert not found, found
    sys.exit(0)
Screen.say = say
from sapling.cli import main
main(["distill", "digits", "--output", {str(tmp_path / "r")!r}])
"""
    )
    assert out.startswith("sapling distill: digits -> ")


@needs_cli
def test_listing_methods_needs_no_torch():
    out = run("from sapling.cli import main\nassert not main(['methods'])")
    assert "dkd" in out


@needs_cli
@pytest.mark.parametrize(
    ("setting", "hint"), [("method.temprature=3", "temperature"), ("train.epoch=3", "epochs"), ("train.lr=fast", "lr")]
)
def test_a_wrong_setting_is_met_before_torch_is_imported(setting, hint):
    out = run(
        f"""
from sapling.cli import main
try:
    code = main(["distill", "digits", "--set", {setting!r}])
except SystemExit as stop:
    code = stop.code
assert code == 2, code
"""
    )
    assert hint in out
    assert "Traceback" not in out


@needs_cli
def test_what_a_method_refuses_is_said_before_torch():
    for words in (
        '"--method", "at", "--teachers", "2", "--set", "teacher.cross_fit=true"',
        '"--method", "crd", "--mixup", "0.2"',
        '"--batch-size", "4"',
        '"--method", "dist+mimic", "--batch-size", "4", "--set", "method.mimic.weight=2"',
    ):
        out = run(
            f"""
from sapling.cli import main
assert main(["distill", "no/such/folder", "--dry-run", {words}]) == 2
"""
        )
        assert any(w in out for w in ("the teacher's features", "needs one class number", "batch size is 4")), out
