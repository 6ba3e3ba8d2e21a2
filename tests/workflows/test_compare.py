"""``sapling compare``: what may be compared, and that its figures are those of the runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sapling
from sapling.cli import main
from sapling.errors import RunError, UsageError
from sapling.evaluation import compare as judge
from sapling.evaluation import holm
from sapling.report.comparison import _teachers
from sapling.workflows.comparison import UNEVEN
from tests.workflows.stored_runs import IMAGES, change, store_run


@pytest.fixture
def two(tmp_path):
    return [store_run(tmp_path / "kd", gain=0.1), store_run(tmp_path / "dkd", method="dkd")]


def logits_of(run, name):
    return load_file(run / "members" / name / "test_logits.safetensors")


def test_gains_pairs_and_holm_are_those_of_the_stored_answers(two, tmp_path):
    runs = [*two, store_run(tmp_path / "dist", method="dist", gain=-0.2)]
    found = sapling.compare(runs)
    right = {}
    for run in runs:
        for member in ("control", run.name):
            stored = [logits_of(run, f"{member}-s{seed}") for seed in range(3)]
            right[run.name, member] = np.stack([s["logits"].argmax(1) == s["labels"] for s in stored])
    verdicts = [judge(right[r.name, "control"], right[r.name, r.name]) for r in runs]
    assert [m.verdict.difference for m in found.methods] == [v.difference for v in verdicts]
    assert [m.verdict.p_value for m in found.methods] == [v.p_value for v in verdicts]
    assert [m.p_adjusted for m in found.methods] == holm([v.p_value for v in verdicts])
    assert [m.outcome for m in found.methods] == ["better", "no difference shown", "worse"]
    assert [np.mean(m.scores) for m in found.methods] == pytest.approx([right[r.name, r.name].mean() for r in runs])
    assert [(p.first, p.second) for p in found.pairs] == [("kd", "dkd"), ("kd", "dist"), ("dkd", "dist")]
    for pair in found.pairs:
        own = judge(right[pair.first, pair.first], right[pair.second, pair.second])
        assert (pair.verdict.difference, pair.verdict.p_value) == (own.difference, own.p_value)
    assert [p.p_adjusted for p in found.pairs] == holm([p.verdict.p_value for p in found.pairs])
    assert "kd is better than the same student trained alone; dist is worse" in found.statement
    assert found.methods[0].standing.best == 1.0
    assert "one teacher (resnet18) and one split" in found.scope
    change(runs[1], teacher__model="runs/kd/teacher")  # the same weights, given as a folder
    assert sapling.compare(runs).scope == found.scope
    json.dumps(found.as_dict(), allow_nan=False)


def test_one_seed_speaks_of_students_and_few_are_preliminary(tmp_path, capsys):
    """evidence.md: a single seed compares this trained student with this trained control, never the methods."""
    for seeds in (1, 3, 5):
        root = tmp_path / str(seeds)
        runs = [store_run(root / m, method=m, gain=g, seeds=seeds) for m, g in (("kd", 0.15), ("dist", -0.2))]
        runs.append(store_run(root / "dkd", method="dkd", seeds=seeds))
        assert main(["compare", *map(str, runs), "-o", str(root / "out")]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        page = (root / "out" / "compare.html").read_text(encoding="utf-8")
        found = sapling.compare(runs)
        assert [m.outcome for m in found.methods] == ["better", "worse", "no difference shown"]
        said = found.statement + found.between
        assert ("preliminary" in found.statement) == (seeds == 3) == ("preliminary" in found.between)
        assert ("preliminary" in found.statement.rpartition(" (")[0]) == (seeds == 3)  # in the headline
        badge = re.search(r"</svg>([^<]*)</span>\s*<h1>", page)[1]
        if seeds > 1:
            assert "kd is better than the same student trained alone; dist is worse" in said
            assert badge == "Some better, some worse" + (", preliminary" if seeds == 3 else "")
            continue
        assert not re.search(r"\b(is|are) (better|worse) than", said + shown + page)
        assert found.statement.startswith(
            "With this one seed, of 3 trained students, that of kd did better than the same student trained alone; "
            "that of dist did worse"
        )
        assert "; this says nothing of the methods (one seed" in found.statement
        assert found.between.startswith("Between the students: that of kd did better than that of dist")
        assert "verdict, these students" in shown
        assert "did better" in shown.partition("P(best)")[2]
        assert badge == "One seed: these students only"
        assert '<div class="hero level' in page
        assert re.search(r"<td>did worse", page)


def test_a_verdict_that_holm_takes_back_is_none(two, tmp_path, monkeypatch):
    monkeypatch.setattr("sapling.workflows.compare.holm", lambda values: [0.5 for _ in values])
    found = sapling.compare(two)
    assert found.methods[0].verdict.outcome == "better"
    assert found.methods[0].outcome == "no difference shown"
    assert found.pairs[0].verdict.outcome == "worse"
    assert found.pairs[0].outcome == "no difference shown"


def test_a_leak_that_was_allowed_is_said(two):
    change(
        two[0], warnings=["Leak, and the run was told to go on: the teacher was trained on 7 of the 300 test images."]
    )
    notes = sapling.compare(two).notes
    assert [n for n in notes if n.startswith("kd went on with a leak") and "7 of the 300" in n]
    assert not [n for n in notes if n.startswith("dkd")]


def test_the_confidence_is_that_of_the_runs(two):
    usual = sapling.compare(two)
    found = sapling.compare([change(run, comparison__verdict__confidence=0.99) for run in two])
    assert (usual.confidence, found.confidence) == (0.95, 0.99)
    for narrow, wide in zip((*usual.methods, *usual.pairs), (*found.methods, *found.pairs), strict=True):
        assert wide.verdict.confidence == 0.99
        assert wide.verdict.high - wide.verdict.low > narrow.verdict.high - narrow.verdict.low


def test_one_control_is_said_to_be_one(two, tmp_path):
    found = sapling.compare(two)
    assert found.controls.are_one
    assert found.controls.to_the_bit
    assert found.control_standing is not None
    assert sum(m.standing.best for m in found.methods) + found.control_standing.best == pytest.approx(1)
    path = two[1] / "members" / "control-s1" / "test_logits.safetensors"
    stored = load_file(path)
    save_file({**stored, "logits": stored["logits"] * np.float32(1.001)}, path)
    found = sapling.compare(two)
    assert found.controls.are_one
    assert not found.controls.to_the_bit
    apart = store_run(tmp_path / "dist", method="dist", own_control=1)
    found = sapling.compare([two[0], apart])
    assert not found.controls.are_one
    assert found.control_standing is None
    assert "trained apart" in found.controls.statement
    own = np.mean(found.methods[1].control_scores)
    assert own == pytest.approx(np.mean([(x := logits_of(apart, f"control-s{s}"))["logits"].argmax(1) == x["labels"]
                                         for s in range(3)]))  # fmt: skip
    assert found.methods[1].verdict.difference == pytest.approx(np.mean(found.methods[1].scores) - own)


def test_a_teacher_that_is_trained_and_then_given_is_one(two, tmp_path):
    """What counts is how it answers, not which settings brought that about."""
    change(two[0], manifest__num_teachers=3, manifest__cross_fit=True)
    assert sapling.compare(two).allowed == ()


def test_whom_no_student_hears_may_be_anyone(two, tmp_path):
    alone = store_run(tmp_path / "ps_kd", method="ps_kd", teacher="cd" * 32, answers="12" * 32, taught=False)
    results = json.loads((alone / "results.json").read_text())
    results["teacher"]["gate"]["passed"] = False
    (alone / "results.json").write_text(json.dumps(results))
    found = sapling.compare([*two, alone])
    assert found.allowed == ()
    assert "one teacher (resnet18)" in found.scope
    assert found.methods[2].teacher_seconds is None
    assert found.methods[0].teacher_seconds == 32
    assert "No student of ps_kd heard a teacher." in found.notes
    assert not any("did not pass" in note for note in found.notes)
    section = _teachers(found.as_dict()["methods"])
    assert [row["methods"] for row in section] == ["kd, dkd"]


def test_shared_seeds_are_compared_when_others_are_allowed(two, tmp_path):
    other = store_run(tmp_path / "dist", method="dist", seeds=3, first_seed=1)
    with pytest.raises(UsageError, match="seeds that all have: 1, 2"):
        sapling.compare([two[0], other])
    found = sapling.compare([two[0], other], allow="seeds")
    assert found.seeds == (1, 2)
    assert [len(m.scores) for m in found.methods] == [2, 2] == [m.verdict.num_seeds for m in found.methods]
    assert found.controls.are_one
    assert any("seed 0" in note for note in found.notes)
    far = store_run(tmp_path / "vid", method="vid", first_seed=9)
    with pytest.raises(UsageError, match="no seed is in all"):
        sapling.compare([two[0], far], allow=["seeds"])


@pytest.mark.parametrize("measure", ["macro_recall", "map"])
def test_other_measures_have_their_own_verdict(tmp_path, measure):
    options = {"measure": measure, "several": measure == "map", "images": 80}
    runs = [store_run(tmp_path / m, method=m, gain=g, **options) for m, g in (("kd", 0.15), ("dkd", 0.0))]
    found = sapling.compare(runs)
    for run, result in zip(runs, found.methods, strict=True):
        stored = json.loads((run / "results.json").read_text())["comparison"]["verdict"]
        assert result.verdict.measure == measure
        assert result.verdict.difference == pytest.approx(stored["difference"], abs=1e-6)
        assert result.verdict.p_value == pytest.approx(stored["p_value"], rel=1e-4)


def test_images_of_one_group_stay_together(tmp_path):
    groups = np.arange(IMAGES) // 3
    runs = [store_run(tmp_path / m, method=m, groups=groups) for m in ("kd", "dkd")]
    found = sapling.compare(runs)
    assert found.num_groups == 100
    stored = json.loads((runs[0] / "results.json").read_text())["comparison"]["verdict"]
    assert found.methods[0].verdict.p_value == pytest.approx(stored["p_value"])
    assert UNEVEN not in found.notes
    for name in ("control-s0", "kd-s0"):
        path = runs[0] / "members" / name / "test_logits.safetensors"
        kept = load_file(path)
        del kept["groups"]
        save_file(kept, path)
    with pytest.raises(RunError, match="not measured on the same images"):
        sapling.compare(runs)


def test_groups_of_unequal_sizes_count_alike(tmp_path):
    """One group holds half of the images: its method is right on it alone, and is no better for that."""
    groups = np.maximum(np.arange(IMAGES) - 150, 0)
    runs = [store_run(tmp_path / m, method=m, groups=groups, gain=g) for m, g in (("kd", 0.1), ("dkd", 0.0))]
    found = sapling.compare(runs)
    assert UNEVEN in found.notes
    kd = found.methods[0]
    assert kd.verdict.difference != pytest.approx(np.mean(kd.scores) - np.mean(kd.control_scores), abs=1e-3)
    right = [
        np.stack([(s := logits_of(runs[0], f"{arm}-s{seed}"))["logits"].argmax(1) == s["labels"] for seed in range(3)])
        for arm in ("control", "kd")
    ]
    d = right[1].mean(0) - right[0].mean(0)
    assert kd.verdict.difference == pytest.approx(np.mean([d[groups == g].mean() for g in np.unique(groups)]))
    order = sorted([*found.methods], key=lambda m: m.standing.rank)
    assert order[0].verdict.difference == max(m.verdict.difference for m in found.methods)


def test_runs_of_one_method_are_told_apart(tmp_path):
    warm = store_run(tmp_path / "warm", method_config={"temperature": 8.0})
    cold = store_run(tmp_path / "cold", method_config={"temperature": 2.0})
    assert [m.name for m in sapling.compare([warm, cold]).methods] == ["kd (temperature 8.0)", "kd (temperature 2.0)"]
    again = store_run(tmp_path / "again")
    same = store_run(tmp_path / "same")
    assert [m.name for m in sapling.compare([again, same]).methods] == ["kd (again)", "kd (same)"]


def test_a_copy_of_a_run_is_no_second_run(two, tmp_path):
    copy = shutil.copytree(two[0], tmp_path / "copy")
    with pytest.raises(UsageError, match="one run, given twice"):
        sapling.compare([two[0], copy])


def scaled(run, arm, factor=1.001):
    """Other logits of the same answers, for every seed of an arm."""
    for folder in sorted((run / "members").glob(f"{arm}-s*")):
        path = folder / "test_logits.safetensors"
        stored = load_file(path)
        save_file({**stored, "logits": stored["logits"] * np.float32(factor)}, path)


def test_a_copy_whose_settings_were_edited_is_no_second_run(two, tmp_path):
    """Settings are text that anyone may edit; answers to the bit are not come by twice."""
    copy = shutil.copytree(two[0], tmp_path / "warm")
    change(copy, manifest__method_config={"temperature": 8.0})
    (copy / "config.yaml").write_text("student: {model: cnn3}\ntrain: {momentum: 0.8}\n")
    with pytest.raises(UsageError, match=r"same answers to the bit \(seed 0\)(.|\n)*temperature 8\.0") as caught:
        sapling.compare([two[0], copy], allow=["budget"])
    assert "copy of the other" in str(caught.value)
    results = json.loads((copy / "results.json").read_text())
    for member in results["members"]:
        member["arm"] = member["arm"].replace("kd", "dist")
    (copy / "results.json").write_text(json.dumps(results))
    for seed in range(3):
        (copy / "members" / f"kd-s{seed}").rename(copy / "members" / f"dist-s{seed}")
    with pytest.raises(UsageError, match="kd and dist hold the same answers"):
        sapling.compare([two[0], copy], allow=["budget"])
    (path := copy / "members" / "dist-s0" / "test_logits.safetensors").rename(copy / "own")
    stored = load_file(copy / "own")
    save_file({**stored, "logits": stored["logits"] * np.float32(1.5)}, path)
    with pytest.raises(UsageError, match=r"seed 1"):  # one changed seed hides nothing
        sapling.compare([two[0], copy], allow=["budget"])
    scaled(copy, "dist")
    sapling.compare([two[0], copy], allow=["budget"])


def test_methods_that_teach_nothing_are_not_taken_for_copies(two, tmp_path):
    """With alpha 1 every method is its control, to the bit: that is said, and no copy."""
    runs = [two[1]]
    for name in ("vid", "crd"):
        run = store_run(tmp_path / name, method=name, method_config={"alpha": 1.0})
        results = json.loads((run / "results.json").read_text())
        for own, control in zip(results["members"][1::2], results["members"][::2], strict=True):
            own["test"] = control["test"]
        for seed in range(3):
            shutil.copy(run / "members" / f"control-s{seed}" / "test_logits.safetensors",
                        run / "members" / f"{name}-s{seed}")  # fmt: skip
        (run / "results.json").write_text(json.dumps(results))
        runs.append(run)
    found = sapling.compare(runs)
    said = [note for note in found.notes if "answer as its control to the bit" in note]
    assert [note.split()[3] for note in said] == ["vid", "crd"]


def test_a_real_run_gives_its_own_verdict(finished_run, tmp_path):
    copy = shutil.copytree(finished_run.folder, tmp_path / "copy")
    with pytest.raises(UsageError, match="one run, given twice"):
        sapling.compare([finished_run.folder, copy])
    change(copy, manifest__method_config={"temperature": 2.0})
    with pytest.raises(UsageError, match="same answers to the bit"):
        sapling.compare([finished_run.folder, copy])
    scaled(copy, finished_run.results["manifest"]["method"])
    found = sapling.compare([finished_run.folder, copy])
    stored = finished_run.results["comparison"]["verdict"]
    again = found.methods[0].verdict.as_dict()
    assert {k: v for k, v in again.items() if k != "statement"} == {k: v for k, v in stored.items() if k != "statement"}
    assert found.pairs[0].verdict.difference == 0
    assert found.controls.to_the_bit


def test_the_command_prints_and_writes_a_page(two, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["compare", *map(str, two), "--output", str(out)]) == 0
    text = capsys.readouterr().out
    assert "kd is better than the same student trained alone" in text
    assert str(out / "compare.html") in text
    assert main(["compare", *map(str, two), "--json", "-o", str(tmp_path / "page.html")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [m["name"] for m in found["methods"]] == ["kd", "dkd"]
    assert (tmp_path / "page.html").is_file()


def test_wrong_calls_end_with_2_and_say_why(two, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kd, dkd = map(str, two)
    unfinished = store_run(tmp_path / "unfinished", method="vid")
    (unfinished / "results.json").unlink()
    plain = change(store_run(tmp_path / "plain", method="vid"), task="train")
    mine = tmp_path / "mine.html"
    mine.write_text("my own page")
    for arguments, said in (
        ([kd], "1 run is given"),
        ([kd, f"{kd}/../kd"], "given twice"),
        ([kd, "nowhere"], "no run folder 'nowhere'"),
        ([kd, str(tmp_path)], "no run is here"),
        ([kd, str(unfinished)], "sapling distill --resume"),
        ([kd, str(plain)], "run folders of sapling distill"),
        ([kd, dkd, "--allow", "seed"], "did you mean 'seeds'"),
        ([kd, dkd, "-o", str(mine)], "no page of Sapling"),
    ):
        assert main(["compare", *arguments]) == 2
        assert said in capsys.readouterr().err
    assert mine.read_text() == "my own page"
    assert not (tmp_path / "runs").exists()


def test_comparing_needs_no_torch(two, tmp_path):
    code = (
        "import sys; from sapling.cli import main\n"
        f"assert main(['compare', {str(two[0])!r}, {str(two[1])!r}, '-o', {str(tmp_path / 'o')!r}]) == 0\n"
        "assert not {'torch', 'timm', 'torchvision'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr


def test_the_terminal_names_the_better_of_two_methods_first(tmp_path, capsys):
    runs = [store_run(tmp_path / "kd", gain=0.3), store_run(tmp_path / "dkd", method="dkd", gain=-0.1)]
    lines = []
    for given in (runs, runs[::-1]):
        assert main(["compare", *map(str, given), "-o", str(tmp_path / "out")]) == 0
        (line,) = (
            line for line in capsys.readouterr().out.splitlines() if " less " in line and "method less" not in line
        )
        lines.append(line.split())
    assert lines[0] == lines[1]
    assert lines[0][:3] == ["kd", "less", "dkd"]
    gain, low, high = (float(lines[0][k]) for k in (3, 4, 6))
    assert low < gain < high
    assert gain > 0
    assert "better" in lines[0]
