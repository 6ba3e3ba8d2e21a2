"""Settings against imbalance reach every member of a run alike."""

import pytest

import sapling
from sapling.config import build
from sapling.errors import ConfigError
from sapling.workflows import passes
from tests.conftest import SMALL_RUN, write_images
from tests.digests import digest

TRAIN = {**SMALL_RUN["train"], "num_seeds": 1, "epochs": 1}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    photos = write_images(tmp_path_factory.mktemp("few") / "photos", per_class=24)
    for file in sorted((photos / "枫树").iterdir())[8:]:
        file.unlink()
    return photos


@pytest.fixture
def members(monkeypatch):
    """Members that are trained, with the data they are trained on."""
    seen, fit = {}, passes.fit

    def watched(group, data, *rest, **options):
        seen.update({member.name: (member, data) for member in group})
        return fit(group, data, *rest, **options)

    monkeypatch.setattr(passes, "fit", watched)
    return seen


def weights(run, member):
    return digest(run.folder / "members" / member / "model.safetensors")


def distil(photos, folder, imbalance, **more):
    return sapling.distill(
        data={"source": str(photos), "img_size": 16},
        student="cnn3",
        teacher={"model": "cnn3", "epochs": 1, "accept_weak": True},
        method={"name": "kd", "alpha": 1},
        train={**TRAIN, "imbalance": imbalance, **more},
        deploy={"onnx": False, "latency_seconds": 0},
        output=folder,
    )


@pytest.mark.parametrize("imbalance", ["class_weights", "sampler"])
def test_teacher_control_and_student_are_treated_alike(few, tmp_path, members, imbalance):
    run = distil(few, tmp_path / "r", imbalance, imbalance_power=0.5)
    assert set(members) == {"teacher", "control-s0", "kd-s0"}
    for member, data in members.values():
        found = member.method.label_loss
        if imbalance == "sampler":
            assert (found, data.sample_power) == (None, 0.5)
        else:
            counts = [14, 14, 4]
            assert found.by_class.tolist() == pytest.approx(members["teacher"][0].method.label_loss.by_class.tolist())
            assert float(found.by_class[2] / found.by_class[0]) == pytest.approx(
                (counts[0] / counts[2]) ** 0.5, rel=0.2
            )
            assert data.sample_power is None
    # alpha = 1 is the control to the bit, whatever the label term is
    assert weights(run, "control-s0") == weights(run, "kd-s0")
    manifest = run.results["manifest"]
    assert (manifest["imbalance"], manifest["imbalance_power"]) == (imbalance, 0.5)
    assert "Treatment of rare classes" in (run.folder / "report.html").read_text()


def test_parts_of_a_combination_weigh_classes_too(few, tmp_path, members):
    """Exits learn the labels by themselves, so they must learn them as the control does."""
    sapling.distill(
        data={"source": str(few), "img_size": 16},
        student="cnn3",
        teacher={"model": "cnn3", "epochs": 1, "accept_weak": True},
        method=["kd", "byot"],
        train={**TRAIN, "imbalance": "class_weights"},
        deploy={"onnx": False, "latency_seconds": 0},
        output=tmp_path / "r",
    )
    method = members["kd+byot-s0"][0].method
    assert method.label_loss is not None
    assert [part.label_loss for part in method.separate()] == [method.label_loss] * 2


def test_plain_training_has_it_too(few, tmp_path, members):
    run = sapling.train(
        data={"source": str(few), "img_size": 16},
        student="cnn3",
        train={**TRAIN, "imbalance": "logit_adjustment"},
        deploy={"onnx": False, "latency_seconds": 0},
        output=tmp_path / "r",
    )
    assert type(members["model"][0].method.label_loss).__name__ == "AdjustedLogits"
    assert run.results["manifest"]["imbalance"] == "logit_adjustment"


@pytest.mark.parametrize(
    ("train", "says"),
    [
        ({"imbalance": "weights"}, "none, sampler, class_weights, logit_adjustment"),
        ({"imbalance_power": 0.5}, "can change nothing"),
        ({"imbalance": "logit_adjustment", "imbalance_power": 0}, "imbalance_power"),
        ({"imbalance": "logit_adjustment", "imbalance_power": 5}, "imbalance_power"),
        ({"imbalance": "sampler", "imbalance_power": 1.5}, "frequent ones"),
    ],
)
def test_wrong_settings(train, says):
    with pytest.raises(ConfigError, match=says):
        build({"data": "digits", "train": train})


def test_runs_without_it_keep_their_fingerprint():
    plain = build({"data": "digits"})
    assert build({"data": "digits", "train": {"imbalance": "none"}}).fingerprint() == plain.fingerprint()
    assert build({"data": "digits", "train": {"imbalance": "sampler"}}).fingerprint() != plain.fingerprint()
