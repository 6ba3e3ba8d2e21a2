"""What the page claims in words: with its range, with its rule, with commands that work, and when it is not done."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from sapling.cli import main
from sapling.report import details, wording, write_report
from sapling.report.folder import read_run
from sapling.report.gallery import gallery_section
from sapling.report.sections import gate_section, headline, measured_on
from sapling.report.summary import ClassTable, summarise
from tests.report.evidence import add_evidence
from tests.report.synthetic import make_run
from tests.report.test_page import one_line, read


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", classes=3, seeds=3, epochs=2)


@pytest.mark.parametrize(
    ("outcome", "figures", "said"),
    [
        ("better", (0.027, 0.009, 0.045), "about 27 more named correctly; anything from 9 to 45 fits the interval."),
        (
            "better",
            (0.036, 0.0004, 0.071),
            "about 36 more named correctly; anything from less than 1 to 71 fits the interval.",
        ),
        ("worse", (-0.02, -0.031, -0.004), "about 20 fewer named correctly; anything from 4 to 31 fits the interval."),
    ],
)
def test_a_gain_in_images_is_of_a_thousand_and_has_its_range(run: Path, outcome, figures, said) -> None:
    record = read_run(run)
    verdict = record.results["comparison"]["verdict"]
    verdict |= {"outcome": outcome, **dict(zip(("difference", "low", "high"), figures, strict=True))}
    assert headline(summarise(record))["lead"] == f"Of 1,000 new images of this kind, that is {said}"
    verdict["outcome"] = "no difference shown"
    assert "1,000" not in headline(summarise(record))["lead"]


def table(*train: int) -> ClassTable:
    names = [f"c{k}" for k in range(len(train))]
    return ClassTable(names, list(train), list(train), *[None] * 7)


def test_classes_that_are_nearly_equal_have_no_ratio() -> None:
    assert details.balance(table(50, 50)) == "Every class has 50 training images."
    nearly = "The classes are nearly equal in size: from 123 to 128 training images."
    assert details.balance(table(123, 128, 125)) == nearly
    assert "has 10: 3.0 to 1." in details.balance(table(30, 10))


def gallery(run: Path, **answers: dict) -> None:
    path = run / "gallery.json"
    content = json.loads(path.read_text())
    for kind in content["kinds"].values():
        for entry in kind:
            entry["answers"] = {arm: {**entry["answers"][arm], **new} for arm, new in answers.items()}
    path.write_text(json.dumps(content))


def groups(run: Path) -> dict:
    section = gallery_section(summarise(read_run(run)))
    assert section
    return {g["kind"]: g for g in section["groups"]}


def test_the_same_share_of_seeds_has_the_same_sign(run: Path) -> None:
    add_evidence(run)
    for known, sign in ((0, "✕"), (1, "~"), (2, "~"), (3, "✓")):
        # whatever the mean over seeds answers
        gallery(run, student={"seeds_right": known, "right": True}, control={"seeds_right": known, "right": False})
        for kind in ("gained", "lost"):
            group = groups(run)[kind]
            assert {line["sign"] for shot in group["shots"] for line in shot["lines"]} == {sign}
            assert "~ under some" in group["note"]


def test_how_sure_is_said_in_figures(run: Path) -> None:
    add_evidence(run)
    gallery(run, student={"certainty": 0.61}, teacher={"certainty": 0.44}, control={"certainty": 0.1})
    found = groups(run)
    assert "here from 61\u202f% to 61\u202f%" in found["mistakes"]["note"]
    assert "the less sure one, here from 44\u202f% to 44\u202f%" in found["disagreements"]["note"]
    assert not any(re.search(r"\bboth are sure\b|\{", group["note"]) for group in found.values())


def commands_of(page: Path) -> list[str]:
    return [entry["command"] for entry in details.commands(summarise(read_run(page)))]


@pytest.mark.parametrize("how", ["relative", "whole"])
def test_commands_name_the_folder_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("deep/pale  trees") if how == "relative" else tmp_path / "deep/pale  trees"
    run = make_run(folder, classes=3, seeds=2, epochs=2)
    found = commands_of(run)
    assert Path(shlex.split(found[-1])[-1]).samefile(run), "the command works where the page was made"
    assert str(tmp_path) not in " ".join(found) or how == "whole"
    write_report(run)
    assert "start in the folder where sapling was called" in one_line(read(run).text)


def test_an_unfinished_run_has_a_page_that_says_so_and_an_exit_code(run: Path, capsys) -> None:
    done = make_run(run.parent / "done", classes=3, seeds=2, epochs=2)
    (run / "results.json").unlink()
    assert main(["report", str(run), str(done)]) == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [str(run / "report.html"), str(done / "report.html")], (
        "pages are made all the same"
    )
    command = f"sapling distill --resume {shlex.quote(str(run))}"
    assert "is not finished" in shown.err
    assert command in " ".join(shown.err.split())
    page = one_line(read(run).text)
    assert page.index("This run is not finished") < page.index("How training went")
    assert command in page
    (run / "config.yaml").unlink()
    assert main(["report", str(run)]) == 1
    assert "cannot go on without its config.yaml" in " ".join(capsys.readouterr().err.split())
    assert main(["report", str(done)]) == 0


@pytest.mark.parametrize("size", [3, 40])
def test_a_name_that_is_cut_stands_there_in_full_too(tmp_path: Path, size: int) -> None:
    """On pointing at it, and as a list below the figure, for paper and for fingers."""
    run = make_run(tmp_path / "run", classes=size, seeds=2, epochs=2)
    content = add_evidence(run)
    names = [f"Ligustrum lucidum, stage {k} of an infestation <b>" for k in range(size)]
    (run / "results.json").write_text(json.dumps({**content, "classes": names}))
    write_report(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count("Names in full:") == (3 if size == 3 else 2)
    order = [0, 1, 2] if size == 3 else []
    for k in order:
        full = f"Ligustrum lucidum, stage {k} of an infestation &lt;b&gt;"
        assert page.count(f"<title>{full}</title>") >= 6, "at its rows and at its columns"
        assert page.count(f"<bdi>{full}</bdi>") >= 3
        assert f"<title>{full}</title>" in (run / "figures" / "class_gain.svg").read_text(encoding="utf-8")
    assert "<b>" not in page


@pytest.mark.parametrize(
    ("num_seeds", "outcome", "badge", "symbol"),
    [
        (1, "worse", "one seed: these two students only", "level"),
        (3, "better", "better, preliminary", "up"),
        (5, "better", "better", "up"),
        (3, "no difference shown", "no difference shown, preliminary", "level"),
    ],
)
def test_one_seed_judges_no_method_and_few_are_preliminary(run: Path, num_seeds, outcome, badge, symbol) -> None:
    record = read_run(run)
    verdict = record.results["comparison"]["verdict"]
    verdict |= {"num_seeds": num_seeds, "outcome": outcome, "statement": "It is so: x"}
    found = headline(summarise(record))
    assert (found["badge"], found["symbol"]) == (badge, symbol)


def test_an_interval_without_width_is_not_printed():
    assert wording.between(0.0, 0.0) == wording.between(1.0, 1.0) == ""
    assert wording.between(0.0, 0.1) == "0.0 to +10.0"


def test_what_can_be_shown_is_rounded_up():
    assert wording.limit(0.16334) == "16.4 points"
    assert wording.limit(0.1630000001) == "16.3 points"
    assert wording.limit(None) == wording.MISSING


@pytest.mark.parametrize(("seconds", "said"), [(0.0, "given, not trained in this run"), (61.0, "1 min 1 s")])
def test_a_teacher_that_was_given_took_no_time_here(run: Path, seconds, said) -> None:
    record = read_run(run)
    record.results["teacher"]["seconds"] = seconds
    assert dict(gate_section(summarise(record))["rows"])["Training time"] == said


def test_images_per_second_are_those_of_all_calls(run: Path) -> None:
    """Half of the calls may be fast: what all of them took counts."""
    record = read_run(run)
    onnx = record.results["deploy"]["onnx"] = {"latency_ms": {"32": {"p50": 1.0, "p95": 9.0, "mean": 4.0}}}
    assert details.deploy_section(summarise(record))["speeds"][0]["rate"] == "8,000"
    del onnx["latency_ms"]["32"]["mean"]  # an older run
    assert details.deploy_section(summarise(record))["speeds"][0]["rate"] == wording.MISSING


def test_recalls_that_are_no_shares_end_in_no_traceback(run: Path) -> None:
    path = run / "results.json"
    results = json.loads(path.read_text())
    for member in results["members"]:
        member["test"]["per_class_recall"][0] = -1e308
    results["teacher"]["test"]["per_class_recall"][0] = -1e308
    path.write_text(json.dumps(results))
    assert main(["report", str(run)]) == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [("[" * 10**5, "nested too deeply"), ('{"x": ' + "9" * 5000 + "}", "a number of thousands of digits")],
)
def test_absurd_json_is_named_in_plain_words(run: Path, capsys, text, said) -> None:
    (run / "results.json").write_text(text)
    for call in (["report", str(run)], ["compare", str(run), str(run.parent)]):
        assert main(call) in (1, 2)
        error = capsys.readouterr().err
        assert said in error
        assert "try:" in error
        assert "set_int" not in error


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ({"origin": "trained here"}, "that nothing was trained or chosen on"),
        ({"origin": "given"}, "which the given teacher knows is not recorded"),
        ({"origin": "given", "trained_on": [{"model": "x"}]}, "that nothing was trained or chosen on"),
    ],
)
def test_the_page_claims_no_more_of_the_test_images_than_is_known(run: Path, teacher, said) -> None:
    record = read_run(run)
    record.results["teacher"] |= teacher
    assert said in measured_on(summarise(record))
