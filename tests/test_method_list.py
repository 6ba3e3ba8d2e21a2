"""``sapling methods``: every fact of every method, in windows of any width."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

from sapling import cli, method_list, tables
from sapling.errors import UsageError
from sapling.methods.registry import FOLDER, built_in, catalogue, entry

BENCHMARK = FOLDER.parents[2] / "benchmarks" / "step_cost.py"


@pytest.fixture(params=[80, 120])
def width(request, monkeypatch):
    from rich.console import Console

    monkeypatch.setattr(method_list, "open_console", lambda: Console(highlight=False, width=request.param))
    return request.param


def words(text):
    return " ".join(text.split())


def test_every_method_is_listed_with_its_facts(width, capsys):
    method_list.show_methods(None, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert lines == [line.rstrip() for line in lines]
    text = words("\n".join(lines))
    for name, e in catalogue().items():
        (row,) = [line for line in lines if line.startswith(f"{name} ")]
        assert row.split()[1:4] == [str(e["year"] or "-"), method_list.labels_of(e), method_list.cache_of(e)]
        assert words(e["title"]) in text
        assert e["family"] in lines
    assert "…" not in text
    assert all(f"{title}: " in text for title in method_list.COLUMNS[2:])


def test_every_method_is_explained(width, capsys):
    for name, e in catalogue().items():
        method_list.show_methods(name, as_json=False)
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= width
        text = words(out)
        for key in ("summary", "formula", "paper", "reference", "defaults", "departures"):
            assert words(re.sub("`+", "", e[key])) in text, (name, key)
        assert f"{e['family']}, {e['year']}" in text or e["year"] is None
        assert all(f" {field} = " in text for field in e["fields"]), name


@pytest.fixture
def explained(capsys):
    def text_of(name):
        method_list.show_methods(name, as_json=False)
        return words(capsys.readouterr().out)

    return text_of


def test_a_setting_shows_its_default_and_its_range(explained):
    text = explained("kd")
    assert "temperature = 4 (above 0, at most 1,000)" in text
    assert "standardize = false (true | false)" in text
    assert "alpha = none (0 to 1 or none)" in text
    assert "weights = {ce: 1, kd: 1} (term: number or none)" in text
    assert "teacher_tap = none (text or none)" in explained("fitnet")


def test_a_combination_shows_the_weights_of_its_parts(explained):
    text = explained("kd+at")
    assert " kd.weights = {ce: 1, kd: 1} " in text
    assert " at.weights = {ce: 1, at: 1000} " in text
    assert " weights = none " in text


def test_the_method_of_a_run_that_names_none_is_marked(capsys):
    method_list.show_methods(None, as_json=False)
    marked = [row for row in re.split(r"\n(?=\S)", capsys.readouterr().out) if "names none" in words(row)]
    assert [row.split()[0] for row in marked] == ["dist"]


def test_a_comma_between_names_is_said_to_be_a_plus():
    with pytest.raises(UsageError, match=r"several are joined with \+: kd\+at"):
        method_list.show_methods("kd,at", as_json=False)


def test_no_setting_may_only_be_what_it_is_by_itself():
    """A range of one value says that a setting cannot be set."""
    for name, e in catalogue().items():
        for field, schema in e["fields"].items():
            assert method_list.range_of(schema) != "none", (name, field)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 64}, "whole number, 1 to 64"),
        ({"type": "integer", "minimum": 3}, "whole number, 3 or more"),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 1}, "0 or more, below 1"),
        ({"type": "number"}, ""),
        ({"type": "string"}, ""),
        ({"enum": ["a", "b"], "type": "string"}, "a | b"),
        ({"type": "array", "items": {"type": "string"}}, "list"),
        ({"type": "array", "items": {"type": "string"}, "minItems": 1}, "1 or more"),
        ({"type": "array", "items": {"enum": ["a"]}, "minItems": 1, "maxItems": 2}, "1 to 2 of: a"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "text or none"),
        ({"anyOf": [{"enum": ["a", "b"], "type": "string"}, {"type": "null"}]}, "a | b or none"),
    ],
)
def test_ranges(schema, expected):
    assert method_list.range_of(schema) == expected


def test_figures_are_short():
    assert [method_list.counted(n) for n in (None, 0, 999, 1000, 999_499, 999_500, 1_058_314)] == [
        "?",
        "0",
        "999",
        "1 k",
        "999 k",
        "1.0 M",
        "1.1 M",
    ]
    assert [method_list.percent(x) for x in (0, 0.004, -0.004, 0.0651, 10.33)] == [
        "0 %",
        "< 1 %",
        "< 1 %",
        "+7 %",
        "+1,033 %",
    ]


def test_taps_of_stages_are_joined():
    def taps(student, teacher):
        return method_list.taps_of({"taps": {"student": student, "teacher": teacher}})

    assert taps(["stage2", "stage3", "stage4"], ["stage2", "stage3", "stage4"]) == "stage2-4"
    assert taps(["stage2", "stage4"], ["stage2.pre", "stage3.pre", "embedding"]) == (
        "stage2, stage4 / stage2-3.pre, embedding"
    )
    assert taps([], []) == "-"
    assert taps(["embedding"], []) == "embedding / -"


def test_what_was_not_measured_says_so(width, capsys):
    method_list.show_methods("kd+at", as_json=False)
    text = words(capsys.readouterr().out)
    assert "cost not measured" in text
    assert "own parameters 0" in text
    assert method_list.facts({**entry("kd"), "own_parameters": None, "step_cost": None})[4:6] == ("? ", "?")


def test_the_list_is_json_too(capsys):
    assert cli.main(["methods", "--json"]) == 0
    found = {e["name"]: e for e in json.loads(capsys.readouterr().out)}
    assert set(found) == set(catalogue())
    keys = {"family", "year", "taps", "own_parameters", "requires", "step_cost", "reference", "ships_own_parts"}
    assert all(keys <= set(e) for e in found.values())
    assert [n for n, e in found.items() if e["ships_own_parts"]] == ["norm", "simkd"]
    assert cli.main(["methods", "kdd"]) == 2


def test_a_pipe_has_120_columns(capsys):
    assert tables.open_console().width == 120


def test_every_method_was_measured():
    stored = json.loads((BENCHMARK.parent / "results" / "step_cost.json").read_text())
    assert set(stored["methods"]) == set(built_in()), "run: python benchmarks/step_cost.py"
    for name, e in catalogue().items():
        assert e["step_cost"]["extra"] == stored["methods"][name]["extra"], name
        assert e["step_cost"]["low"] <= e["step_cost"]["extra"] <= e["step_cost"]["high"]
        assert (e["step_cost"]["live"] > e["step_cost"]["extra"] + 0.5) == e["requires"]["teacher"]


def test_own_parameters_are_those_of_the_stated_pair():
    """Built as the benchmark builds them; it also shows that the benchmark still runs."""
    spec = importlib.util.spec_from_file_location("step_cost", Path(BENCHMARK))
    step_cost = importlib.util.module_from_spec(spec)
    sys.modules["step_cost"] = step_cost
    spec.loader.exec_module(step_cost)
    teacher = step_cost.open_teacher()
    for name in built_in():
        _, method = step_cost.make(name, teacher)
        assert sum(p.numel() for p in method.parameters()) == entry(name)["own_parameters"], name
