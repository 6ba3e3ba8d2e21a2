"""Where parts meet that were built apart: ensembles, phases, diagnosis, methods whose settings change their needs."""

from types import SimpleNamespace

import numpy as np
import pytest

from sapling import methods
from sapling.config import build
from sapling.errors import UsageError
from sapling.workflows.diagnosis import softening
from sapling.workflows.gallery import _shown
from sapling.workflows.networks import is_given
from sapling.workflows.passes import check_names
from sapling.workflows.remedies import Remedy, _usual_temperature, next_command
from sapling.workflows.teacher import CheckedTeacher


def settings(**blocks):
    return build({"data": "digits", "teacher": "cnn4", "output": "runs/x", **blocks})


def test_the_next_run_of_an_ensemble_takes_it_as_it_is(tmp_path):
    config = settings(
        teacher={"model": "cnn4", "num_teachers": 2, "cross_fit": True, "symmetrise": True, "recipe": "mixed"}
    )
    command = next_command(Remedy("more seeds", {"train.num_seeds": 6}), config, tmp_path, "seeds")
    assert str(tmp_path / "teacher") in command
    assert "num_teachers" not in command
    assert "--teachers" not in command
    assert "cross_fit" not in command
    assert "recipe" not in command
    assert "teacher.symmetrise=true" in command


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({"name": "kd"}, 4.0),
        ({"name": "dist", "temperature": 2}, 2.0),
        ({"name": "crd"}, None),
        ({"name": "fdbd"}, None),
        ({"name": "nuclear"}, 4.0),
        ({"name": "nuclear", "base": "none"}, None),
    ],
)
def test_only_a_temperature_of_logits_is_one_of_soft_targets(method, expected):
    assert softening(settings(method=method))[0] == expected


@pytest.mark.parametrize("now", [1.0, 1.5, 2.0, 4.0, 7.0, 100.0])
def test_another_temperature_is_another_one(now):
    remedy = _usual_temperature(SimpleNamespace(temperature=now), settings())
    assert remedy.changes["method.temperature"] != now
    assert remedy.changes["method.temperature"] >= 1


def test_settings_that_need_class_numbers_refuse_mixed_images_before_a_teacher_is_trained():
    mixed = {"source": "digits", "mixup": 0.2}
    check_names(settings(data=mixed, method={"name": "nuclear", "mode": "min"}), "distill")
    with pytest.raises(UsageError, match="needs one class number per image"):
        check_names(settings(data=mixed, method={"name": "nuclear", "mode": "ole"}), "distill")


def test_what_a_method_needs_follows_its_settings():
    assert methods.requires("fdbd").multi_label
    assert not methods.requires("diffkd").multi_label
    assert methods.requires("diffkd", branches=["feat"]).multi_label
    assert not methods.requires("nuclear", mode="ole").multi_label


def test_other_folds_make_another_teacher():
    def identity(folds):
        return CheckedTeacher((), {"sha256": "0"}, folds=folds).identity

    folds = np.array([0, 1, 0, -1])
    assert identity(folds) != identity(None)
    assert identity(folds) != identity(folds[::-1].copy())
    assert identity(folds) == identity(folds.copy())


def test_a_name_of_other_bytes_can_be_written():
    assert _shown("b\udcffd.png").encode() == "b�d.png".encode()
    assert _shown("枫.png") == "枫.png"


def test_nothing_is_no_teacher():
    assert not is_given(",")
