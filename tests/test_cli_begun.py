"""What is said of a run that was begun, is finished, or is stopped by hand."""

import json
import shlex
import shutil

import pytest
import typer

from sapling.config import build, save
from sapling.run_folders import load_run_config, stamp_of


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Exit(130)])
def test_a_stop_by_hand_is_said(run, monkeypatch, error):
    def stops(*_, **__):
        raise error

    monkeypatch.setattr("sapling.listings.show_datasets", stops)
    code, _, err = run("datasets")
    assert (code, "the same command goes on" in err) == (130, True)


def test_a_part_of_a_name_of_networks_gets_a_pattern(run):
    code, _, err = run("models", "cnn")
    assert code == 2
    assert "sapling models 'cnn*'" in err


def test_dry_run_tells_what_is_there_already(run, finished_run, tmp_path):
    folder = shutil.copytree(finished_run.folder, tmp_path / "r")

    def told(*more):
        code, out, err = run("distill", *more, "--dry-run")
        return code, " ".join((out + err).split())

    code, shown = told("--resume", folder)
    assert code == 0
    assert "this run is finished: its result is printed again, and nothing is trained" in shown
    (folder / "results.json").unlink()
    shutil.rmtree(folder / "members" / "dist-s1")
    code, shown = told("--resume", folder)
    assert code == 0
    assert "this run was begun: 4 networks trained, what is missing follows" in shown
    assert "from the beginning" in shown
    settings = tmp_path / "settings.yaml"
    settings.write_text((folder / "config.yaml").read_text().partition("fingerprint:")[0])
    code, shown = told("--config", settings, "--epochs", 4, "-o", folder)
    assert code == 2
    assert "holds a run with other settings: train.epochs was 3, is 4" in shown


def test_a_teacher_that_another_run_has_is_named(run, finished_run, tmp_path, monkeypatch):
    folder = shutil.copytree(finished_run.folder, tmp_path / "a run")
    settings = tmp_path / "settings.yaml"
    settings.write_text((folder / "config.yaml").read_text().partition("fingerprint:")[0])
    sentence = f"'{folder}/teacher' was trained with these settings: --teacher '{folder}/teacher' learns from it"

    def told(*more):
        code, out, err = run("distill", "--config", settings, "-o", tmp_path / "b", *more)
        return code, "".join((out + err).split())

    def is_told(text):
        return "".join(sentence.split()) in text

    code, shown = told("--method", "kd", "--seeds", 1, "--dry-run")
    assert (code, is_told(shown)) == (0, True)
    # of these no teacher hears
    for alike in (("--epochs", 4), ("--set", "data.num_views=4"), ("--set", "train.half_size_share=0.5")):
        code, shown = told("--method", "kd", *alike, "--dry-run")
        assert (code, is_told(shown)) == (0, True), alike
    for others in (("--teacher-epochs", 4), ("--seed", 7), ("--img-size", 20), ("--teacher", "cnn3")):
        code, shown = told(*others, "--dry-run")
        assert (code, is_told(shown)) == (0, False), others

    def stops(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("sapling.workflows.teacher.train_teacher", stops)
    assert told("--method", "kd")[0] == 130
    assert sentence in (tmp_path / "b" / "log.txt").read_text()
    for damaged in ("[", "teacher: 3"):
        (folder / "config.yaml").write_text(damaged)
        code, shown = told("--method", "kd", "--dry-run")
        assert (code, is_told(shown)) == (0, False), damaged


def test_images_to_predict_that_are_not_there_are_a_wrong_call(run, finished_run, tmp_path):
    (tmp_path / "new").mkdir()
    code, _, err = run("predict", finished_run.folder, tmp_path / "nwe")
    assert code == 2
    assert "did you mean 'new'" in err
    assert "the model comes first" in err


def test_the_home_of_nobody_is_a_folder_that_is_not_there(run):
    code, _, err = run("inspect", "~nosuchuser/photos")
    assert code == 2
    assert "~nosuchuser/photos" in err


def test_a_run_that_is_continued_from_another_folder_is_told_where_it_began(
    run, finished_run, photos, tmp_path, monkeypatch
):
    folder = shutil.copytree(finished_run.folder, tmp_path / "r")
    blocks = load_run_config(folder)
    config = build({**blocks, "data": {**blocks["data"], "source": photos.name}})
    (folder / "config.yaml").write_text(save(config) + f"fingerprint: {stamp_of(config, 'distill')}\n")
    monkeypatch.chdir(tmp_path)
    code, _, err = run("distill", "--resume", folder)
    assert code == 2
    assert f"cd {shlex.quote(str(photos.parent))} first" in " ".join(err.split())
    (folder / "data.json").write_text("[]")
    code, _, err = run("distill", "--resume", folder)
    assert (code, "first: from there" in err) == (2, False)


def test_who_evaluates_a_run_is_told_that_it_ships_its_control(run, finished_run, photos, tmp_path):
    folder = shutil.copytree(finished_run.folder, tmp_path / "r")
    results = json.loads((folder / "results.json").read_text())
    for arm, is_said in (("control", True), ("dist", False)):
        results["shipped"]["arm"] = arm
        (folder / "results.json").write_text(json.dumps(results))
        for name, is_the_student in (("", True), ("student", True), ("members/dist-s0", False)):
            code, out, err = run("evaluate", folder / name, photos)
            assert code == 0
            assert ("ships its control" in " ".join((out + err).split())) is (is_said and is_the_student)
