"""Names of classes come from users: any letters, quotes and brackets live through every artefact of a run."""

from __future__ import annotations

import csv
import html
import json
import os
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import sapling
from sapling.deploy.onnxfile import open_session
from sapling.deploy.predict import Prediction, predict
from sapling.tables import print_predictions

NAMES = ('海棠 <b>"x"<∕b>; ünï', "$\\frac{a}{b}$ %s {0} 100 %", "عربي & 'ñ'")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        (folder / "data" / name).mkdir(parents=True)
        for k in range(12):
            pixels = rng.integers(0, 90, (16, 16, 3))
            pixels[..., number] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "data" / name / f"{k}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that no font has would be a warning
        return sapling.distill(
            data={"source": str(folder / "data"), "img_size": 16},
            student="cnn3",
            teacher={"model": "cnn3", "epochs": 4, "accept_weak": True},
            train={"epochs": 2, "batch_size": 8, "num_seeds": 1, "precision": "fp32"},
            deploy={"parity_images": 2, "latency_seconds": 0},
            output=str(folder / "run"),
        )


def test_text_files(run):
    student = run.folder / "student"
    assert (student / "classes.txt").read_text(encoding="utf-8").splitlines() == sorted(NAMES)
    for path in (student / "config.json", run.folder / "results.json", run.folder / "data.json"):
        text = json.dumps(json.loads(path.read_text(encoding="utf-8")), ensure_ascii=False)
        assert all(json.dumps(name, ensure_ascii=False)[1:-1] in text for name in NAMES), path.name
    with (run.folder / "split.csv").open(encoding="utf-8", newline="") as file:
        keys = [row["key"] for row in csv.DictReader(file)]
    assert {key.rpartition("/")[0] for key in keys} == set(NAMES)
    assert "海棠" in (student / "README.md").read_text(encoding="utf-8")


def test_the_page_and_the_figures(run):
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert '<b>"x"' not in page
    assert all(name in html.unescape(page) for name in NAMES)
    figures = list((run.folder / "figures").glob("*.svg"))
    shown = "".join("".join(ElementTree.parse(path).getroot().itertext()) for path in figures)
    # Text is text, not drawn outlines: no font of this machine needs to have its letters.
    assert all(part in shown for part in ("海棠", "\\frac", "عربي"))


def test_predictions_of_files_whose_names_are_no_utf8(tmp_path, capsys):
    found = [Prediction(os.fsdecode(b"ch\xeane.png"), [("oak", 1.0)])]
    print_predictions(found, as_json=False, output=str(tmp_path / "p.csv"))
    assert b"ch\xeane.png,1,oak" in (tmp_path / "p.csv").read_bytes()
    capsys.readouterr()
    print_predictions(found, as_json=True, output=None)
    assert json.loads(capsys.readouterr().out.encode("ascii"))[0]["classes"][0]["class"] == "oak"


def test_the_onnx_file_and_predictions(run, tmp_path):
    assert open_session(run.folder / "student" / "model.onnx").classes == tuple(sorted(NAMES))
    image = next((tmp_path.parent).glob("names*/data/海棠*/0.png"))
    found = predict(run.folder, [image], top=3)
    print_predictions(found, as_json=False, output=str(tmp_path / "p.csv"))
    with (tmp_path / "p.csv").open(encoding="utf-8", newline="") as file:
        assert {row["class"] for row in csv.DictReader(file)} == set(NAMES)
