"""The diagnosis inside a run: faults are planted one by one, and each is named first; a healthy run alarms nobody.

Five classes of eight-pixel pictures, told apart by a faint pattern: 120 training images are too few to learn it well,
and a teacher that saw 1,500 has much to tell.
"""

import contextlib
import io
import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import sapling
from sapling.cli import main
from sapling.config import build
from sapling.evaluation.diagnosis import CAUSES, diagnose
from sapling.evaluation.imitation import Answers
from sapling.evaluation.measured import Imitation, Measured
from sapling.models import save_model
from sapling.models.load import Preprocess
from sapling.report.diagnosis import terminal_lines
from sapling.workflows.diagnosis import log_line, softening
from sapling.workflows.remedies import next_command, remedy_for, without_finding
from tests.evaluation.test_diagnosis import FLAWS, HEALTHY, student
from tests.workflows.test_next_run import read_back

CLASSES, SIZE = [f"class {k}" for k in range(5)], 8
PATTERN = np.random.default_rng(0).choice([-1, 1], (5, SIZE, SIZE, 3))


def draw(num, seed):
    labels = np.arange(num) % 5
    noise = np.random.default_rng(seed).normal(0, 50, (num, SIZE, SIZE, 3))
    return np.clip(127 + 22 * PATTERN[labels] + noise, 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plants")
    for number, (pixels, label) in enumerate(zip(*draw(300, 1), strict=True)):
        place = folder / "photos" / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def teach(folder, *, images, labels, epochs, lr=3e-3):
    """A cnn3 that learned these images, as a user would give it."""
    model = sapling.create_model("cnn3", num_classes=5, img_size=SIZE, seed=7).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    x, y = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25, torch.from_numpy(labels)
    for epoch in range(epochs):
        for part in torch.randperm(len(y), generator=torch.Generator().manual_seed(epoch)).split(50):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
    how = Preprocess(SIZE, SIZE, (0.5,) * 3, (0.25,) * 3)
    save_model(folder, model.eval(), architecture="sapling_cnn3", classes=CLASSES, preprocess=how)
    return folder


@pytest.fixture(scope="module")
def good(root):
    images, labels = draw(1500, 2)
    return teach(root / "good", images=images, labels=labels, epochs=4)


def run(root, name, teacher, *, epochs=12, kind="kd", seeds=1, **method):
    return sapling.distill(
        data={"source": str(root / "photos"), "img_size": SIZE, "val_share": 0.3, "test_share": 0.3, "views": "none"},
        student="cnn3",
        teacher={"model": str(teacher), "accept_weak": True},
        method={"name": kind, **method},
        train={"epochs": epochs, "batch_size": 16, "num_seeds": seeds, "precision": "fp32", "threads": 1, "lr": 0.02},
        deploy={"onnx": False, "latency_seconds": 0},
        output=str(root / "runs" / name),
    )


def first(result):
    """Name of the first cause; of the whole diagnosis its form is checked on the way."""
    found = result.results["diagnosis"]
    causes = [f["name"] for f in found["findings"]]
    assert len(set(causes)) == len(causes)
    assert set(causes) <= set(CAUSES)
    for entry in found["findings"]:
        assert entry["command"].startswith("sapling ")
        if entry["command"].startswith("sapling distill "):
            task, config = read_back(entry["command"])
            assert (task, config.output.folder) == ("distill", f"{result.folder}-{entry['name'].replace('_', '-')}")
    cause = found["findings"][0]
    assert cause["level"] == "likely"
    assert f"diagnosis: {cause['title']}" in (result.folder / "log.txt").read_text()
    return cause["name"]


def test_a_healthy_run_alarms_nobody(root, good):
    results = run(root, "healthy", good, seeds=5).results  # one seed is better on some machines only
    measured = results["diagnosis"]["measured"]
    assert results["comparison"]["verdict"]["outcome"] == "better"
    assert "findings" not in results["diagnosis"]
    assert measured["gap"] > 0.2
    control, distilled = (measured["students"][arm]["val"] for arm in ("control", "distilled"))
    assert distilled["kl"] < control["kl"]
    # nor would it have been alarmed had the verdict been another
    assert diagnose(rebuilt(measured, outcome="worse")) == []
    page = (root / "runs" / "healthy" / "report.html").read_text()
    assert "Why not better" not in page
    assert terminal_lines(results) == []


def rebuilt(measured, **changes):
    """``Measured`` from ``results.json``."""
    values = {k: v for k, v in measured.items() if k in Measured.__dataclass_fields__}
    values |= {k: Answers(**values[k]) for k in ("teacher_train", "teacher_val")}
    values["students"] = {
        arm: {part: Imitation(**v) for part, v in parts.items()} for arm, parts in values["students"].items()
    }
    return Measured(**{**values, **changes})


def test_a_weak_teacher_is_named_first(root):
    images, labels = draw(40, 3)
    weak = teach(root / "weak", images=images, labels=labels, epochs=6, lr=1e-3)
    assert first(run(root, "weak", weak)) == "weak_teacher"


def test_a_hundredfold_weight_is_named_first_and_the_page_says_so(root, good):
    result = run(root, "hundred", good, weights={"ce": 0.1, "kd": 90.0})
    assert first(result) == "scale"
    cause = result.results["diagnosis"]["findings"][0]
    weight = cause["changes"]["method.weights"]["kd"]
    assert 0.3 < weight < 10, "back to where it came from"
    page = (result.folder / "report.html").read_text()
    assert "Why not better?" in page
    assert "The term kd is too strong" in page
    assert "--set &#39;method.weights={ce: 0.1, kd:" in page
    labels, texts = zip(*terminal_lines(result.results), strict=True)
    assert labels[0] == "why"
    assert texts[0].startswith("The term kd is too strong. With its weight of 90 its gradient is ")
    assert texts[-1] == cause["command"]
    assert followed(result)["manifest"]["weights"]["kd"] == pytest.approx(weight)


def followed(result):
    """Results of the proposed run: planned, trained and judged as its command stands there, and its cause is gone."""
    cause = result.results["diagnosis"]["findings"][0]
    words = shlex.split(cause["command"])[1:]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert main([*words, "--dry-run", "--quiet"]) == 0
        assert main([*words, "--quiet"]) == 0
    folder = result.folder.with_name(f"{result.folder.name}-{cause['name']}")
    assert folder.name in shown.getvalue().replace("\n", "")
    results = json.loads((folder / "results.json").read_text())
    assert results["teacher"]["sha256"] == result.results["teacher"]["sha256"]
    assert cause["name"] not in [f["name"] for f in results["diagnosis"].get("findings", ())]
    return results


def test_one_epoch_is_named_first(root, good):
    # seven steps, and mostly the labels': both students guess
    result = run(root, "one", good, epochs=1, alpha=0.9)
    assert first(result) == "steps"
    assert result.results["diagnosis"]["findings"][0]["changes"]["train.epochs"] > 20


def test_a_temperature_of_a_hundred_is_named_first_and_its_next_run_is_a_run(root, good):
    # hot logits are logits all the same: with a small weight they change nothing that so small a test could show
    result = run(root, "hot", good, epochs=6, temperature=100, alpha=0.9)
    assert first(result) == "temperature"
    assert result.results["diagnosis"]["measured"]["temperature"] == 100
    assert "The temperature is too high" in (result.folder / "report.html").read_text()
    following = followed(result)
    assert following["manifest"]["method_config"]["temperature"] < 10
    assert following["diagnosis"]["measured"]["temperature"] < 10


def test_shuffled_teacher_labels_are_named_first(root, good):
    loaded = sapling.load_model(good)
    with torch.no_grad():
        for tensor in (loaded.model.fc.weight, loaded.model.fc.bias):
            tensor.copy_(tensor.roll(1, 0))
    how = {"architecture": "sapling_cnn3", "classes": CLASSES, "preprocess": loaded.preprocess}
    save_model(root / "renamed", loaded.model, **how)
    result = run(root, "renamed_run", root / "renamed", epochs=3)
    assert first(result) == "labels"
    assert "in another order" in result.results["diagnosis"]["findings"][0]["measured"]


def test_an_identity_denoiser_is_named_first(root, good, monkeypatch):
    monkeypatch.setattr("sapling.blocks.DiffusionSchedule.denoise", lambda schedule, noisy, predict: noisy)
    # by squared errors this student gains even without denoising, and a better run is not diagnosed
    result = run(root, "identity", good, kind="fdbd", epochs=8, phase1_epochs=3, feat_loss="kl_channel")
    assert result.results["diagnosis"]["measured"]["acceptance"]["passed"] is False
    assert first(result) == "denoiser"


def test_a_teacher_of_random_labels_is_named_first(root):
    images, labels = draw(300, 1)
    shuffled = np.random.default_rng(5).permutation(labels)
    result = run(root, "random_run", teach(root / "random", images=images, labels=shuffled, epochs=20), epochs=3)
    assert first(result) == "labels"


@pytest.mark.parametrize("flaw", FLAWS)
def test_every_remedy_is_a_command_that_is_understood(flaw, tmp_path):
    name, changes = FLAWS[flaw]
    measured = replace(HEALTHY, **changes)
    (finding,) = diagnose(measured)
    for blocks in (
        {"data": "a b.zip", "method": "kd", "teacher": {"model": "resnet18", "epochs": 12, "mixup": 0.2}},
        {
            "data": "x",
            "teacher": "runs/t/teacher",
            "method": {"name": "dkd", "weights": {"ce": 0.5}},
            "output": "runs/o/",
        },
        {"data": "x", "method": {"name": "kd", "standardize": True, "alpha": 0.1}, "train": {"batch_size": 4}},
    ):
        config = build(blocks)
        if name == "scale" and config.method.name == "dkd":
            continue  # its weights have other names
        command = next_command(remedy_for(finding, measured, config), config, tmp_path / "run", name)
        if command.startswith("sapling inspect "):
            continue
        _, following = read_back(command)
        assert following.fingerprint() != config.fingerprint(), "the next run would be this one"
        if config.output.folder:
            assert following.output.folder == f"runs/o-{name}"
        if name not in ("labels", "weak_teacher", "steps") and config.teacher.model == "resnet18":
            assert following.teacher.model == str(tmp_path / "run" / "teacher"), "the same teacher serves again"
            assert (following.teacher.epochs, following.teacher.mixup) == (None, None)


@pytest.mark.parametrize("classes", [2, 10])
def test_where_answers_are_not_enough_the_last_map_is_added(classes, tmp_path):
    """The student of dist that cannot follow, of any number of classes; not where features cannot be taught."""
    measured = replace(HEALTHY, num_classes=classes, students=student("distilled", "train", agreement=0.6))
    finding = next(f for f in diagnose(measured) if f.name == "capacity")

    def remedy(**blocks):
        return remedy_for(finding, measured, build({"data": "x", "method": "dist", **blocks}))

    config = build({"data": "x", "method": {"name": "dist", "temperature": 2}})
    _, following = read_back(
        next_command(remedy(method=config.method.model_dump()), config, tmp_path / "run", "capacity")
    )
    assert (following.method.name, following.method.options) == ("dist+mimic", {"dist": {"temperature": 2.0}})
    for other in (
        {"teacher": {"num_teachers": 2, "cross_fit": True}},
        {"student": {"model": "resnet18", "pretrained": True, "freeze_backbone": True}},
        {"teacher": "runs/a/teacher,runs/b/teacher"},
        {"data": {"source": "x", "mixup": 0.2}, "teacher": {"cache": "on"}},
        {"train": {"half_size_share": 0.5}},
        {"method": "dist+mimic"},
    ):
        assert set(remedy(**other).changes) == {"student.model"}


def test_a_short_run_with_a_short_and_weak_teacher_trains_both_for_longer():
    short = replace(HEALTHY, epochs=4, steps=64, gap=-0.1, students=student("control", "train", score=0.5))
    finding = next(f for f in diagnose(short) if f.name == "steps")

    def remedy(**teacher):
        return remedy_for(finding, short, build({"data": "x", "teacher": {"model": "resnet18", **teacher}}))

    both = remedy(epochs=6)
    assert both.changes == {"train.epochs": 100, "teacher.epochs": None}
    assert not both.keeps_teacher
    assert "students and teacher" in both.text
    long = remedy(epochs=300)
    assert (long.keeps_teacher, long.changes) == (True, {"train.epochs": 100})


def test_mixed_images_are_asked_of_the_teacher_itself_where_its_answers_were_kept():
    measured = replace(HEALTHY, **FLAWS["memorised"][1])
    finding = next(f for f in diagnose(measured) if f.name == "memorised")
    kept = build({"data": "x", "teacher": {"cache": "on"}})
    assert remedy_for(finding, measured, kept).changes["teacher.cache"] == "auto"
    assert "teacher.cache" not in remedy_for(finding, measured, build({"data": "x"})).changes


def test_where_features_were_too_much_the_answers_alone_are_tried():
    healthy = replace(HEALTHY, outcome="worse")
    assert not diagnose(healthy)
    config = build({"data": "x", "method": "dist+mimic"})
    assert without_finding(healthy, config).changes == {"method.name": "dist"}
    answers = without_finding(healthy, build({"data": "x", "method": "dist"}))
    assert (answers.changes["method.alpha"], "method.name" in answers.changes) == (0.5, False), "not back again"
    fewer = build({"data": "x", "method": {"name": "dist+mimic", "dist": {"temperature": 2}}})
    assert without_finding(healthy, fewer).changes == {"method.dist": None, "method.name": "dist"}


@pytest.mark.parametrize("method", ["kd", "kd+dist", "dist+kd"])
def test_a_hesitant_teacher_is_seen_by_the_part_that_it_harms(method):
    """Plain kd, wherever it stands; the remedy leaves it away and never proposes it."""
    config = build({"data": "x", "method": method})
    temperature, standardized = softening(config)
    assert (temperature, standardized) == (4.0, False)
    _, changes = FLAWS["mixup"]
    measured = replace(HEALTHY, **changes, temperature=temperature)
    (finding,) = diagnose(measured)
    assert finding.name == "hesitant"
    assert remedy_for(finding, measured, config).changes["method.name"] == "dist"


@pytest.mark.parametrize(
    ("model", "side", "right", "name"),
    [
        ("resnet18", 64, 0.99, "wrn_16_2_s2"),
        ("resnet34", 128, 0.93, "wrn_16_2_s2"),
        ("resnet18", 32, 0.99, "wrn_16_2"),
        ("resnet18", 224, 0.99, "resnet34"),
        ("resnet18", None, 0.99, "resnet34"),
        ("wrn_16_2_s2", 64, 0.99, "wrn_40_2_s2"),
    ],
)
def test_a_weak_teacher_of_small_images_is_replaced_by_one_that_does_not_shrink_them(model, side, right, name):
    measured = replace(HEALTHY, img_size=side, gap=-0.05, teacher_train=replace(HEALTHY.teacher_train, right=right))
    remedy = remedy_for(diagnose(measured)[0], measured, build({"data": "x", "teacher": model}))
    assert remedy.changes == {"teacher.model": name}
    assert not remedy.keeps_teacher


@pytest.mark.parametrize(
    ("student", "side", "name"),
    [
        ("cnn3", 64, "wrn_16_2_s2"),
        ("cnn3", 32, "wrn_16_2"),
        ("cnn3", 224, "resnet18"),
        ("wrn_16_2_s2", 64, "wrn_40_2_s2"),
        ("wrn_40_2", 32, "resnet32x4"),
        ("densenet121", 224, "resnet34"),
    ],
)
def test_a_given_weak_teacher_is_replaced_by_the_best_that_is_known_from_scratch(tmp_path, student, side, name):
    measured = replace(HEALTHY, img_size=side, gap=-0.05)
    config = build({"data": "x", "teacher": str(tmp_path), "student": student})
    remedy = remedy_for(diagnose(measured)[0], measured, config)
    assert remedy.changes["teacher.model"] == name
    assert not remedy.keeps_teacher


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ({"name": "fdbd"}, {"method.name": "dist"}),
        ({"name": "fdbd", "phase1_epochs": 3}, {"method.phase1_epochs": None}),
        ("dist+fdbd", {"method.name": "dist"}),
        ({"name": "kd+fdbd", "fdbd": {"phase1_epochs": 3}}, {"method.fdbd.phase1_epochs": None}),
    ],
)
def test_a_useless_denoiser_is_trained_as_long_as_usual_or_left_away(method, changes):
    failed = replace(HEALTHY, acceptance={"passed": False})
    config = build({"data": "x", "method": method})
    remedy = remedy_for(diagnose(failed)[0], failed, config)
    assert changes.items() <= remedy.changes.items()
    short = replace(failed, rising=0.03)
    steps = remedy_for(next(f for f in diagnose(short) if f.name == "steps"), short, config)
    assert [k for k in steps.changes if "phase1" in k] == [k for k in changes if "phase1" in k]


def test_a_weak_teacher_from_published_weights_stays_in_its_family():
    measured = replace(HEALTHY, img_size=64, gap=-0.05)
    config = build({"data": "x", "teacher": {"model": "resnet18", "pretrained": True}})
    assert remedy_for(diagnose(measured)[0], measured, config).changes == {"teacher.model": "resnet34"}


def test_a_plain_run_measures_itself_and_its_log_holds_the_cause(finished_run):
    found = finished_run.results["diagnosis"]
    assert {"measured", "not_looked_at"} <= found.keys()
    assert found["measured"]["img_size"] == 16
    assert rebuilt(found["measured"]).as_dict() == found["measured"]
    assert found["measured"]["pulls"].keys() == {"ce", "inter", "intra", "total"}
    rows = [json.loads(line) for line in (finished_run.folder / "metrics.jsonl").read_text().splitlines()]
    assert sum(row.get("gradients", {}).get("steps", 0) for row in rows if row["member"] == "dist-s0") == 2
    assert log_line({"measured": {}}) is None
