"""Images with several labels, from the CSV file to the prediction."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from typer.testing import CliRunner

import sapling
from sapling.cli import app
from sapling.deploy.onnxfile import open_session
from sapling.errors import DataError, GateError, ModelError, UsageError
from sapling.evaluation.ranked import compare_rankings
from sapling.workflows.evaluate import in_columns
from tests.digests import digest

LABELS = ("<b>red", "green", "黄")
SETTINGS = {
    "student": "cnn3",
    "teacher": {"model": "cnn3", "epochs": 6},
    "train": {"epochs": 2, "batch_size": 16, "num_seeds": 2, "precision": "fp32", "lr": 0.05},
    "deploy": {"parity_images": 8, "latency_seconds": 0},
}


def write_shapes(folder, *, count=120, size=16, seed=0):
    """Squares of up to three colours in noise, and a CSV file that names them; some images have none."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows = [("image", "label")]
    for k in range(count):
        has = rng.random(3) < (0.5, 0.4, 0.3)
        pixels = rng.integers(0, 110, (size, size, 3))
        for colour in np.flatnonzero(has):
            top, left = rng.integers(0, size - 7, 2)
            pixels[top : top + 7, left : left + 7, colour] = 250
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{k:03}.png")
        rows.append((f"{k:03}.png", ";".join(name for name, yes in zip(LABELS, has, strict=True) if yes)))
    with (folder / "images.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "images.csv"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes") / "images")


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    data = {"source": str(shapes), "img_size": 16}
    return sapling.distill(data=data, output=tmp_path_factory.mktemp("run") / "r", **SETTINGS)


def blocks(shapes, folder, **more):
    return {**SETTINGS, "data": {"source": str(shapes), "img_size": 16}, "output": folder, **more}


def test_the_run_measures_labels(run):
    results = run.results
    assert results["multi_label"]
    assert results["comparison"]["measure"] == results["comparison"]["verdict"]["measure"] == "map"
    assert "of mean average precision" in run.statement
    assert set(results["comparison"]["intervals"]) == {"macro_f1", "micro_f1", "auc", "bce", "ece"}
    assert results["manifest"]["weights"] == {"bce": 1.0, "inter": 2.0, "intra": 2.0}
    checks = {check["name"]: check["passed"] for check in results["teacher"]["gate"]["checks"]}
    assert checks == {"finite answers": True, "above chance": True, "class order": True}
    logits = {"control": [], "dist": []}
    for member in results["members"]:
        stored = load_file(run.folder / "members" / member["name"] / "test_logits.safetensors")
        targets, sizes = stored["labels"], results["manifest"]["split"]
        assert targets.shape == stored["logits"].shape == (sizes["test"], 3)
        assert member["test"]["per_label_images"] == targets.sum(0).tolist()
        assert "confusion" not in member["test"]
        logits[member["arm"]].append(stored["logits"])
    again = compare_rankings(logits["control"], logits["dist"], targets)
    assert again.as_dict() == results["comparison"]["verdict"]
    means = {arm: np.mean([m["test"]["map"] for m in results["members"] if m["arm"] == arm]) for arm in logits}
    assert again.difference == pytest.approx(means["dist"] - means["control"])


def test_the_terms_of_training(run):
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert {tuple(sorted(row["train"])) for row in rows} == {("bce", "loss"), ("bce", "inter", "intra", "loss")}
    assert all(set(row["val"]) == {"map", "macro_f1", "bce"} for row in rows)


def test_page_and_card_speak_of_labels(run):
    page = (run.folder / "report.html").read_text()
    for text in ("Mean average precision", "BCE", "Average precision: are test images", "term “bce”", "黄"):
        assert text.lower() in page.lower(), text
    for text in ("Top-1", "What is mistaken for what", "<b>red", "Recall: of all"):
        assert text not in page
    card = (run.folder / "student" / "README.md").read_text()
    assert "3 labels, of which an image may have several" in card
    assert "sigmoid" in card
    assert "mean average precision" in card


def test_files_say_that_it_is_a_sigmoid(run):
    config = json.loads((run.folder / "student" / "config.json").read_text())["sapling"]
    assert (config["multi_label"], config["activation"]) == (True, "sigmoid")
    assert sapling.load_model(run.folder).multi_label
    assert open_session(run.folder / "student" / "model.onnx").multi_label
    assert run.results["deploy"]["onnx"]["agree"] == 1


def test_predict_gives_all_labels(run, shapes):
    data = sapling.load_data(shapes, img_size=16)
    loaded = sapling.load_model(run.folder)
    model = sapling.TappedModel(loaded.model, loaded.preprocess).eval()
    (batch,) = data.eval_batches("test", batch_size=500)
    assert batch.labels is None
    with torch.no_grad():
        expected = torch.sigmoid(model(batch.images).logits).numpy()
    files = [shapes.parent / data.source.items[i].key for i in batch.indices.tolist()]
    for form in (run.folder, run.folder / "student" / "model.onnx"):
        for row, found in zip(expected, sapling.predict(form, files, top=1), strict=True):
            told = dict(found.classes)
            assert [told[name] for name in loaded.classes] == pytest.approx(row.tolist(), abs=1e-4)
            assert set(found.labels) == {name for name, share in told.items() if share >= 0.5}


def test_predict_on_the_command_line(run, shapes, tmp_path):
    runner, files = CliRunner(), [str(shapes.parent / f"{k:03}.png") for k in range(20)]
    found = json.loads(runner.invoke(app, ["predict", str(run.folder), *files, "--json"]).stdout)
    lines = runner.invoke(app, ["predict", str(run.folder), *files]).stdout.splitlines()
    runner.invoke(app, ["predict", str(run.folder), *files, "-o", str(tmp_path / "p.csv")])
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert any(len(row["labels"]) > 1 for row in found)
    for row, line, cells in zip(found, lines, rows, strict=True):
        assert len(row["classes"]) == 3
        assert line.split("\t")[1] == cells["label"] == ";".join(row["labels"])
        assert len(line.split("\t")[2].split(";")) == max(len(row["labels"]), 1)


def test_evaluate_repeats_the_figures(run, shapes, tmp_path):
    measured = sapling.evaluate(run.folder, shapes, device="cpu")
    shipped = run.results["shipped"]["member"]
    stored = next(m for m in run.results["members"] if m["name"] == shipped)["test"]
    assert measured["map"] == pytest.approx(stored["map"])
    assert measured["warnings"] == []
    # data with at most one label per image are read as labels all the same
    few = write_shapes(tmp_path / "few", count=12)
    few.write_text("image,label\n000.png,green\n001.png,黄\n002.png,\n")
    assert sapling.evaluate(run.folder, few, split="all", device="cpu")["per_label_images"] == [0, 1, 1]
    for name in ("green", "黄"):
        (tmp_path / "folder" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "folder" / name / "a.png")
    with pytest.raises(DataError, match="several labels per image, the data one class"):
        sapling.evaluate(run.folder, tmp_path / "folder", split="all")


def test_labels_in_the_columns_of_the_network():
    targets = in_columns(np.array([[1, 0], [0, 1]]), np.array([2, 0]), 3)
    assert targets.tolist() == [[0, 0, 1], [1, 0, 0]]


def test_training_alone_mixing_and_weights(shapes, tmp_path):
    train = {**SETTINGS["train"], "epochs": 1, "imbalance": "class_weights"}
    data = {"source": str(shapes), "img_size": 16, "mixup": 0.4}
    again = sapling.train(
        data=data, student="cnn3", train=train, deploy={"onnx": False, "latency_seconds": 0}, output=tmp_path / "r"
    )
    assert again.results["manifest"]["weights"] == {"bce": 1.0}
    assert "has a mean average precision of" in (tmp_path / "r" / "report.html").read_text()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"method": "dkd"}, "'dkd' needs one class per image.*allowed: methods for several labels: "),
        ({"method": "kdpp"}, "'kdpp' needs one class per image"),
        ({"method": {"name": "kd", "standardize": True}}, "standardize"),
        ({"train": {**SETTINGS["train"], "imbalance": "sampler"}}, "train.imbalance sampler"),
        ({"train": {**SETTINGS["train"], "imbalance": "logit_adjustment"}}, "train.imbalance logit_adjustment"),
        ({"evaluate": {"measure": "top1"}}, "evaluate.measure top1"),
    ],
)
def test_what_needs_one_class_is_refused_before_images_are_decoded(shapes, tmp_path, monkeypatch, more, says):
    monkeypatch.setattr("sapling.workflows.dataset.load_data", lambda *_, **__: pytest.fail("images were decoded"))
    with pytest.raises(UsageError) as caught:
        sapling.distill(**blocks(shapes, tmp_path / "r", **more))
    text = str(caught.value).replace("\n", " ")
    assert says.partition(".*")[0] in text
    assert says.rpartition("allowed: ")[2] in text


def test_a_teacher_of_another_kind_is_refused(shapes, finished_run, tmp_path):
    teacher = {"model": str(finished_run.folder / "teacher")}
    with pytest.raises((ModelError, GateError)):
        sapling.distill(**blocks(shapes, tmp_path / "r", teacher=teacher))


def test_a_given_teacher_is_checked_and_used(run, shapes, tmp_path):
    teacher = {"model": str(run.folder / "teacher")}
    train = {**SETTINGS["train"], "num_seeds": 1, "epochs": 1}
    again = sapling.distill(
        **blocks(shapes, tmp_path / "r", teacher=teacher, train=train, deploy={"onnx": False, "latency_seconds": 0})
    )
    assert again.results["teacher"]["test"]["map"] == run.results["teacher"]["test"]["map"]
    assert again.results["teacher"]["gate"]["checks"][-1]["detail"].startswith("not looked at")


def test_alpha_one_is_the_control_to_the_bit(shapes, tmp_path):
    train = {**SETTINGS["train"], "num_seeds": 1, "epochs": 1}
    method, teacher = {"name": "kd", "alpha": 1}, {"model": "cnn3", "epochs": 1, "accept_weak": True}
    made = sapling.distill(
        **blocks(
            shapes,
            tmp_path / "r",
            method=method,
            teacher=teacher,
            train=train,
            deploy={"onnx": False, "latency_seconds": 0},
        )
    )
    first, second = (made.folder / "members" / f"{arm}-s0" / "model.safetensors" for arm in ("control", "kd"))
    assert digest(first) == digest(second)


def test_inspect_counts_labels(shapes, tmp_path):
    card = sapling.inspect(shapes, output=tmp_path)
    assert "several labels per image" in (tmp_path / "inspect.html").read_text().lower()
    targets = sapling.load_data(shapes, img_size=16).source.targets
    assert np.sum([card.counts[part] for part in card.counts], axis=0).tolist() == targets.sum(0).tolist()
    assert card.multi_label


def test_inspect_says_that_it_counts_labels(shapes, tmp_path):
    shown = CliRunner().invoke(app, ["inspect", str(shapes), "-o", str(tmp_path / "card")]).output
    assert re.search(r"120 of 3 classes: \d+ train, \d+ validation, \d+ test labels", " ".join(shown.split()))
