"""The page says what the results say, escapes everything, and stays one small file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from sapling.errors import RunError, UsageError
from sapling.report import write_report
from sapling.report.details import config_text
from sapling.report.folder import RunRecord
from sapling.report.wording import clean
from tests.digests import digest
from tests.report.conftest import Runs
from tests.report.synthetic import HOSTILE, make_run

VOID = {"meta", "link", "br", "img", "input", "hr", "path", "rect", "use", "image", "circle"}


class Reader(HTMLParser):
    """Tags, attributes and text of a page; checks that tags close in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if self.open and any(t in ("td", "th") for t in self.open):
            self.rows[-1][-1] += data


def read(run: Path) -> Reader:
    return Reader((run / "report.html").read_text(encoding="utf-8"))


def results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text(encoding="utf-8"))


def one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("name", ["better", "worse", "none", "hostile"])
def test_the_headline_is_the_verdict_and_its_scope(runs: Runs, name: str) -> None:
    verdict = results(runs[name])["comparison"]["verdict"]
    plain = one_line(read(runs[name]).text).replace("\u2212", "-")
    assert one_line(verdict["statement"].replace(" %", " %")) in plain
    assert one_line(verdict["scope"]) in plain
    tone = {"better": "up", "worse": "down"}.get(verdict["outcome"], "level")
    assert any(tone in (a.get("class") or "").split() for t, a in read(runs[name]).tags if t == "div")


def test_the_table_holds_means_over_seeds_and_their_range(runs: Runs) -> None:
    page, content = read(runs["better"]), results(runs["better"])
    row = next(r for r in page.rows if r and r[0].startswith("Top-1"))
    for column, arm in ((2, "control"), (3, "kd")):
        values = [100 * m["test"]["top1"] for m in content["members"] if m["arm"] == arm]
        assert row[column].startswith(f"{sum(values) / len(values):.1f}")
        assert row[column].endswith(f"{min(values):.1f}–{max(values):.1f}")
    assert row[1].startswith(f"{100 * content['teacher']['test']['top1']:.1f}")
    assert row[4].startswith(f"{100 * content['comparison']['verdict']['difference']:+.1f}")


def test_a_difference_keeps_its_sign(runs: Runs) -> None:
    row = next(r for r in read(runs["worse"]).rows if r and r[0].startswith("Top-1"))
    difference = 100 * results(runs["worse"])["comparison"]["verdict"]["difference"]
    assert difference < 0
    assert row[-1].startswith(f"\u2212{abs(difference):.1f}")


def test_every_section_is_there(runs: Runs) -> None:
    found = [a.get("id") for t, a in read(runs["better"]).tags if t == "section"]
    assert found == [
        "results", "certainty", "training", "classes", "confusion", "teacher", "data", "use", "cost", "settings",
        "words",
    ]  # fmt: skip


def test_hostile_names_are_text_and_nothing_else(runs: Runs) -> None:
    page = read(runs["hostile"])
    assert not any(t in ("script", "img", "b", "iframe", "object") for t, _ in page.tags)
    assert not any(k.startswith("on") for _, a in page.tags for k in a)
    for name in HOSTILE:
        assert clean(name) in one_line(page.text)
    assert "\u202e" not in page.text
    assert "{{ 7*7 }}" in page.text


def test_an_arm_a_run_or_a_warning_may_be_hostile_too(tmp_path: Path) -> None:
    run = make_run(tmp_path / "x", seeds=2)
    content = results(run)
    evil = "<script>alert(1)</script>"
    content["name"] = content["shipped"]["reason"] = content["manifest"]["data"]["source"] = evil
    content["manifest"][evil] = evil
    content["manifest"]["method"] = f"../{evil}"
    content["warnings"] = [evil]
    content["comparison"]["verdict"]["statement"] = content["comparison"]["verdict"]["scope"] = evil
    content["teacher"]["gate"]["checks"][0] = {"name": evil, "passed": True, "detail": evil}
    content["deploy"]["onnx"]["latency_ms"][evil] = {"p50": 1.0, "p95": 2.0}
    for member in content["members"]:
        member["arm"] = member["arm"].replace("kd", f"../{evil}")
    (run / "results.json").write_text(json.dumps(content))
    (run / "environment.json").write_text(json.dumps({evil: evil}))
    (run / "config.yaml").write_text(evil)
    (run / "metrics.jsonl").write_text(
        json.dumps({"pass": "p", "member": evil, "epoch": 0, "train": {evil: 1.0}, "val": {"top1": 0.5}}) + "\n"
    )
    write_report(run)
    assert not any(t == "script" for t, _ in read(run).tags)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x"]
    assert all(re.fullmatch(r"[\w-]+\.svg", p.name) for p in (run / "figures").iterdir())


def test_nothing_is_asked_of_any_network(runs: Runs) -> None:
    for run in runs.values():
        page = (run / "report.html").read_text(encoding="utf-8")
        links = [v or "" for _, a in Reader(page).tags for k, v in a.items() if k in ("src", "href", "xlink:href")]
        assert all(link.startswith(("#", "data:")) for link in links)
        assert "@import" not in page
        assert all(u.startswith("url(#") for u in re.findall(r"url\([^)]*", page))
        assert "default-src 'none'" in page


def test_ids_are_unique_and_links_lead_somewhere(runs: Runs) -> None:
    for run in runs.values():
        tags = read(run).tags
        ids = [a["id"] for _, a in tags if "id" in a]
        assert len(ids) == len(set(ids))
        assert all(a["href"][1:] in ids for t, a in tags if t in ("a", "use") and (a.get("href") or "").startswith("#"))


def test_an_overridden_gate_is_said_first(runs: Runs) -> None:
    text = one_line(read(runs["hostile"]).text)
    assert text.index("did not pass its check") < text.index("Top-1 accuracy")
    assert "better than chance" in text
    assert "did not pass" not in read(runs["better"]).text


def test_two_hundred_classes_stay_small(runs: Runs) -> None:
    assert (runs["none"] / "report.html").stat().st_size < 1_000_000
    assert sum(p.stat().st_size for p in (runs["none"] / "figures").iterdir()) < 1_000_000
    names = [r[0] for r in read(runs["none"]).rows]
    assert all(any(n.endswith(f"species {k:03d}") for n in names) for k in range(10, 200))


def test_tables_name_their_rows_and_columns(runs: Runs) -> None:
    tags = read(runs["better"]).tags
    assert all(a.get("scope") in ("row", "col") for t, a in tags if t == "th")
    drawings = [a for t, a in tags if t == "svg" and a.get("class") == "drawing"]
    assert len(drawings) >= 8
    assert all(a["role"] == "img" and a["aria-label"] for a in drawings)


def test_one_seed_is_said_to_be_one(runs: Runs) -> None:
    text = one_line(read(runs["one_seed"]).text)
    assert "This run has one seed." in text
    assert "these two trained students only" in text
    assert "lowest and the highest seed" not in text


def test_plain_training_has_no_verdict(runs: Runs) -> None:
    page = read(runs["train"])
    content = results(runs["train"])
    assert f"{100 * content['members'][0]['test']['top1']:.1f}" in page.text
    assert "Difference" not in [c for r in page.rows for c in r]
    assert "certainty" not in [a.get("id") for t, a in page.tags if t == "section"]


@pytest.mark.parametrize("gone", ["metrics.jsonl", "data.json", "environment.json", "config.yaml", "results.json"])
def test_a_missing_file_is_named_and_the_rest_is_shown(tmp_path: Path, gone: str) -> None:
    run = make_run(tmp_path / "run", classes=3, seeds=2, epochs=3)
    (run / gone).unlink()
    write_report(run)
    assert f"({gone})" in read(run).text


@pytest.mark.parametrize(
    "part", ["manifest", "classes", "teacher", "members", "comparison", "shipped", "deploy", "cost"]
)
def test_a_missing_part_of_the_results_leaves_a_page(tmp_path: Path, part: str) -> None:
    run = make_run(tmp_path / "run", classes=3, seeds=2, epochs=3)
    content = results(run)
    for damaged in ({k: v for k, v in content.items() if k != part}, {**content, part: None}, {**content, part: 7}):
        (run / "results.json").write_text(json.dumps(damaged))
        write_report(run)
        read(run)


def test_metrics_that_are_missing_or_not_finite_leave_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=2, epochs=3)
    content = results(run)
    content["members"][0]["test"] = {"top1": float("nan"), "per_class_recall": [None] * 10, "confusion": [[1, 2], [3]]}
    content["members"][1]["test"]["per_class_recall"][3] = None
    content["members"][2].pop("test")
    content["members"].append("not a member")
    (run / "results.json").write_text(json.dumps(content))
    write_report(run)
    assert "nan" not in read(run).text.lower()


def test_an_unfinished_run_shows_how_far_it_came(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=2, epochs=6)
    (run / "results.json").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"pass": "seed1", "member": "kd-s1", "epo')
    write_report(run)
    page = read(run)
    assert "no results yet" in page.text
    assert "kd-s1, epoch 6 of 6" in one_line(page.text)
    assert "training" in [a.get("id") for t, a in page.tags if t == "section"]


def test_no_run_is_an_error_that_helps(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run folder"):
        write_report(tmp_path / "nothing")
    with pytest.raises(UsageError, match="nothing of a run"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(RunError, match=r"results\.json"):
        write_report(tmp_path)


def test_the_same_run_gives_the_same_bytes(runs: Runs) -> None:
    def content() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in (run / "report.html", *(run / "figures").iterdir())}

    run = runs["better"]
    first = content()
    write_report(run)
    assert content() == first
    assert not list(run.rglob(".*"))


def test_a_write_that_fails_leaves_the_old_page(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs["better"]
    before = digest(run / "report.html")

    def refuse(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_report(run)
    monkeypatch.undo()
    assert digest(run / "report.html") == before
    assert not list(run.rglob(".*"))


def test_the_report_needs_no_torch() -> None:
    code = "import sys, sapling.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unfinished_run_shows_its_teacher_and_how_to_go_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "pale trees", classes=3, seeds=2, epochs=2, gate="overridden")
    card = {k: v for k, v in results(run)["teacher"].items() if k != "test"}
    (run / "teacher").mkdir()
    (run / "teacher" / "card.json").write_text(json.dumps(card))
    (run / "results.json").unlink()
    write_report(run)
    text = one_line(read(run).text)
    assert "It failed, and was used all the same" in text
    assert f"sapling distill --resume '{run}'" in text


def test_the_key_figures_are_those_of_the_student_that_ships(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", classes=3, seeds=2, epochs=2, outcome="worse")
    content = results(run)
    content["shipped"] = {"member": "control-s0", "arm": "control", "reason": "best on validation"}
    content["command"] = "sapling distill --resume runs/run"
    (run / "results.json").write_text(json.dumps(content))
    write_report(run)
    text = one_line(read(run).text)
    values = [m["test"]["top1"] for m in content["members"] if m["arm"] == "control"]
    assert re.search(rf"of test images right, control ?{100 * sum(values) / 2:.1f}", text)
    assert "The command that made this run" not in text


def test_the_settings_name_the_teacher_that_was_chosen(tmp_path):
    """As a comment, on one line whatever its name is: the text is a settings file all the same."""
    settings = "student:\n  model: auto\nteacher:\n  epochs: 3\n  model: auto\n  recipe: plain\nfingerprint: x:1\n"
    for name, shown in (("wrn_16_2_s2", "wrn_16_2_s2"), ("a\nmodel: b\\1", "a model: b\\1")):
        text = config_text(RunRecord(tmp_path, config=settings, teacher={"model": name}))
        assert text == (
            f"student:\n  model: auto\nteacher:\n  epochs: 3\n  model: auto  # {shown} was chosen\n  recipe: plain"
        )
        assert yaml.safe_load(text)["teacher"] == {"epochs": 3, "model": "auto", "recipe": "plain"}
    assert "chosen" not in config_text(RunRecord(tmp_path, config=settings))
    named = settings.replace("  model: auto\n  recipe", "  model: resnet18\n  recipe")
    assert "chosen" not in config_text(RunRecord(tmp_path, config=named, teacher={"model": "resnet18"}))
