"""What is said of a run that was begun, is finished, or is stopped by hand."""

import shutil

import pytest
import typer


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
    for others in (("--epochs", 4), ("--seed", 7), ("--img-size", 20), ("--teacher", "cnn3")):
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
