"""A method that ships trained parts of its own: what validation measures is what is saved."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.numpy import load_file

import sapling
from sapling import cli, methods
from sapling.bands import Bands
from sapling.config import build
from sapling.deploy.predict import predict
from sapling.engine.optim import OptimSettings
from sapling.engine.trainer import Member
from sapling.errors import UsageError
from sapling.models import Preprocess, TappedModel, count_macs, count_parameters, create_model, load_model
from sapling.reused import ReusedClassifier
from sapling.tables import print_plan
from sapling.types import PairInfo
from sapling.workflows import passes
from sapling.workflows.plan import plan
from tests.conftest import SMALL_RUN

METHODS = {"norm": {"num_copies": 2}, "simkd": {}}


def settings(photos, folder, method="norm", **train):
    return {
        "data": {"source": str(photos), "img_size": 16},
        "student": "cnn3",
        "teacher": {"model": "cnn3", "epochs": 1, "accept_weak": True},
        "method": {"name": method, **METHODS[method]},
        "train": {**SMALL_RUN["train"], "num_seeds": 1, "epochs": 1, **train},
        "deploy": {"onnx": False, "latency_seconds": 0},
        "output": folder,
    }


class Enough(Exception):
    """The students are trained; the rest of the run is not looked at here."""


@pytest.mark.parametrize("name", METHODS)
def test_validation_measures_what_is_saved(name, photos, tmp_path, monkeypatch):
    measured, measure, train = [], passes.logits_of, passes.train_members

    def watched(model, data, split, *rest):
        found = measure(model, data, split, *rest)
        if split == "val":
            measured.append((found[0], data))
        return found

    def trained(*given, **more):
        train(*given, **more)
        raise Enough

    monkeypatch.setattr(passes, "logits_of", watched)
    monkeypatch.setattr("sapling.workflows.distill.train_members", trained)
    with pytest.raises(Enough):
        sapling.distill(**settings(photos, tmp_path / "r", name))
    rows = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    (row,) = [r for r in rows if r["member"] == f"{name}-s0"]
    assert set(row["train"]) == {"norm": {"ce", "norm", "loss"}, "simkd": {"feature", "loss"}}[name]
    _, saved = passes.load_trained(tmp_path / "r" / "members" / f"{name}-s0")
    with torch.no_grad():
        batches = measured[-1][1].eval_batches("val", batch_size=64)
        logits = torch.cat([saved.eval()(batch.images).logits for batch in batches])
    assert all(len(found) == len(logits) for found, _ in measured)
    assert any(torch.allclose(logits, torch.as_tensor(found), atol=1e-4) for found, _ in measured)


@pytest.mark.parametrize("name", METHODS)
def test_an_average_of_weights_would_leave_the_parts_out(name, photos, tmp_path):
    with pytest.raises(UsageError, match=rf"ema_decay 0.9 averages the student, and '{name}' ships parts of its own"):
        sapling.distill(**settings(photos, tmp_path / "r", name, ema_decay=0.9))
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("name", METHODS)
def test_a_plan_says_what_would_be_shipped(name, photos, tmp_path, capsys):
    found = plan(build(settings(photos, tmp_path / "r", name)))
    print_plan(found)
    shown = " ".join(capsys.readouterr().out.split())
    assert ("shipped" in found) == (name == "simkd") == ("shipped sapling_cnn3 with simkd:" in shown)
    if name == "simkd":
        parts = 128 * 64 + 64 * 64 * 9 + 64 * 128 + 2 * (64 + 64 + 128)  # cnn3 teaches: the same classifier again
        assert found["shipped"]["parameters"] == found["student"]["parameters"] + parts


def test_what_is_shipped_takes_its_bands_out_of_the_images():
    """A student of three of the images' five bands: so is the network that a method ships in its place."""
    own, given = (
        Bands(5, chosen, (0.0,) * len(chosen), (1.0,) * len(chosen)) for chosen in ((4, 3, 2), (1, 2, 3, 4, 5))
    )
    how = Preprocess(16, 16, (0.5,) * 3, (0.5,) * 3, own)
    student = TappedModel(create_model("cnn3", num_classes=4, img_size=16, seed=0), how, ("last_map",), bands=given)
    card = {"classifier.weight": torch.randn(4, 6), "classifier.bias": torch.randn(4)}
    shapes = {"last_map": (6, 2, 2)}
    info = PairInfo(4, 9, student.shapes, shapes, teacher_card=card, student_places=student.places)
    method = methods.build("simkd", info)
    member = Member("m", "simkd", 0, student, method, OptimSettings("sgd", 0.1, 0.0, "constant", 0, 1))
    images = torch.rand(2, 5, 16, 16)
    shipped = passes.as_shipped(member).eval()
    with torch.no_grad():
        expected = shipped.model((images[:, [3, 2, 1]] - 0.5) / 0.5)
        torch.testing.assert_close(shipped(images).logits, expected)


def test_a_run_ships_the_teachers_classifier(photos, tmp_path, monkeypatch, capsys):
    """Through the command line: what was tested is what lies in student/, and every way to it answers the same."""
    shipped = {"member": "simkd-s0", "arm": "simkd", "reason": "the test wants it"}
    monkeypatch.setattr("sapling.workflows.distill.choose_to_ship", lambda *given: shipped)
    folder = tmp_path / "r"
    words = ["--teacher", "cnn4", "--student", "cnn3", "--method", "simkd", "--seeds", "1", "--epochs", "1"]
    fixed = ["--img-size", "16", "--amp", "fp32", "--device", "cpu", "-o", str(folder)]
    options = ("teacher.epochs=2", "teacher.accept_weak=true", "deploy.latency_seconds=0.01", "deploy.parity_images=8")
    sets = [part for option in options for part in ("--set", option)]
    assert cli.main(["distill", "digits", *words, *fixed, *sets]) == 0
    capsys.readouterr()
    results = json.loads((folder / "results.json").read_text())
    control, member = results["members"]
    network, teacher = load_model(folder / "student").model, load_model(folder / "teacher").model
    assert isinstance(network, ReusedClassifier)
    assert torch.equal(network.classifier.weight, teacher.get_classifier().weight)
    assert member["parameters"] == count_parameters(network) > control["parameters"]
    assert member["macs"] == count_macs(network, (3, 16, 16)) > control["macs"]
    measured = results["efficiency"]["networks"]
    assert [n["role"] for n in measured] == ["teacher", "control", "student", "student"]
    for found, known, place in ((measured[1], control, "members/control-s0"), (measured[2], member, "student")):
        assert (found["parameters"], found["macs"]) == (known["parameters"], known["macs"])
        assert found["bytes"] == (folder / place / "model.safetensors").stat().st_size
    assert measured[1]["peak_memory_bytes"]["1"] < measured[2]["peak_memory_bytes"]["1"]
    assert "Distilled, shipped" in (folder / "report.html").read_text()
    assert results["deploy"]["onnx"]["max_abs_logit_difference"] < 1e-4
    assert "note: simkd ships" in (folder / "log.txt").read_text()

    data = sapling.load_data("digits", img_size=16)
    _, tapped = passes.load_trained(folder / "student")
    with torch.no_grad():
        logits = torch.cat([tapped.eval()(b.images).logits for b in data.eval_batches("test", batch_size=64)])
    kept = load_file(folder / "members" / "simkd-s0" / "test_logits.safetensors")
    torch.testing.assert_close(logits, torch.from_numpy(kept["logits"]), rtol=1e-4, atol=1e-4)
    files = sorted(photos.rglob("*.png"))[:4]
    ways = [list(predict(way, files, top=3)) for way in (folder, folder / "student" / "model.onnx")]
    for one, other in zip(*ways, strict=True):
        assert [name for name, _ in one.classes] == [name for name, _ in other.classes]
        assert [p for _, p in one.classes] == pytest.approx([p for _, p in other.classes], abs=1e-4)
