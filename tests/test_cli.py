"""The command line in process: what it prints, its exit codes, and that a mistake costs nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sapling.cli import main
from sapling.config import build
from tests.conftest import write_images


def test_help_lists_the_commands(run):
    code, out, _ = run("--help")
    assert code == 0
    for command in (
        "demo",
        "train",
        "distill",
        "inspect",
        "evaluate",
        "predict",
        "export",
        "report",
        "compare",
        "methods",
        "models",
        "cache",
    ):
        assert f" {command} " in out


WRONG_CALLS = [
    (("distill",), 2, ("no data is given", "sapling distill DATA")),
    (("distill", "nowhere/"), 2, ("nowhere",)),
    (("distill", "digits", "--method", "kdd"), 2, ("kdd", "did you mean 'kd'")),
    (("distill", "digits", "--student", "cnn33"), 2, ("cnn33", "cnn3")),
    (("distill", "digits", "--teacher", "resnet1"), 2, ("resnet1", "resnet18")),
    (("distill", "digits", "--method", "dist", "-b", "2"), 2, ("--batch-size 64",)),
    (("distill", "digits", "--student", "local-dir:x"), 2, ("a student is trained from its seed",)),
    (("distill", "digits", "--teacher", "runs/none"), 2, ("runs/none",)),
    (("train", "digits", "--device", "gpu"), 2, ("allowed: auto, cpu, cuda",)),
    (("evaluate", "x", "digits", "--threads", "0"), 2, ("--threads",)),
    (("export", "nowhere"), 2, ("there is no run at 'nowhere'",)),
    (("models", "reznet*"), 2, ("'resnet'",)),
    (("distill", "digits", "--temperature", "-1"), 2, ("method.temperature", "-1")),
    (("distill", "digits", "--alpha", "2"), 2, ("method.alpha",)),
    (("distill", "digits", "--set", "train.epoch=3"), 2, ("train.epoch", "did you mean 'epochs'")),
    (("distill", "digits", "--epochs", "many"), 2, ("--epochs", "integer")),
    (("distill", "digits", "--epoch", "3"), 2, ("--epoch",)),
    (("distill", "digits", "--config", "none.yaml"), 2, ("none.yaml", "cannot read")),
    (("distill", "digits", "--amp", "fp8"), 2, ("fp8", "bf16")),
    (("distill", "digits", "--on-bad-image", "ignore"), 2, ("data.on_bad_image", "fail, skip")),
    (("distill", "digits", "--imbalance", "smote"), 2, ("train.imbalance", "none, sampler, class_weights, logit_adj")),
    (("distill", "digits", "--split", "none.csv"), 2, ("none.csv", "cannot be read")),
    (("distill", "digits", "--views", "foto"), 2, ("foto", "did you mean 'photo'")),
    (("distill", "digits", "--mixup", "-1"), 2, ("data.mixup", "at least 0")),
    (("distill", "digits", "--set", "data.view_options.flipp=true"), 2, ("flipp", "did you mean 'flip'")),
    (("distill", "digits", "--set", "data.view_options={scale: [0.5, 2]}"), 2, ("scale is (0.5, 2.0)", "0.01 to 1")),
    (("train", "digits", "--views", "aerial_strong", "--set", "data.view_options.operations=14"), 2, ("leaves 11",)),
    (("distill", "digits", "--method", "dkd", "--cutmix", "1"), 2, ("one class number per image", "--cutmix 0")),
    (("distill", "digits", "--group-column", "tree"), 2, ("group_column 'tree'", "not listed by a CSV file")),
    (
        ("distill", "digits", "--group-column", "a", "--group-pattern", "b"),
        2,
        ("group_column and group_pattern both say",),
    ),
    (("distill", "aid"), 2, ("aid must be downloaded by hand", "captain-whu.github.io/AID", "datasets/aid")),
    (("distill", "eurosatt"), 2, ("did you mean 'eurosat'", "sapling datasets")),
    (("distill", "digits", "--method", "none"), 2, ("every run trains anyway",)),
    (("distill", "digits", "--resume", "nowhere"), 2, ("--resume",)),
    (("train", "--resume", "nowhere"), 2, ("no run is here",)),
    (("train", "digits", "--device", "cuda"), 2, ("no CUDA",)),
    (("evaluate", "nowhere", "digits"), 2, ("nowhere",)),
    (("evaluate", "nowhere", "digits", "--split", "dev"), 2, ("train, val, test, all",)),
    (("methods", "dkdd"), 2, ("did you mean 'dkd'",)),
    (("models", "resnt*"), 2, ("no model fits",)),
    (("models", "--sizes"), 2, ("counted one by one", "'resnet18*' --sizes")),
    (("distill", "digits", "--teacher", "alexnet"), 2, ("did you mean 'torchvision:alexnet'",)),
    (("distill", "digits", "--teacher", "resnet34=no.pth"), 2, ("there is no file 'no.pth'", "NAME=FILE")),
    (("train", "digits", "--model", "vit_tiny_patch16_224", "--img-size", "40"), 2, ("--img-size 32", "--img-size 48")),
    (("train", "digits", "--freeze-backbone"), 2, ("freeze_backbone without pretrained",)),
    (("train", "digits", "--layer-decay", "1.5"), 2, ("train.layer_decay", "at most 1")),
    (("report", "nowhere"), 2, ("nowhere",)),
    (("frobnicate",), 2, ("frobnicate",)),
]


@pytest.mark.parametrize(("arguments", "code", "words"), WRONG_CALLS, ids=[" ".join(w[0]) for w in WRONG_CALLS])
def test_wrong_calls_say_what_where_and_what_to_do(run, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    if "cuda" in arguments:
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has CUDA")
    found, _, err = run(*arguments)
    assert found == code
    for word in words:
        assert word in err
    assert "Traceback" not in err
    assert not list(tmp_path.glob("runs/*/members")), "nothing is trained by a wrong call"


def test_datasets_are_listed(run):
    code, out, err = run("datasets")
    assert (code, err) == (0, "")
    assert "eurosat" in out
    assert "27,000" in out
    code, out, _ = run("datasets", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["cifar10"]["extra"] == "hub"
    assert rows["pathmnist"]["licence"] == "CC BY 4.0"
    assert not rows["aid"]["is_here"]


def test_groups_by_a_column_reach_the_run(run, photos, tmp_path):
    lines = ["image,label,tree"]
    for folder in sorted(path for path in photos.iterdir() if path.is_dir()):
        lines += [f'"{folder.name}/{k}.png","{folder.name}",{folder.name[:2]}{k // 3}' for k in range(30)]
    (tmp_path / "photos").symlink_to(photos)
    listing = tmp_path / "photos.csv"
    listing.write_text("\n".join(line.replace('"', '"photos/', 1) if "/" in line else line for line in lines))
    call = ["train", listing, "--model", "cnn3", "--epochs", 1, "-b", 8, "--img-size", 16, "--group-column", "tree"]
    code, _, err = run(*call, "-o", tmp_path / "r", "-q")
    assert code == 0, err
    card = json.loads((tmp_path / "r" / "data.json").read_text())
    assert card["num_groups"] == 30
    assert any("30 groups by the column 'tree'" in note for note in card["notes"])
    code, out, err = run("evaluate", tmp_path / "r", listing, "--json")
    assert code == 0, err
    assert json.loads(out)["warnings"] == []


def test_distill_prints_the_verdict_and_the_places(run, photos, tmp_path):
    folder = tmp_path / "r"
    arguments = ["distill", photos, "--teacher", "cnn4", "--teacher-epochs", 8, "--student", "cnn3", "--seeds", 1]
    arguments += ["--epochs", 2, "-b", 16, "--img-size", 16, "--amp", "fp32", "--output", folder]
    code, out, err = run(*arguments)
    assert code == 0, err
    results = json.loads((folder / "results.json").read_text())
    assert results["comparison"]["verdict"]["statement"] in " ".join(out.split())
    assert str(folder / "report.html") in out
    assert "teacher cnn4" in out
    assert "teacher: cnn4 passed the gate" in err
    code, again, err = run(*arguments)
    assert (code, again) == (0, out)
    assert "training" not in err
    assert "this run is finished" in err
    code, resumed, _ = run("distill", "--resume", folder)
    assert (code, resumed) == (0, out)
    code, _, err = run(*arguments, "--lr", 0.01)
    assert code == 2
    assert "train.lr was None, is 0.01" in err


def test_a_finished_run_says_that_images_were_added_since(tmp_path):
    from sapling.cli_train import _finished_before

    assert _finished_before(tmp_path, 5, "distill:x") is None  # nothing is finished here
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "data.json").write_text('{"num_images": 4, "skipped": [{"image": "a", "reason": "b"}]}')
    assert _finished_before(tmp_path, 5, "distill:x") is None
    (tmp_path / "config.yaml").write_text("fingerprint: distill:x\n")
    assert _finished_before(tmp_path, 5, "distill:x").startswith("this run is finished")
    assert "have 6 images now and had 5" in _finished_before(tmp_path, 6, "distill:x")
    assert _finished_before(tmp_path, 5, "distill:y") is None  # refused a little later


def test_views_and_mixing_are_settings_of_a_run(run, photos, tmp_path):
    folder = tmp_path / "run"
    arguments = ("--views", "strong", "--set", "data.view_options.flip=false", "--mixup", "0.2", "--cutmix", "1")
    code, _, err = run("train", photos, "--model", "cnn3", "--epochs", "1", "-b", "16", *arguments, "-o", folder, "-q")
    assert code == 0, err
    card = json.loads((folder / "data.json").read_text())
    assert card["views"]["name"] == "strong"
    assert card["views"]["options"] == {"flip": False}
    assert (card["views"]["flip"], card["views"]["operations"], card["views"]["scale"]) == (False, 2, [0.25, 1.0])
    assert card["mix"] == {"mixup": 0.2, "cutmix": 1.0, "share": 1.0}


def test_the_help_names_all_presets(run):
    from sapling.data import VIEW_PRESETS

    for command in ("train", "distill"):
        words = run(command, "--help")[1].replace("│", " ").split()
        assert set(VIEW_PRESETS) <= {word.strip(",.") for word in words}


def test_methods_that_need_class_numbers_refuse_mixed_images_before_anything_is_decoded(run, monkeypatch):
    monkeypatch.setattr("sapling.workflows.distill.open_checked", lambda *_: pytest.fail("data were opened"))
    code, _, err = run("distill", "digits", "--method", "dkd", "--mixup", "0.2", "--set", "data.mix_share=0.5")
    assert (code, "needs one class number per image" in err) == (2, True)
    with pytest.raises(pytest.fail.Exception, match="data were opened"):
        run("distill", "digits", "--method", "dkd", "--mixup", "0.2", "--set", "data.mix_share=0", "-q")


def test_settings_of_a_teacher_that_is_given_are_refused(run, finished_run):
    code, _, err = run("distill", "digits", "--teacher", finished_run.folder, "--teacher-epochs", "3")
    assert code == 2
    assert "teacher.epochs would not be used" in err


def test_dry_run_writes_nothing(run, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("distill", photos, "--teacher", "cnn4", "--img-size", 16, "--dry-run")
    assert code == 0
    assert "3 seeds, control and student each" in out
    assert "about " in out
    assert " cnn3: " in out  # as users type it, not as timm lists it
    assert "sapling_" not in out
    assert "chosen for" not in out
    assert not list(tmp_path.iterdir())
    code, out, _ = run("distill", photos, "--img-size", 16, "--dry-run")
    assert (code, "teacher wrn_16_2, chosen for cnn3 at 16 px" in " ".join(out.split())) == (0, True)
    assert "published weights" not in out
    code, out, _ = run("distill", photos, "--img-size", 16, "--set", "teacher.pretrained=true", "--dry-run")
    shown = " ".join(out.split())
    assert code == 0
    assert "teacher resnet18, chosen for cnn3" in shown
    assert "from published weights" in shown


def test_train_evaluate_predict_export_report(run, photos, tmp_path):
    folder = tmp_path / "r"
    common = ["--epochs", 6, "-b", 16, "--img-size", 16, "--amp", "fp32", "--lr", 0.1, "-o", folder, "-q"]
    code, out, err = run("train", photos, "--model", "cnn3", *common)
    assert (code, err) == (0, "")
    assert "cnn3" in out
    code, out, _ = run("evaluate", folder, photos, "--json")
    assert code == 0
    assert json.loads(out)["num_images"] == 14
    code, out, _ = run("evaluate", folder, photos, "--split", "all", "-q")
    assert "90 images" in out
    one = next((photos / "枫树").iterdir())
    for model in (
        folder,
        folder / "student",
        folder / "student" / "model.onnx",
        folder / "student" / "model.safetensors",
    ):
        code, out, _ = run("predict", model, one)
        assert code == 0
        assert out.startswith(f"{one}\t")
    code, out, _ = run("predict", folder, photos, "--output", tmp_path / "p.csv", "--top", 2)
    assert (tmp_path / "p.csv").read_text(encoding="utf-8").count("\n") == 181
    code, out, _ = run("export", folder, "--output", tmp_path / "m.onnx")
    assert code == 0
    assert "of torch" in out
    (folder / "report.html").unlink()
    code, out, _ = run("report", folder)
    assert out.strip() == str(folder / "report.html")
    assert (folder / "report.html").exists()


def test_predict_names_unreadable_images_and_goes_on(run, finished_run, photos, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8nothing")
    good = next((photos / "枫树").iterdir())
    code, out, err = run("predict", finished_run.folder, good, tmp_path / "broken.jpg")
    assert code == 1
    assert "1 of 2 images could not be read" in err
    assert out.count("\n") == 1
    assert "broken.jpg" in err


def test_a_full_disk_is_no_traceback_and_keeps_what_was_there(run, photos, tmp_path, monkeypatch):
    from sapling import record

    write, folder = record.write_json, tmp_path / "r"

    def full(path, content):
        if path.name == "results.json":
            raise OSError(28, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(record, "write_json", full)
    arguments = ["train", photos, "--model", "cnn3", "--epochs", 1, "-b", 16, "--img-size", 16, "-o", folder]
    code, _, err = run(*arguments)
    assert code == 1
    assert "No space left on device" in err
    monkeypatch.undo()
    code, _, err = run(*arguments)
    assert code == 0
    assert (
        "epoch 1/1" not in (folder / "log.txt").read_text().partition("opening the test split")[2]
    )  # the training was kept


def test_too_few_images_say_so(run, tmp_path):
    code, _, err = run("distill", write_images(tmp_path / "few", per_class=2), "--output", tmp_path / "r")
    assert code == 2
    assert "枫树" in err or "oak" in err or "Linde" in err


def test_a_wrong_call_leaves_no_folder(run, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, _ = run("distill", tmp_path / "empty", "--output", tmp_path / "r")
    assert code == 2
    assert not (tmp_path / "r").exists()


def test_methods_and_models(run):
    code, out, _ = run("methods", "kd")
    assert code == 0
    assert "temperature" in out
    code, out, _ = run("methods", "--json")
    assert {"none", "kd", "dkd", "dist"} <= {e["name"] for e in json.loads(out)}
    code, out, _ = run("models", "*cnn3*")
    assert out.split() == ["cnn3"]


def test_models_with_their_sizes(run):
    code, out, _ = run("models", "wrn_16*", "--sizes")
    assert code == 0
    assert "239,416" in out
    assert "none" in out
    _, out, _ = run("models", "squeezenet1_1", "--json", "--sizes")
    (card,) = json.loads(out)
    assert (card["name"], card["parameters"], card["licence"]) == (
        "torchvision:squeezenet1_1",
        1_235_496,
        "bsd-3-clause",
    )
    _, out, _ = run("models", "cnn*", "--json")
    assert json.loads(out) == ["cnn3", "cnn4"]


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "sapling", "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("sapling ")


def test_inspect_looks_at_what_a_run_would_use_and_repeats_its_flags(tmp_path, capsys):
    from tests.conftest import write_images

    photos = write_images(tmp_path / "photos", per_class=8)
    files = sorted(p.relative_to(tmp_path).as_posix() for p in photos.rglob("*.png"))
    rows = [f"{f},{f.split('/')[1].replace(',', ' ')},{k // 3}" for k, f in enumerate(files)]
    (tmp_path / "l.csv").write_text("\n".join(["file,species,tree", *rows]), encoding="utf-8")
    flags = ["--group-column", "tree", "--set", "data.image_column=file", "--set", "data.label_column=species"]
    assert main(["inspect", str(tmp_path / "l.csv"), *flags, "-o", str(tmp_path / "o"), "-q"]) == 0
    shown = capsys.readouterr().out
    wanted = "--group-column tree --set data.image_column=file --set data.label_column=species"
    assert f"{tmp_path}/l.csv {wanted}" in " ".join(shown.split())
    assert main(["inspect", str(tmp_path / "l.csv"), "--set", "train.lr=1"]) == 2


def test_a_folder_that_is_taken_is_named_beside_the_number(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    usual = Path(build({"data": "x.zip"}).default_folder())
    for there, told in ((False, str(usual)), (True, f"{usual}-2 ({usual} is taken)")):
        if there:
            usual.mkdir(parents=True)
            (usual / "results.json").write_text("{}")  # of a run with other settings
        code, _, err = run("distill", "x.zip")
        assert code == 2
        assert err.splitlines()[0] == f"sapling distill: x.zip -> {told}"
