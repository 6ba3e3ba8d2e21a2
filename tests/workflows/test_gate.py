"""The gate inside a run: teachers that were given wrongly are stopped by name, replaced ones are noticed."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import sapling
from sapling.config import build
from sapling.data.viewspec import preset
from sapling.errors import GateError, RunError
from sapling.evaluation.soft_targets import memorised, soft_targets
from sapling.models import load_model, save_model
from sapling.workflows import gate
from sapling.workflows.gate import files_of, some, warnings_about
from sapling.workflows.passes import Machine
from tests.conftest import SMALL_RUN, write_images

TRAIN = {**SMALL_RUN["train"], "num_seeds": 1, "epochs": 1}


@pytest.fixture(scope="module")
def many_photos(tmp_path_factory):
    """Enough validation images for a paired test; class names in the order of ``photos``."""
    return write_images(tmp_path_factory.mktemp("many") / "photos", per_class=60, seed=4)


@pytest.fixture
def given(finished_run, tmp_path):
    """A copy of a good teacher, as a user would give it."""
    folder = shutil.copytree(finished_run.folder / "teacher", tmp_path / "given")
    (folder / "card.json").unlink()
    return folder


def blocks(photos, teacher, output, **more):
    return {
        "data": {"source": str(photos), "img_size": 16, "val_share": 0.4},
        "student": "cnn3",
        "teacher": {"model": str(teacher), **more},
        "train": TRAIN,
        "deploy": {"onnx": False, "latency_seconds": 0},
        "output": str(output),
    }


def declare(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["pretrained_cfg"].update(changes)
    path.write_text(json.dumps(config))


def test_a_good_teacher_passes_and_its_answers_are_recorded(many_photos, given, tmp_path):
    run = sapling.distill(**blocks(many_photos, given, tmp_path / "r"))
    card = json.loads((run.folder / "teacher" / "card.json").read_text())
    names = [check["name"] for check in card["gate"]["checks"]]
    assert card["gate"]["passed"]
    assert names == ["finite answers", "above chance", "class order", "preprocessing"]
    assert {"top1", "ece", "entropy", "num_images"} == card["train"].keys()
    assert card["val"]["entropy"] > 0
    assert card["memorised"] is False
    log = (run.folder / "log.txt").read_text()
    assert f"weights sha256 {card['sha256'][:12]}" in log
    assert f"on {card['train']['num_images']} training images" in log
    assert card["files"]["model.safetensors"] == card["sha256"]
    page = (run.folder / "report.html").read_text()
    assert "Entropy of its answers" in page
    assert "Accuracy, training images" in page


def test_wrong_mean_and_std_are_stopped_by_name(many_photos, given, tmp_path):
    declare(given, mean=[0.5] * 3, std=[0.5] * 3)
    # pictures this simple are read right in several ways; that the declared one is wrong is what must be said
    with pytest.raises(GateError, match=r"wrong preprocessing \(.*% as declared, .*% with "):
        sapling.distill(**blocks(many_photos, given, tmp_path / "r"))
    assert not (tmp_path / "r" / "members").exists()
    results = sapling.distill(**blocks(many_photos, given, tmp_path / "r", accept_weak=True)).results
    assert "did not pass the gate (" in results["warnings"][0]
    assert "preprocessing" in results["warnings"][0]


def test_another_class_count_and_order_are_stopped_by_name(many_photos, given, tmp_path):
    loaded = load_model(given)
    four = sapling.create_model("cnn4", num_classes=4, img_size=16, seed=0)
    how = {"architecture": "sapling_cnn4", "preprocess": loaded.preprocess}
    save_model(tmp_path / "four", four, classes=[*loaded.classes, "more"], **how)
    with pytest.raises(GateError, match="class count: the teacher answers with 4 classes, the data has 3"):
        sapling.distill(**blocks(many_photos, tmp_path / "four", tmp_path / "r"))
    save_model(tmp_path / "turned", loaded.model, classes=loaded.classes[::-1], **how)
    with pytest.raises(GateError, match="class order: the teacher's class 0"):
        sapling.distill(**blocks(many_photos, tmp_path / "turned", tmp_path / "r"))
    with torch.no_grad():
        for tensor in (loaded.model.fc.weight, loaded.model.fc.bias):
            tensor.copy_(tensor.roll(1, 0))
    save_model(tmp_path / "nameless", loaded.model, classes=["0", "1", "2"], **how)
    with pytest.raises(GateError, match="the gate: permuted class order"):
        sapling.distill(**blocks(many_photos, tmp_path / "nameless", tmp_path / "r"))


def test_a_replaced_teacher_is_noticed_on_resume(many_photos, given, tmp_path, monkeypatch):
    call = blocks(many_photos, given, tmp_path / "r")

    def killed(*_args, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sapling.workflows.distill.train_members", killed)
        with pytest.raises(KeyboardInterrupt):
            sapling.distill(**call)
    weights = (given / "model.safetensors").read_bytes()
    loaded = load_model(given)
    with torch.no_grad():
        loaded.model.fc.bias.add_(0.01)
    save_model(
        given,
        loaded.model,
        architecture=loaded.architecture,
        classes=loaded.classes,
        preprocess=replace(loaded.preprocess),
    )
    with pytest.raises(RunError, match=r"replaced since this run took it: config.json, model.safetensors has another"):
        sapling.distill(**call)
    (given / "model.safetensors").write_bytes(weights)
    shutil.copy(tmp_path / "r" / "teacher" / "config.json", given / "config.json")
    own = tmp_path / "r" / "teacher" / "model.safetensors"
    kept = own.read_bytes()
    own.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(RunError, match="own copy of the teacher was replaced"):
        sapling.distill(**call)
    own.write_bytes(kept)
    finished = sapling.distill(**call)
    assert finished.results["teacher"]["files"].keys() == {"classes.txt", "config.json", "model.safetensors"}
    (given / "classes.txt").write_text("other\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"classes.txt has another sha256"):
        sapling.distill(**call)
    (given / "classes.txt").unlink()  # what is gone is no other teacher: the run has its copy
    assert sapling.distill(**call).results == finished.results


def test_files_of_a_teacher(given, tmp_path):
    assert files_of(str(given)).keys() == {"classes.txt", "config.json", "model.safetensors"}
    assert files_of(f"local-dir:{given}") == files_of(str(given)) == files_of(str(given / "model.safetensors"))
    (given / "README.md").write_text("a note is no weight")
    assert "README.md" not in files_of(str(given))
    shutil.copytree(given, tmp_path / "run" / "student")
    assert files_of(str(tmp_path / "run")) == files_of(str(given))
    assert files_of("hf-hub:owner/name") == files_of(str(tmp_path / "nothing")) == {}


def test_some_images_are_the_same_ones_every_time(many_photos):
    data = sapling.load_data(many_photos, img_size=16)
    few = some(data, "train", 20)
    assert len(few.split.train) == 20
    assert set(few.split.train) <= set(data.split.train)
    assert np.array_equal(few.split.train, some(data, "train", 20).split.train)
    assert np.array_equal(few.split.val, data.split.val)
    assert some(data, "train", 10**6) is data


@pytest.mark.parametrize(("usual", "fewest", "expected"), [(16, 2, 64), (8, 4, 16), (4, 6, 6), (32, 2, 64)])
def test_of_large_images_fewer_are_held_at_once(many_photos, given, monkeypatch, usual, fewest, expected):
    data = sapling.load_data(many_photos, img_size=16)
    monkeypatch.setattr(gate, "USUAL_SIDE", usual)
    monkeypatch.setattr(gate, "FEWEST_IMAGES", fewest)
    monkeypatch.setattr(gate, "NUM_IMAGES", 64)
    monkeypatch.setattr(gate, "check_preprocessing", lambda *given, **_: given)
    _, _, images, labels = gate._preprocessing(load_model(given), data, Machine("cpu", "fp32", 1))
    assert len(images) == len(labels) == min(expected, len(data.split.val))
    every = next(data.eval_batches("val", batch_size=len(data.split.val)))
    where = {image.numpy().tobytes(): int(label) for image, label in zip(every.images, every.labels, strict=True)}
    assert [where[image.numpy().tobytes()] for image in images] == labels.tolist()


def test_a_teacher_that_memorised_is_said_with_remedies():
    card = {
        "gate": {"overridden": False, "checks": []},
        "memorised": True,
        "train": {"top1": 0.998, "entropy": 0.01},
        "val": {"top1": 0.694, "entropy": 0.6},
    }
    (text,) = warnings_about(card)
    for word in ("99.8 %", "69.4 %", "one-hot", "--teachers 3 --set teacher.cross_fit=true", "--teacher-recipe mixed"):
        assert word in text
    assert "--set teacher.symmetrise=true" in text
    (other,) = warnings_about({**card, "origin": "given", "symmetries": 8})
    assert "--set teacher.symmetrise" not in other, "it was done"
    assert "--teachers" not in other, "a teacher that is given cannot be cross-fitted"
    assert "label smoothing" in other
    assert warnings_about({**card, "memorised": False}) == []

    def remedies(spec, **blocks):
        return warnings_about(card, build({"data": "digits", **blocks}), preset(spec))[0].partition("Remedies: ")[2]

    assert "symmetrise" in remedies("light")
    assert "symmetrise" not in remedies("shift"), "these views have no symmetry"
    assert "symmetrise" not in remedies("light", method="at"), "it would change nothing"
    assert "cross_fit" in remedies("light")
    assert "cross_fit" not in remedies("light", method="at"), "it is refused for features"
    assert "cross_fit" not in remedies("light", data={"source": "digits", "mixup": 0.2}), "and for mixed images"
    assert "mixed" not in remedies("light", teacher={"recipe": "mixed"}), "it was done"
    assert "teacher.views=aerial_strong" in remedies("aerial")
    assert "views" not in remedies("strong", teacher={"views": "strong"})
    everything = {"teacher": {"recipe": "mixed", "views": "strong"}, "data": {"source": "digits", "mixup": 0.2}}
    assert remedies("shift", **everything) == "more images, or a smaller teacher."
    assert warnings_about({"gate": card["gate"]}) == [], "cards of older runs"


def taught(images, labels, *, steps, seed=0, lr=3e-3, smooth=0.0):
    """A cnn3 after so many steps on all images."""
    model = sapling.create_model("cnn3", num_classes=4, img_size=12, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(model(images), labels, label_smoothing=smooth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_networks_that_really_memorised_are_told_from_one_that_learned():
    generator = torch.Generator().manual_seed(0)

    def draw(num):
        labels = torch.randint(4, (num,), generator=generator)
        images = torch.randn(num, 3, 12, 12, generator=generator)
        images[:, 0] += 0.8 * labels[:, None, None]
        return images, labels

    images, labels = draw(64)
    fresh, fresh_labels = draw(200)
    shuffled = labels[torch.randperm(64, generator=generator)]

    def is_flagged(model, known, truth):
        with torch.no_grad():
            return memorised(
                soft_targets(model(known).numpy(), truth.numpy()),
                soft_targets(model(fresh).numpy(), fresh_labels.numpy()),
            )

    assert is_flagged(taught(images, shuffled, steps=60), images, shuffled), "random labels"
    assert not is_flagged(taught(images, labels, steps=60), images, labels), "it learned what the classes are"
    assert not is_flagged(taught(images, shuffled, steps=2), images, shuffled), "hardly trained"
