"""What a terminal shows: words that agree with their numbers, no markup, something to see while it works."""

from dataclasses import replace

import pytest

from sapling import listings, method_list, tables
from sapling.deploy import card
from sapling.screen import docstring

PLAN = {
    "data": {"classes": 3, "img_size": 16, "views": "light", "train": 9, "val": 3, "test": 3},
    "machine": {"device": "cpu", "precision": "fp32", "threads": 1},
    "teacher": {"model": "cnn4", "parameters": 10, "macs": 10, "num_teachers": 2, "epochs": 1, "forward_passes": 2},
    "student": {"model": "cnn3", "parameters": 10, "macs": 10},
    "method": {"name": "at"},
    "weights": {"ce": 1.0, "at": 1000.0},
    "phases": [{"name": "first", "epochs": 1, "steps": 4}],
    "epochs": 1,
    "seeds": 1,
    "batch_size": 3,
    "folder": "runs/x",
    "estimated_seconds": 20,
    "warnings": ["Nothing is gained by it."],
}
ONNX = {"bytes": 10, "threads": 1, "images": 1, "latency_ms": {"1": {"p50": 0.5}}, "max_abs_logit_difference": 1e-6}


def test_one_of_a_thing_is_one_of_it(capsys):
    tables.print_plan(PLAN)
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("1 seed,", "1 thread ", "trained for 1 epoch each", "1 epoch, 4 steps"):
        assert words in shown
    tables.print_plan({**PLAN, "seeds": 2, "epochs": 2, "machine": {**PLAN["machine"], "threads": 2}})
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("2 seeds,", "2 threads", "trained for 2 epochs"):
        assert words in shown
    assert "on 1 thread, logits within 1e-06 of torch on 1 image" in tables.export_lines({"path": "x", **ONNX})
    verdict = {"num_seeds": 1, "difference": 0.0, "low": 0.0, "high": 0.0}
    results = {"comparison": {"verdict": verdict}, "deploy": {"onnx": ONNX}}
    text = "\n".join(card._quality(results, {"test": {"top1": 0.5}}))
    assert "over 1 seed)" in text
    assert "with 1 thread on" in text


def test_a_plan_says_how_many_epochs_are_on_small_images(capsys):
    student = {**PLAN["student"], "small_images": {"epochs": 2, "img_size": 8}}
    tables.print_plan({**PLAN, "epochs": 5, "student": student})
    assert "trained for 5 epochs, the first 2 on images of 8 px" in " ".join(capsys.readouterr().out.split())


def test_settings_of_parts_have_dotted_names(capsys):
    tables.print_plan({**PLAN, "method": {"name": "kd+at", "kd": {"temperature": 2}, "weights": {"at": 3}}})
    assert "kd+at kd.temperature 2, weights {'at': 3}" in " ".join(capsys.readouterr().out.split())


def test_a_plan_says_what_costs_without_gain(capsys):
    tables.print_plan(PLAN)
    assert "note: Nothing is gained by it." in capsys.readouterr().out


@pytest.mark.parametrize("name", ["fdbd", "none", "crd"])
def test_an_explanation_has_no_backticks(capsys, name):
    method_list.show_methods(name, as_json=False)
    assert "`" not in capsys.readouterr().out


def test_code_in_a_docstring_is_bold():
    text = docstring("See ``diffkd`` and `x`.")
    assert text.plain == "See diffkd and x."
    assert [text.plain[s.start : s.end] for s in text.spans if s.style == "bold"] == ["diffkd", "x"]


def test_counting_sizes_shows_how_far_it_is(capsys, monkeypatch):
    from sapling.models import catalogue
    from sapling.screen import Bar, Screen

    seen = []

    class Seen(Bar):
        def advance(self, steps, note=""):
            seen.append((steps, note))

    class Shown(Screen):
        def bar(self, description, total):
            import contextlib

            seen.append(total)
            return contextlib.nullcontext(Seen())

    def describe(name):
        return catalogue.ModelCard(name, 32, 1, 1, (), None)

    monkeypatch.setattr(listings, "Screen", Shown)
    monkeypatch.setattr(catalogue, "describe_model", describe)
    listings.show_models("cnn*", sizes=True, as_json=True)
    assert seen == [2, (0, "cnn3"), (1, "cnn3"), (0, "cnn4"), (1, "cnn4")]


def test_reasons_are_broken_below_each_other_in_a_window_and_whole_in_a_pipe_and_commands_never():
    import io

    from rich.console import Console

    def shown(label, is_terminal):
        text = "one two three four five six seven eight nine"
        console = Console(file=io.StringIO(), width=30, force_terminal=is_terminal, color_system=None)
        tables._print_labelled(console, label, text)
        return console.file.getvalue().splitlines()

    assert [line.rstrip() for line in shown("why", True)] == [
        "why       one two three four",
        "          five six seven eight",
        "          nine",
    ]
    assert len(shown("why", False)) == len(shown("", True)) == 1


def test_the_measure_of_the_verdict_is_the_first_column(finished_run, capsys):
    def header(measure):
        comparison = finished_run.results["comparison"]
        verdict = {**comparison["verdict"], "measure": measure}
        results = {**finished_run.results, "comparison": {**comparison, "verdict": verdict}}
        tables.print_result(replace(finished_run, results=results))
        lines = capsys.readouterr().out.splitlines()
        at = next(k for k, line in enumerate(lines) if "parameters" in line)
        return lines[at].split("  "), lines[at + 2]

    titles, teacher = header("macro_recall")
    assert [t.strip() for t in titles if t][:3] == ["mean recall", "top-1", "macro F1"]
    test = finished_run.results["teacher"]["test"]
    shares = [f"{100 * test[key]:.2f} %" for key in ("macro_recall", "top1", "macro_f1")]
    assert " ".join(shares) in " ".join(teacher.split())
    titles, _ = header("top1")
    assert [t.strip() for t in titles if t][:3] == ["top-1", "macro F1", "parameters"]
