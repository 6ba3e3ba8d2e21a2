"""``train.half_size_share``: which trainings it is for, what is refused, and what the plan makes of it."""

import pytest

import sapling
from sapling.config import build
from sapling.engine import plan as engine_plan
from sapling.errors import ModelError
from sapling.workflows import diagnosis, passes, plan
from tests.conftest import SMALL_RUN

HALF = {"half_size_share": 0.5}


@pytest.fixture(autouse=True)
def few_steps_are_enough(monkeypatch):
    monkeypatch.setattr(engine_plan, "MIN_WHOLE_STEPS", 1)


def blocks(photos, output, epochs=2, **changes):
    small = {**SMALL_RUN, "train": {**SMALL_RUN["train"], "epochs": epochs, "num_seeds": 2, **HALF}}
    data = {"source": str(photos), "img_size": 32}
    return {**small, "data": data, "teacher": {"model": "cnn4", "epochs": 2}, "output": str(output), **changes}


@pytest.fixture
def trained(monkeypatch):
    """Name of each pass to how many epochs of it are on small images."""
    found, fit = {}, passes.fit

    def watched(members, data, settings, **more):
        found[settings.name] = settings.half_size_epochs
        return fit(members, data, settings, **more)

    monkeypatch.setattr(passes, "fit", watched)
    return found


def test_students_begin_small_and_the_teacher_does_not(photos, tmp_path, trained):
    sapling.distill(**blocks(photos, tmp_path / "r", method="dist"))
    assert trained == {"teacher": 0, "seed0": 1, "seed1": 1}
    assert "seed0: epochs on images of 16 px: the first 1 of 2" in (tmp_path / "r" / "log.txt").read_text()


def test_a_network_alone_begins_small(photos, tmp_path, trained):
    sapling.train(**{k: v for k, v in blocks(photos, tmp_path / "r").items() if k != "teacher"})
    assert list(trained.values()) == [1]


def test_a_method_on_maps_trains_no_teacher(photos, tmp_path, trained):
    with pytest.raises(ModelError, match=r"the student, cnn3[\s\S]*such as dist"):
        sapling.distill(**blocks(photos, tmp_path / "r", method="fitnet"))
    assert not trained


def test_a_network_of_one_size_is_refused_before_it_is_trained(photos, tmp_path, trained):
    settings = blocks(photos, tmp_path / "r", student="test_vit_relpos")
    settings = {k: v for k, v in settings.items() if k != "teacher"}
    with pytest.raises(ModelError, match=r"that reads images of any size"):
        sapling.train(**settings)
    assert not trained
    with pytest.raises(ModelError, match=r"that reads images of any size"):
        plan.plan(build(settings), task="train")


def test_the_plan_counts_small_images_as_what_they_cost(photos, tmp_path, monkeypatch):
    """Steps are taken to cost as many seconds as an image has pixels."""
    monkeypatch.setattr(plan, "_time_step", lambda model, shape, batch, machine, *, train: shape[-1] ** 2 * train)

    def seconds(share):
        settings = blocks(photos, tmp_path / "r", epochs=4)
        settings["train"]["half_size_share"] = share
        return (
            plan.plan(build({k: v for k, v in settings.items() if k != "teacher"}), task="train")["estimated_seconds"]
            - plan.FIXED_SECONDS
        )

    whole = seconds(0.0)
    assert seconds(0.5) == pytest.approx(whole * (0.5 + 0.5 / 4), rel=1e-3)
    assert seconds(0.9) == pytest.approx(whole * (0.25 + 0.75 / 4), rel=1e-3), "the last epoch is whole"


def test_where_no_epoch_is_left_for_small_images_the_log_says_so_and_nothing_is_refused(
    photos, tmp_path, monkeypatch, trained
):
    monkeypatch.setattr(engine_plan, "MIN_WHOLE_STEPS", 50)
    settings = blocks(photos, tmp_path / "r", student="test_vit_relpos")
    settings = {
        **{k: v for k, v in settings.items() if k != "teacher"},
        "deploy": {"onnx": False, "latency_seconds": 0},
    }
    found = plan.plan(build(settings), task="train")
    assert found["student"]["small_images"] == {"epochs": 0, "img_size": 16}
    sapling.train(**settings)
    assert list(trained.values()) == [0]
    assert "the first 0 of 2" in (tmp_path / "r" / "log.txt").read_text()


@pytest.mark.parametrize(("small", "rising"), [(0, 0.3), (8, 0.3), (9, None)])
def test_getting_used_to_whole_images_is_no_sign_of_a_short_training(small, rising):
    rows = [{"member": "m", "epoch": e, "val": {"top1": 0.5 + 0.3 * (e == 9)}} for e in range(10)]
    found = diagnosis._rising(rows, ["m"], 10, small)
    assert found == (rising and pytest.approx(rising))
