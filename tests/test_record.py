"""The run folder: nothing half-written, nothing foreign touched, one process at a time."""

import json

import pytest

from sapling import config, record, run_folders
from sapling.errors import RunError, UsageError

CONFIG = config.build({"data": "digits"})


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    record.write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), record.atomic_file(path) as file:
        file.write("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        record.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_and_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    record.write_json(path, {"a": 1})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        record.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_folder_where_nothing_was_trained_is_taken_over(tmp_path):
    other = config.build({"data": "digits", "train": {"epochs": 3}})
    for settings in (CONFIG, other, CONFIG):
        with record.Run(tmp_path / "r", settings, task="distill") as run:
            assert run.config is settings
    assert run_folders.free_folder(str(tmp_path / "r"), other, "distill") == str(tmp_path / "r")


def test_folders_are_numbered_by_themselves(tmp_path):
    base, other = str(tmp_path / "r"), config.build({"data": "digits", "train": {"epochs": 3}})
    with record.Run(base, CONFIG, task="distill") as run:
        run.path("members").mkdir()
    assert run_folders.free_folder(base, CONFIG, "distill") == base
    assert run_folders.free_folder(base, other, "distill") == base + "-2"
    assert run_folders.free_folder(base, CONFIG, "train") == base + "-2"


def test_other_settings_are_refused_and_named(tmp_path):
    with record.Run(tmp_path / "r", CONFIG, task="distill") as run:
        run.path("members").mkdir()
    other = config.build({"data": "digits", "train": {"epochs": 3}})
    with (
        pytest.raises(UsageError, match=r"train\.epochs was None, is 3"),
        record.Run(tmp_path / "r", other, task="distill"),
    ):
        pass
    with pytest.raises(UsageError, match="other settings"), record.Run(tmp_path / "r", CONFIG, task="train"):
        pass
    with record.Run(tmp_path / "r", CONFIG, task="distill") as run:
        assert not run.is_finished


def test_a_foreign_folder_is_not_touched(tmp_path):
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(UsageError, match="holds other files"), record.Run(tmp_path, CONFIG, task="distill"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.docx"]


@pytest.mark.parametrize(
    "names", [("log.txt",), ("environment.json",), ("log.txt", "environment.json"), ("data.json",)]
)
def test_files_of_ones_own_that_are_called_as_those_of_a_run_are_not_overwritten(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("[1, 2]")
    with pytest.raises(UsageError, match="is no run"), record.Run(tmp_path, CONFIG, task="distill"):
        pass
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == dict.fromkeys(names, "[1, 2]")


def test_a_run_that_was_killed_before_its_settings_were_kept_begins_anew(tmp_path):
    with record.Run(tmp_path / "r", CONFIG, task="distill"):
        pass
    (tmp_path / "r" / "config.yaml").unlink()
    with record.Run(tmp_path / "r", CONFIG, task="distill"):
        assert (tmp_path / "r" / "config.yaml").is_file()


@pytest.mark.parametrize("more", [(), ("split.csv",), ("log.txt",)])
def test_settings_and_a_split_of_ones_own_are_not_overwritten(tmp_path, more):
    (tmp_path / "config.yaml").write_text("# my own notes\ndata: photos\n")
    for name in more:
        (tmp_path / name).write_text("key,split\n")
    before = {p.name: p.read_text() for p in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="is no run"), record.Run(tmp_path, CONFIG, task="distill"):
        pass
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == before


def test_a_split_in_the_folder_of_a_run_that_never_began_is_not_overwritten(tmp_path):
    folder = tmp_path / "r"
    with record.Run(folder, CONFIG, task="distill"):
        (folder / "split.csv").write_text("key,split\n")
    split = str(folder / "split.csv")
    other = config.build({"data": {"source": "digits", "split_file": split}})
    with pytest.raises(UsageError, match="lies in the output folder"), record.Run(folder, other, task="distill"):
        pass
    assert (folder / "split.csv").read_text() == "key,split\n"


CODE = [
    ({"name": "stranger/evil.py"}, None, True),
    ({"name": "kd+stranger/evil.PY"}, None, True),
    (["kd", {"name": "evil.py"}], None, True),
    ("evil.py+kd", None, True),
    ("kd + stranger/evil.py + at", None, True),
    (["kd", "stranger/evil.py\n "], None, True),
    ({"name": "mine.py"}, "mine.py", False),
    ({"name": "mine.py"}, "other.py", True),
    ({"name": "kd", "alpha": 0.5}, None, False),
    ({"name": "kd"}, "kd", False),
    ({"name": "fitnet", "tap": "neck.pyramid"}, None, False),
]


@pytest.mark.parametrize(("method", "named", "refused"), CODE)
def test_no_code_is_run_because_a_run_folder_names_it(method, named, refused):
    if refused:
        with pytest.raises(UsageError, match="Python file, which would be run"):
            run_folders.refuse_code({"method": method}, named=named, remedy="sapling x")
    else:
        run_folders.refuse_code({"method": method}, named=named, remedy="sapling x")


def test_another_method_makes_no_sense_beside_a_run():
    with pytest.raises(UsageError, match="the method of this run is 'kd', not 'dist'"):
        run_folders.refuse_code({"method": "kd"}, named="dist", remedy="sapling x")


def test_a_file_as_output_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(UsageError, match="is a file"), record.Run(path, CONFIG, task="distill"):
        pass


def test_two_processes_cannot_share_a_run(tmp_path):
    with (
        record.Run(tmp_path / "r", CONFIG, task="distill"),
        pytest.raises(RunError, match="another process"),
        record.Run(tmp_path / "r", CONFIG, task="distill"),
    ):
        pass
    with record.Run(tmp_path / "r", CONFIG, task="distill"):
        pass  # free again


def test_metrics_of_a_resumed_pass_are_written_once(tmp_path):
    with record.Run(tmp_path / "r", CONFIG, task="distill") as run:
        run.add_metrics([{"pass": p, "epoch": e} for e in range(3) for p in ("seed0", "seed1")])
        with run.path("metrics.jsonl").open("a") as file:
            file.write('{"pass": "seed0", "ep')  # killed while writing
        run.drop_metrics("seed0", from_epoch=1)
        rows = [json.loads(line) for line in run.path("metrics.jsonl").read_text().splitlines()]
    assert sorted((r["pass"], r["epoch"]) for r in rows) == [
        ("seed0", 0),
        ("seed1", 0),
        ("seed1", 1),
        ("seed1", 2),
    ]


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(RunError, match=r"results\.json"):
        record.read_json(tmp_path / "results.json")
    with pytest.raises(UsageError, match="no run is here"):
        run_folders.load_run_config(tmp_path)


def test_no_method_has_a_part_in_a_training_alone():
    """Teachers that were trained before the default method changed go on; a distillation by another method does not."""
    one, other = (config.build({"data": "digits", "method": n, "teacher": "resnet18"}) for n in ("kd", "dist"))
    assert run_folders.stamp_of(one, "train") == run_folders.stamp_of(other, "train") == f"train:{one.fingerprint()}"
    assert run_folders.stamp_of(one, "distill") != run_folders.stamp_of(other, "distill")
