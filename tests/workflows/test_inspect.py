"""``sapling inspect`` from the command line and from Python, and what a run does with a split that leaks."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import sapling
from sapling.errors import DataError, UsageError
from tests.data.pictures import process_environment
from tests.data.scenes import scene, split_scenes, write_scenes

SMALL = {
    "student": "cnn3",
    "train": {"epochs": 1, "batch_size": 8, "precision": "fp32"},
    "deploy": {"onnx": False, "latency_seconds": 0},
}


@pytest.fixture(scope="module")
def leaking(tmp_path_factory):
    """Given splits; one test image was seen in training."""
    root = split_scenes(tmp_path_factory.mktemp("leaking") / "photos")
    scene(1003).save(root / "test" / "oak" / "again.png")
    return root


def test_inspect_prints_a_table_and_writes_a_page(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path / "photos", each=70)
    next((tmp_path / "photos").iterdir()).joinpath("IMG_1.HEIC").write_bytes(b"x")
    code, out, err = run("inspect", "photos/")
    assert code == 0
    assert "Ignored: 1 file not named as images (1 .heic)" in " ".join(out.split())
    assert "140 of 2 classes: 98 train, 21 validation, 21 test" in out
    assert "Nothing wrong was found." in out
    assert "runs/inspect-photos/inspect.html" in out
    assert "sapling distill photos" in out
    assert "sapling inspect: photos/" in err
    folder = tmp_path / "runs" / "inspect-photos"
    assert {path.name for path in folder.iterdir()} == {"inspect.json", "inspect.html"}
    assert json.loads((folder / "inspect.json").read_text(encoding="utf-8"))["num_images"] == 140


def test_inspect_names_what_leaks_and_writes_a_split_that_does_not(run, leaking, tmp_path):
    code, out, _ = run("inspect", leaking, "-o", tmp_path / "card", "-q")
    assert code == 0
    assert "leak" in out
    assert "test/oak/again.png (test) = train/oak/oak03.png (train)" in out
    split = tmp_path / "card" / "inspect-split.csv"
    assert f"--split {split}" in out
    code, out, _ = run("inspect", leaking, "-o", tmp_path / "card", "--split", split, "--json")
    assert code == 0
    card = json.loads(out)
    assert card["duplicates"]["num_crossing"] == 0
    assert split.exists()


@pytest.mark.parametrize("name", ["inspect.html", "inspect.json", "inspect-split.csv"])
def test_files_of_ones_own_are_not_written_over(run, leaking, tmp_path, name):
    (tmp_path / name).write_text('{"mine": 1}')
    code, _, err = run("inspect", leaking, "-o", tmp_path, "-q")
    assert code == 2
    assert "would be overwritten" in err
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == '{"mine": 1}'


def test_json_is_all_of_stdout(run, leaking, tmp_path):
    _, out, err = run("inspect", leaking, "--json", "-o", tmp_path)
    assert json.loads(out)["findings"][0]["severity"] == "leak"
    assert "inspect.html" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere/",), ("nowhere",)),
        (("digits", "--group-pattern", "("), ("no regular expression",)),
        (("digits", "--split", "none.csv"), ("none.csv",)),
        (("digits", "--img-size", "2"), ("data.img_size", "at least 8")),
    ],
)
def test_wrong_calls_of_inspect_end_with_2(run, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("inspect", *arguments)
    assert code == 2
    assert all(word in err for word in words)
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_the_library_writes_nothing_unless_asked(leaking, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    card = sapling.inspect(leaking)
    assert card.num_leaks == 1
    assert not list(tmp_path.iterdir())


def test_inspect_needs_no_torch(tmp_path):
    write_scenes(tmp_path / "photos", each=6)
    code = (
        "import sys; from sapling.cli import main; assert main(['inspect', 'photos', '-q']) == 0; "
        "assert not {'torch', 'timm', 'matplotlib'} & set(sys.modules) - {'matplotlib'}"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=process_environment(), check=True, timeout=120)


def test_a_leak_stops_the_run_and_leaves_no_folder(leaking, tmp_path):
    with pytest.raises(DataError, match=r"(?s)same picture.*again\.png.*--allow-leaks"):
        sapling.train(data={"source": str(leaking)}, output=tmp_path / "r", **SMALL)
    assert not (tmp_path / "r").exists()


def test_a_dry_run_is_stopped_too(run, leaking, tmp_path):
    code, _, err = run("distill", leaking, "--teacher", "cnn4", "--dry-run", "-o", tmp_path / "r")
    assert code == 2
    assert "same picture" in err


def test_torn_groups_stop_before_anything_is_decoded(run, tmp_path, monkeypatch):
    root = split_scenes(tmp_path / "photos", each=6)
    monkeypatch.setattr("sapling.data.packed.prepare_image", lambda *_: pytest.fail("decoded"))
    code, _, err = run("train", root, "--group-pattern", "([a-z]+[0-9]+)", "-o", tmp_path / "r")
    assert code == 2
    assert "12 groups with images in more than one split" in err


def test_an_allowed_leak_is_said_everywhere(leaking, tmp_path):
    data = {"source": str(leaking), "allow_leaks": True}
    made = sapling.train(data=data, output=tmp_path / "r", **SMALL)
    [warning] = [w for w in made.results["warnings"] if w.startswith("Leak")]
    assert "again.png" in warning
    card = json.loads((made.folder / "data.json").read_text(encoding="utf-8"))
    assert card["leaks"]["allowed"] is True
    assert card["leaks"]["crossing"]["pairs"] == 1
    for place in ("report.html", "student/README.md", "log.txt"):
        assert "the run was told to go on" in (made.folder / place).read_text(encoding="utf-8")


def test_copies_are_kept_together_and_evaluation_knows_the_split(tmp_path):
    root = write_scenes(tmp_path / "photos", each=24)
    for k in range(12):
        scene(k).save(root / "oak" / f"copy{k}.png")
    scene(7).save(root / "lime" / "other.png")
    made = sapling.train(data={"source": str(root)}, output=tmp_path / "r", **SMALL)
    card = json.loads((made.folder / "data.json").read_text(encoding="utf-8"))
    assert card["leaks"]["kept_together"] == {"sets": 12, "images": 25}
    assert card["leaks"]["found"] == []
    assert any(w.startswith("Conflicting labels: ") and "lime/other.png" in w for w in made.results["warnings"])
    parts = dict(line.split(",") for line in (made.folder / "split.csv").read_text().splitlines())
    assert all(parts[f"oak/copy{k}.png"] == parts[f"oak/oak{k:02d}.png"] for k in range(12))
    measured = sapling.evaluate(made.folder, root, device="cpu")
    test = made.results["members"][0]["test"]
    assert measured["nll"] == pytest.approx(test["nll"], abs=1e-6)  # another split would have another


def killed(*_, **__):
    raise KeyboardInterrupt


def begun(root, folder, **data):
    """A run that was killed after it wrote its data card."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sapling.workflows.train.train_members", killed)
        with pytest.raises(KeyboardInterrupt):
            sapling.train(data={"source": str(root), **data}, output=folder, **SMALL)


def test_a_run_that_goes_on_decides_the_same(leaking, tmp_path):
    begun(leaking, tmp_path / "r", allow_leaks=True)
    first = (tmp_path / "r" / "data.json").read_text(encoding="utf-8")
    with pytest.raises(DataError, match="same picture"):
        sapling.train(data={"source": str(leaking)}, output=tmp_path / "r", **SMALL)
    begun(leaking, tmp_path / "r", allow_leaks=True)
    assert (tmp_path / "r" / "data.json").read_text(encoding="utf-8") == first


def test_a_run_that_is_older_than_the_check_goes_on_as_it_began(leaking, tmp_path):
    begun(leaking, tmp_path / "r", allow_leaks=True)
    path = tmp_path / "r" / "data.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    del card["leaks"]
    path.write_text(json.dumps(card), encoding="utf-8")
    made = sapling.train(data={"source": str(leaking)}, output=tmp_path / "r", **SMALL)
    assert made.results["warnings"] == []
    with pytest.raises(UsageError, match="other settings"):
        sapling.train(data={"source": str(leaking), "img_size": 40}, output=tmp_path / "r", **SMALL)
