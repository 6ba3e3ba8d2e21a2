"""Every look at test images is counted; what was looked at before is said, on the page and beside the next run."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

import sapling
from sapling.config import build
from sapling.data.loader import load_data
from sapling.evaluation.diagnosis import diagnose
from sapling.report.details import looks_at_test
from sapling.report.diagnosis import terminal_lines
from sapling.tables import print_result
from sapling.workflows.openings import caution
from sapling.workflows.remedies import Remedy, next_command, remedy_for
from tests.conftest import SMALL_RUN, write_images
from tests.evaluation.test_diagnosis import HEALTHY

QUICK = {**SMALL_RUN["train"], "epochs": 1, "num_seeds": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("looks")


@pytest.fixture(scope="module")
def photos(root):
    return write_images(root / "photos", seed=5)


@pytest.fixture(autouse=True, scope="module")
def fresh_cache(root):
    patch = pytest.MonkeyPatch()
    patch.setenv("SAPLING_CACHE", str(root / "cache"))
    yield root / "cache"
    patch.undo()


def run(photos, teacher, output, *, train=None, **blocks):
    return sapling.distill(
        data={"source": str(photos), "img_size": 16},
        student="cnn3",
        teacher={"model": str(teacher), "accept_weak": True},
        train=QUICK | (train or {}),
        deploy={"onnx": False, "latency_seconds": 0},
        output=str(output),
        **blocks,
    )


def test_every_look_is_counted_and_said(photos, root, fresh_cache, capsys):
    trained = sapling.train(
        data={"source": str(photos), "img_size": 16},
        student="cnn3",
        train=QUICK,
        deploy={"onnx": False, "latency_seconds": 0},
        output=root / "alone",
    )
    assert trained.results["test_opened"] == {"this_run": 1, "before": 0}
    assert sapling.evaluate(trained.folder, photos)["num_images"] > 0
    sapling.evaluate(trained.folder, photos, split="val")  # no test images
    first = run(photos, trained.folder / "student", root / "first")
    assert first.results["test_opened"] == {"this_run": 1, "before": 2}
    (ledger,) = (fresh_cache / "openings").iterdir()
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [(x["task"], x["run"], x["method"], x["seeds"]) for x in lines] == [
        ("train", "alone", "none", [0]), ("evaluate", "alone", "none", []), ("distill", "first", "dist", [0]),
    ]  # fmt: skip
    said = (
        "The test images were opened once, at the end. Two earlier runs on this machine looked at the same test "
        "images (by names and labels): the more often one looks, the more easily luck looks like a gain."
    )
    assert said in (first.folder / "report.html").read_text(encoding="utf-8")
    assert said in (first.folder / "log.txt").read_text(encoding="utf-8")
    print_result(first)
    assert said in " ".join(capsys.readouterr().out.split())
    # a finished run that is printed again looks at nothing
    assert run(photos, trained.folder / "student", root / "first").results == first.results
    # killed while it judged: the same run looks again
    (first.folder / "results.json").unlink()
    again = run(photos, trained.folder / "student", root / "first")
    assert again.results["test_opened"] == {"this_run": 2, "before": 2}
    assert "opened 2 times, at the end: the run was broken off" in (root / "first" / "report.html").read_text()
    if "findings" in again.results["diagnosis"]:  # whatever so small a test shows
        entry = (*again.results["diagnosis"]["findings"], again.results["diagnosis"].get("next"))[0]
        assert "looks at the same test images again, after this run and 2 other runs" in entry["remedy"]
        assert any("same test images" in text for _, text in terminal_lines(again.results))
    # other test images are fresh
    data = {"source": str(photos), "img_size": 16, "split_seed": 1}
    other = sapling.train(
        data=data, student="cnn3", train=QUICK, deploy={"onnx": False, "latency_seconds": 0}, output=root / "other"
    )
    assert other.results["test_opened"] == {"this_run": 1, "before": 0}


def test_a_run_whose_cache_keeps_no_record_says_so(photos, root, fresh_cache):
    folder = fresh_cache / "openings"
    kept = folder.rename(fresh_cache / "kept")
    folder.write_text("no folder")
    try:
        data = {"source": str(photos), "img_size": 16}
        found = sapling.train(
            data=data,
            student="cnn3",
            train=QUICK,
            deploy={"onnx": False, "latency_seconds": 0},
            output=root / "no record",
        )
    finally:
        folder.unlink()
        kept.rename(folder)
    assert found.results["test_opened"] == {"this_run": None, "before": None}
    assert "How often before is not known: the record in the cache" in (found.folder / "log.txt").read_text()


def test_the_caution_offers_what_is_fresh(photos, tmp_path):
    data = load_data(photos, img_size=16)
    opened = {"this_run": 1, "before": 1}
    config = build({"data": {"source": str(photos), "split_seed": 3}})
    here, remedy = {"origin": "trained here"}, Remedy("", keeps_teacher=False)
    text = caution(opened, data, config, here, remedy)
    assert "it looks at the same test images again, after this run and another run; " in text
    assert "; --set data.split_seed=4 draws others." in text
    more = Remedy("", {"data.test_share": 0.4}, keeps_teacher=False)
    assert "it looks at some of the same test images again" in caution(opened, data, config, here, more)
    assert caution(opened | {"before": 0}, data, config, here, remedy) == ""
    assert caution(opened | {"before": None}, data, config, here, remedy) == ""
    for part in ("train", "test"):
        write_images(tmp_path / part, per_class=8, seed=1)
    given = load_data(tmp_path, img_size=16)
    assert {item.split for item in given.source.items} == {"train", "test"}
    fresh = "a claim needs fresh test images, or at least 5 fresh seeds"
    assert fresh in caution(opened, given, config, here, remedy)
    kept = build({"data": {"source": str(photos), "split_file": "split.csv"}})
    assert fresh in caution(opened, data, kept, here, remedy)


def test_another_split_comes_with_another_teacher(photos, tmp_path):
    """A proposed command that carries a trained teacher must not be sent to a split on whose test it was trained."""
    data, opened, again = load_data(photos, img_size=16), {"this_run": 1, "before": 1}, Remedy("")
    config = build({"data": {"source": str(photos)}, "teacher": {"model": "cnn4", "epochs": 8}, "student": "cnn3"})
    anew = "this teacher was trained on some of them, so train it anew: --teacher cnn4 --teacher-epochs 8 in place of"
    assert anew in caution(opened, data, config, {"origin": "trained here"}, again)
    (tmp_path / "x").mkdir()
    config = build({"data": {"source": str(photos)}, "teacher": str(tmp_path / "x"), "student": "cnn3"})
    known = {"origin": "given", "trained_on": [{"seen": {"val": 0, "test": 0}}]}
    assert "train it anew: --teacher wrn_16_2 in place of" in caution(opened, data, config, known, again)
    for architecture, named in (
        ("sapling_resnet20", "resnet20"),
        ("resnet18, resnet18", "wrn_16_2"),
        ("mine", "wrn_16_2"),
    ):
        assert f"anew: --teacher {named} in" in caution(
            opened, data, config, {**known, "architecture": architecture}, again
        )
    unknown = caution(opened, data, config, {"origin": "given"}, again)
    assert "draws others, which must not be training images of the teacher." in unknown
    opened["before"] = 0
    assert caution(opened, data, config, known, again) == ""


def test_more_seeds_are_other_seeds():
    """Seeds that made one look again cannot confirm what was seen."""
    from sapling.evaluation.diagnosis import Finding

    finding = Finding("seeds", "likely", "", "", "")
    config = build({"data": "x", "train": {"seed": 4, "num_seeds": 3}})
    remedy = remedy_for(finding, HEALTHY, config)
    used = range(4, 4 + HEALTHY.num_seeds)
    first, num = remedy.changes["train.seed"], remedy.changes["train.num_seeds"]
    assert not set(range(first, first + num)) & set(used)
    assert first == used.stop
    assert num >= 5
    assert f"{num} fresh seeds, {first} to {first + num - 1}" in remedy.text


def test_where_no_number_of_seeds_could_show_it_more_images_are_tested(tmp_path):
    few = replace(HEALTHY, gap=0.04, detectable=0.06, endless_seeds=0.05, is_cut=True)
    (finding,) = diagnose(few)
    assert finding.name == "seeds"
    assert finding.measured.endswith("No number of seeds would bring that below about 5.0 points.")
    config = build({"data": "x", "teacher": "resnet18"})
    remedy = remedy_for(finding, few, config)
    assert remedy.changes == {"data.test_share": 0.26}  # 0.15 (5 / 4)^2, and a tenth
    assert not remedy.keeps_teacher  # it was trained on some of the images that are drawn
    assert remedy.text.startswith("Test on 26 % of all images: with 15 % no number of seeds")
    assert "train.num_seeds" in remedy_for(finding, replace(few, endless_seeds=0.03), config).changes
    tested = build({"data": {"source": "x", "test_share": 0.4}, "teacher": "resnet18"})
    crowded = build({"data": {"source": "x", "val_share": 0.6}, "teacher": "resnet18"})
    given = build({"data": "x", "teacher": str(tmp_path)})
    for measured, settings in (
        (replace(few, gap=0.001), config),
        (replace(few, is_cut=False), config),
        (few, given),
        (few, tested),
        (few, crowded),
    ):
        remedy = remedy_for(finding, measured, settings)
        assert remedy.text.startswith("More test images, or a teacher with a larger lead")
        assert next_command(remedy, settings, tmp_path, "x") == ""
    shown = {
        "comparison": {"verdict": {"outcome": "no difference shown"}},
        "diagnosis": {"findings": [{"title": "T", "measured": "m.", "remedy": remedy.text, "command": ""}]},
    }
    assert [label for label, _ in terminal_lines(shown)] == ["perhaps", "next"]


@pytest.mark.parametrize("broken", [{"this_run": "x", "before": []}, {"this_run": -1, "before": 1}, {"before": 2}])
def test_a_record_that_is_no_count_is_unknown(broken):
    assert "not known" in looks_at_test(broken)
    assert "runs kept no record then" in looks_at_test({})


def test_the_words_of_a_count():
    assert looks_at_test({"this_run": 1, "before": 0}).endswith("(by names and labels) is recorded on this machine.")
    assert "One earlier run on this machine" in looks_at_test({"this_run": 1, "before": 1})
    assert "1,200 earlier runs" in looks_at_test({"this_run": 1, "before": 1200})
    assert re.search(r"opened 3 times", looks_at_test({"this_run": 3, "before": 0}))
    assert np.all([looks_at_test({"this_run": 1, "before": k}) for k in range(12)])
