"""The fair-comparison contract, held against the whole workflow: each promise has a planted fault in faults/."""

import json

import numpy as np
import pytest
import torch

import sapling
from sapling.data.loader import Dataset
from sapling.workflows import distill as workflow
from tests.conftest import SMALL_RUN, write_images
from tests.digests import digest

pytestmark = pytest.mark.usefixtures("no_page")

TRAIN = {**SMALL_RUN["train"], "num_seeds": 1}


def weights(folder, member):
    return digest(folder / "members" / member / "model.safetensors")


def test_alpha_one_is_the_control_to_the_bit(photos, finished_run, tmp_path):
    run = sapling.distill(
        data={"source": str(photos), "img_size": 16},
        student="cnn3",
        teacher=str(finished_run.folder / "teacher"),
        method={"name": "kd", "alpha": 1},
        train={**TRAIN, "epochs": 1},
        deploy={"onnx": False, "latency_seconds": 0},
        output=tmp_path / "r",
    )
    assert weights(run.folder, "control-s0") == weights(run.folder, "kd-s0")
    assert run.results["comparison"]["verdict"]["difference"] == 0


def test_the_teacher_has_its_own_random_stream(photos, tmp_path):
    """A teacher of the student's architecture must not be seed 0's control, nor meet its views and batches."""
    run = sapling.distill(
        data={"source": str(photos), "img_size": 16},
        student="cnn3",
        teacher={"model": "cnn3", "accept_weak": True},
        train={**TRAIN, "epochs": 1},
        deploy={"onnx": False, "latency_seconds": 0},
        output=tmp_path / "r",
    )
    assert weights(run.folder, "teacher") != weights(run.folder, "control-s0")


def test_a_teacher_may_have_views_of_its_own_and_the_control_does_not_notice(photos, tmp_path):
    def run(name, **teacher):
        return sapling.distill(
            data={"source": str(photos), "img_size": 16},
            student="cnn3",
            teacher={"model": "cnn3", "accept_weak": True, **teacher},
            train={**TRAIN, "epochs": 1},
            deploy={"onnx": False, "latency_seconds": 0},
            output=tmp_path / name,
        ).folder

    same, own = run("same"), run("own", views="none", mixup=0.4)
    assert weights(same, "control-s0") == weights(own, "control-s0")
    assert weights(same, "teacher") != weights(own, "teacher")


def test_a_recipe_is_what_it_says_and_gives_way_to_what_is_set(photos, tmp_path):
    def teacher(name, **settings):
        return weights(
            sapling.distill(
                data={"source": str(photos), "img_size": 16},
                student="cnn3",
                teacher={"model": "cnn3", "accept_weak": True, **settings},
                train={**TRAIN, "epochs": 1, "num_seeds": 1},
                deploy={"onnx": False, "latency_seconds": 0},
                output=tmp_path / name,
            ).folder,
            "teacher",
        )

    by_hand = teacher("by hand", mixup=0.8, cutmix=0.0, ema_decay=0.999, epochs=2)
    assert teacher("recipe", recipe="mixed", cutmix=0.0) == by_hand


@pytest.fixture(scope="module")
def spied(tmp_path_factory):
    """A run on splits of different sizes, with groups and a five-fold imbalance, and what it read of the data."""
    photos = write_images(tmp_path_factory.mktemp("spy") / "photos", per_class=36)
    for name in ("枫树", "Linde & Söhne"):
        for file in sorted((photos / name).iterdir())[30:] if name == "枫树" else sorted((photos / name).iterdir())[6:]:
            file.unlink()
    for file in photos.glob("*/*.png"):  # pairs of images show one tree
        number = int(file.stem)
        file.rename(file.with_name(f"{file.parent.name[:3]}{number // 2}_view{number % 2}.png"))
    read, evaluate, train = [], Dataset.eval_batches, Dataset.train_batches

    def eval_batches(self, split, **options):
        read.append(split)
        return evaluate(self, split, **options)

    def train_batches(self, epoch, **options):
        read.append(("train", epoch, options["seed"], self.views, options["batch_size"]))
        return train(self, epoch, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dataset, "eval_batches", eval_batches)
        patch.setattr(Dataset, "train_batches", train_batches)
        run = sapling.distill(
            data={
                "source": str(photos),
                "img_size": 16,
                "views": "aerial",
                "group_pattern": "(.+)_view",
                "val_share": 0.3,
                "test_share": 0.2,
            },
            student="cnn3",
            teacher={"model": "cnn4", "epochs": 2, "accept_weak": True},
            train={**TRAIN, "epochs": 2, "batch_size": 8, "momentum": 0.5},
            deploy={"parity_images": 4, "latency_seconds": 0},
            output=tmp_path_factory.mktemp("spied") / "r",
        )
    return run, read, photos


def test_the_test_split_is_opened_once_all_training_and_choosing_is_done(spied):
    _, read, _ = spied
    first = read.index("test")
    assert not [r for r in read[first:] if isinstance(r, tuple)], "something was trained after test was opened"
    # teacher's epochs, gate, two members' epochs, the diagnosis of these three
    assert read[:first].count("val") == 2 + 1 + 2 * 2 + 3
    assert read[first:].count("test") == 3 + 3  # teacher, control, student: answers, and embeddings of some images
    assert read[first:].count("val") == 1  # images for the parity of ONNX


def test_val_figures_are_of_the_val_split(spied):
    run, _, _ = spied
    card = json.loads((run.folder / "data.json").read_text())
    sizes = {k: sum(v) for k, v in card["counts"].items()}
    assert sizes["val"] != sizes["test"]
    for member in run.results["members"]:
        assert (member["val"]["num_images"], member["test"]["num_images"]) == (sizes["val"], sizes["test"])
    assert run.results["teacher"]["val"]["num_images"] == sizes["val"]


def test_settings_reach_the_training(spied):
    run, read, _ = spied
    assert {r[3] for r in read if isinstance(r, tuple)} == {"aerial"}
    assert {r[4] for r in read if isinstance(r, tuple)} == {8}
    assert run.results["manifest"]["views"] == "aerial"
    student_epochs = [r for r in read if isinstance(r, tuple) and r[2] == 0]
    assert [r[1] for r in student_epochs] == [0, 1], "control and student share one pass over the images"


def test_momentum_and_all_other_settings_of_the_optimiser_are_used(photos):
    config = sapling.RunConfig.model_validate(
        {
            "data": {"source": str(photos), "img_size": 16},
            "train": {
                "momentum": 0.5,
                "weight_decay": 0.25,
                "lr": 0.125,
                "schedule": "step",
                "step_epochs": 2,
                "step_factor": 0.5,
                "warmup_epochs": 2,
                "clip_norm": 3.0,
                "batch_size": 16,
            },
        }
    )
    from sapling.workflows.passes import optim_settings

    data = sapling.load_data(photos, img_size=16)
    made = optim_settings(config, data, epochs=5, pretrained=False)
    steps = data.num_batches(16)
    assert (made.momentum, made.weight_decay, made.lr, made.clip_norm) == (0.5, 0.25, 0.125, 3.0)
    assert (made.schedule, made.drop_steps, made.drop_factor) == ("step", 2 * steps, 0.5)
    assert (made.warmup_steps, made.total_steps) == (2 * steps, 5 * steps)


def test_groups_and_imbalance_reach_the_verdict(spied):
    run, _, _ = spied
    verdict = run.results["comparison"]["verdict"]
    assert run.results["comparison"]["measure"] == "macro_recall"
    assert verdict["num_groups"] < verdict["num_images"]


def test_the_teacher_sees_what_the_students_see(finished_run, photos):
    """Through the live teacher of a pass: the same pixels, normalised by its own card."""
    from sapling.workflows.passes import Machine
    from sapling.workflows.teacher import CheckedTeacher

    loaded = sapling.load_model(finished_run.folder / "teacher")
    live = CheckedTeacher((loaded,), {}).live(Machine("cpu", "fp32", 1), ())
    batch = next(sapling.load_data(photos, img_size=16).train_batches(0, batch_size=8, seed=0))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (loaded.preprocess.mean, loaded.preprocess.std))
    with torch.no_grad():
        expected = sapling.load_model(finished_run.folder / "teacher").model((batch.images - mean) / std)
    assert np.allclose(live.outputs(batch).logits, expected, atol=1e-5)


def test_the_shipped_student_is_chosen_by_the_declared_measure():
    made = [
        {"name": "control-s0", "arm": "control", "val": {"top1": 0.9, "macro_recall": 0.5}},
        {"name": "kd-s0", "arm": "kd", "val": {"top1": 0.8, "macro_recall": 0.6}},
    ]
    assert workflow.choose_to_ship(made, "kd", "macro_recall")["member"] == "kd-s0"
    assert workflow.choose_to_ship(made, "kd", "top1")["member"] == "control-s0"
