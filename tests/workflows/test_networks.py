"""Networks of a run: weights from elsewhere as a teacher, published ones as a start, sizes, settings without effect."""

from __future__ import annotations

import json

import pytest
import torch

import sapling
from sapling.config import build
from sapling.data import load_data, packed
from sapling.errors import ConfigError, GateError, ModelError, UsageError
from sapling.models import create_model, load_model, origin_of
from sapling.workflows.networks import check_settings_are_used, load_given
from sapling.workflows.passes import check_names
from tests.conftest import SMALL_RUN
from tests.models.elsewhere import ResNet

TRAIN = {**SMALL_RUN["train"], "num_seeds": 1, "epochs": 1}


def config(**blocks):
    return build({"data": "digits", "teacher": "cnn4", "student": "cnn3", **blocks})


@pytest.fixture(scope="module")
def foreign(photos, tmp_path_factory):
    """A network of elsewhere that learned ``photos`` elsewhere, packed as scripts do: weights and nothing else."""

    data = load_data(photos, img_size=16)
    torch.manual_seed(0)
    network = ResNet((1, 1, 1), (32, 64, 128, 256), num_classes=3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    for epoch in range(3):
        for batch in data.train_batches(epoch, batch_size=16, seed=0):
            loss = torch.nn.functional.cross_entropy(network((batch.images - mean) / std), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    path = tmp_path_factory.mktemp("foreign") / "model_best.pth.tar"
    weights = {"module." + name: tensor for name, tensor in network.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": weights, "best_acc": 99.0}, path)
    return path


def test_weights_from_elsewhere_teach(photos, foreign, tmp_path):
    result = sapling.distill(
        data={"source": str(photos), "img_size": 16},
        teacher=f"resnet8x4={foreign}",
        student="cnn3",
        train=TRAIN,
        deploy={"onnx": False, "latency_seconds": 0},
        output=str(tmp_path / "run"),
    )
    card = json.loads((result.folder / "teacher" / "card.json").read_text())
    assert card["architecture"] == "sapling_resnet8x4"
    assert card["gate"]["passed"]
    assert card["val"]["top1"] > 0.9
    assert card["licence"] == "not stated"
    assert "its classes have no names" in (result.folder / "log.txt").read_text()
    kept = load_model(result.folder / "teacher")
    assert kept.names_are_known
    assert kept.classes == tuple(result.results["classes"])
    assert kept.preprocess.img_size == 16
    readme = (result.folder / "student" / "README.md").read_text()
    assert "* licence of the teacher's weights: not stated" in readme


def test_another_number_of_classes_never_gets_a_random_head(photos, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(ResNet((1, 1, 1), (32, 64, 128, 256), num_classes=5).state_dict(), path)
    with pytest.raises(GateError, match="class count: the teacher answers with 5 classes, the data has 3"):
        sapling.distill(
            data={"source": str(photos), "img_size": 16}, teacher=str(path), train=TRAIN, output=str(tmp_path / "r")
        )


def test_preprocessing_of_weights_alone_can_be_set(photos, foreign):

    data = load_data(photos, img_size=16)
    settings = config(teacher={"model": str(foreign), "img_size": 24, "mean": [0.5] * 3, "std": [0.25] * 3}).teacher
    loaded = load_given(settings, data)
    assert (loaded.preprocess.img_size, loaded.preprocess.mean, loaded.preprocess.std) == (24, (0.5,) * 3, (0.25,) * 3)
    assert loaded.classes == data.classes
    assert len(loaded.notes) == 3  # whose weights they are, what looks the same, and that classes have no names


@pytest.mark.parametrize("task", ["train", "distill"])
def test_a_size_is_refused_before_images_are_decoded(photos, tmp_path, monkeypatch, task):
    monkeypatch.setattr(packed, "prepare_image", lambda *_: pytest.fail("an image was decoded"))
    data, output = {"source": str(photos), "img_size": 30}, str(tmp_path / "run")
    with pytest.raises(ModelError, match="patches of 16 pixels") as caught:
        if task == "train":
            sapling.train(data=data, student="vit_tiny_patch16_224", train=TRAIN, output=output)
        else:
            sapling.distill(data=data, teacher="vit_tiny_patch16_224", student="cnn3", train=TRAIN, output=output)
    assert "--img-size 16 or --img-size 32" in str(caught.value)


# ---- settings that would change nothing ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("teacher", "key"),
    [
        ({"model": "FILE", "layer_decay": 0.5}, "layer_decay"),
        ({"model": "FILE", "pretrained": True, "freeze_backbone": True}, "pretrained"),
        ({"model": "cnn4", "mean": [0.5, 0.5, 0.5]}, "mean"),
        ({"model": "cnn4", "img_size": 32}, "img_size"),
        ({"model": "FOLDER", "std": [0.5, 0.5, 0.5]}, "std"),
    ],
)
def test_settings_that_would_change_nothing_are_refused(foreign, finished_run, teacher, key):
    model = {"FILE": f"resnet8x4={foreign}", "FOLDER": str(finished_run.folder / "teacher")}.get(teacher["model"])
    with pytest.raises(UsageError, match=rf"teacher.{key} would not be used"):
        check_settings_are_used(config(teacher={**teacher, "model": model or teacher["model"]}))


def test_frozen_features_cannot_be_taught(monkeypatch):
    from sapling import methods
    from sapling.types import Taps

    start = {"model": "resnet18", "pretrained": True, "freeze_backbone": True}
    check_settings_are_used(config(student=start))
    monkeypatch.setattr(methods, "taps", lambda *_, **__: Taps(student=("stage4",)))
    with pytest.raises(UsageError, match="teaches the student's features"):
        check_settings_are_used(config(student=start))


@pytest.mark.parametrize("block", ["student", "teacher"])
def test_random_features_are_not_frozen(block):
    with pytest.raises(ConfigError, match="freeze_backbone without pretrained"):
        config(**{block: {"model": "resnet18", "freeze_backbone": True}})


@pytest.mark.parametrize("student", ["resnet20=x.pth", "weights.safetensors", "runs/x"])
def test_a_student_is_never_a_trained_network(student):
    with pytest.raises(UsageError, match="a student is trained from its seed"):
        check_names(config(student=student), "distill")


@pytest.mark.parametrize(
    ("teacher", "words"), [("resnet20=no.pth", "there is no file"), ("resnett20=x.pth", "did you mean 'resnet20'")]
)
def test_a_teacher_s_name_and_file_are_checked_first(teacher, words):
    with pytest.raises(ModelError, match=words):
        check_names(config(teacher=teacher), "distill")


# ---- published weights as a start ----------------------------------------------------------------------------------


@pytest.fixture
def published(monkeypatch):
    """Stands in for timm's published weights: the same network from a fixed seed, with a licence and a fresh head."""
    from dataclasses import replace

    from sapling.models.build import set_origin
    from sapling.workflows import passes

    def make(name, *, pretrained=False, seed=None, **arguments):
        model = create_model(name, seed=77 if pretrained else seed, **arguments)
        if pretrained:
            kept = replace(origin_of(model), weights="pretrained", licence="cc-by-nc-4.0", started_from=f"{name}.tag")
            set_origin(model, kept)
        return model

    monkeypatch.setattr(passes, "create_model", make)
    return make("cnn4", pretrained=True, num_classes=3, img_size=16)


def test_a_frozen_teacher_keeps_its_body_and_its_licence_is_on_the_card(photos, published, tmp_path):
    result = sapling.distill(
        data={"source": str(photos), "img_size": 16},
        teacher={
            "model": "cnn4",
            "pretrained": True,
            "freeze_backbone": True,
            "layer_decay": 0.9,
            "accept_weak": True,
        },
        student="cnn3",
        train=TRAIN,
        deploy={"onnx": False, "latency_seconds": 0},
        output=str(tmp_path / "run"),
    )
    teacher = load_model(result.folder / "teacher")
    for name, value in published.state_dict().items():
        assert torch.equal(value, teacher.model.state_dict()[name]) != name.startswith("fc."), name
    readme = (result.folder / "student" / "README.md").read_text()
    assert "* licence of the teacher's weights: cc-by-nc-4.0" in readme
    assert "* the teacher started from: sapling\\_cnn4.tag" in readme
    assert "this network started from" not in readme


def test_the_licence_of_published_weights_is_on_the_student_s_card(photos, published, tmp_path):
    result = sapling.train(
        data={"source": str(photos), "img_size": 16},
        student={"model": "cnn4", "pretrained": True, "freeze_backbone": True},
        train={**TRAIN, "layer_decay": 0.7},
        deploy={"onnx": False, "latency_seconds": 0},
        output=str(tmp_path / "run"),
    )
    readme = (result.folder / "student" / "README.md").read_text()
    assert "* this network started from: sapling\\_cnn4.tag" in readme
    assert "* licence of the weights it started from: cc-by-nc-4.0" in readme
    student = load_model(result.folder / "student").model.state_dict()
    assert torch.equal(student["blocks.0.conv.weight"], published.state_dict()["blocks.0.conv.weight"])


def test_the_student_of_a_run_as_a_teacher_is_said(finished_run, photos):
    data = load_data(photos, img_size=16)

    def notes(model):
        return load_given(build({"data": "x", "teacher": str(model)}).teacher, data).notes

    assert notes(finished_run.folder) == (
        f"this is the student of that run; its teacher is {finished_run.folder / 'teacher'}",
    )
    assert notes(finished_run.folder / "teacher") == notes(finished_run.folder / "student") == ()
