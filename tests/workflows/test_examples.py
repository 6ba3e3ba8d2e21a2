"""Every file of ``examples/`` is run through the command line, made small."""

import json
from pathlib import Path

import pytest

from sapling.cli import main

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
SMALL = {
    "--img-size": 32,
    "--batch-size": 16,
    "--epochs": 1,
    "--teacher-epochs": 1,
    "--seeds": 1,
    "--amp": "fp32",
}
SMALLER = {"fdbd": ("method.phase1_epochs=1", "method.ae_channels=8"), "dist": ()}


@pytest.mark.parametrize("method", SMALLER)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(example, method, photos, tmp_path, capsys):
    settings = [f"--set={s}" for s in (*SMALLER[method], "deploy.latency_seconds=0", "deploy.onnx=false")]
    small = [word for option in SMALL.items() for word in option]
    call = ["distill", photos, "--config", example, "--method", method, *small, *settings]
    call += ["--accept-weak-teacher", "-o", tmp_path / "r", "-q"]
    assert main([str(word) for word in call]) == 0, capsys.readouterr().err
    results = json.loads((tmp_path / "r" / "results.json").read_text(encoding="utf-8"))
    assert results["manifest"]["method"] == method
    assert (tmp_path / "r" / "report.html").exists()


def test_there_are_examples():
    assert EXAMPLES
