"""Combinations and recipes in a run: what is planned, said, and proposed as the next run."""

import re
from dataclasses import replace
from types import SimpleNamespace

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapling.cli import main
from sapling.config import build
from sapling.evaluation.diagnosis import diagnose
from sapling.tables import print_plan
from sapling.workflows.diagnosis import _alpha, softening
from sapling.workflows.networks import log_notes, method_notes
from sapling.workflows.next_run import changed, command_of
from sapling.workflows.plan import plan
from sapling.workflows.remedies import next_command, remedy_for
from tests.conftest import SMALL_RUN
from tests.evaluation.test_diagnosis import FLAWS, HEALTHY
from tests.workflows.test_next_run import read_back, same

COMBINED = ["kd", {"name": "at", "weight": 0.5, "stages": ["stage2"]}]


@hypothesis.settings(max_examples=10)
@given(
    st.lists(
        st.sampled_from(
            [
                "dist",
                "fitnet",
                {"name": "kd", "temperature": 2.5, "standardize": True},
                {"name": "dkd", "weights": {"ce": 1e-5, "tckd": 90.0}},
                {"name": "at", "weight": 0.25, "stages": ["stage1", "stage2"]},
                {"name": "own/me thod.py", "a": "b: c"},
            ]
        ),
        min_size=2,
        unique_by=str,
    ),
    st.sampled_from([{}, {"alpha": 0.25}, {"weights": {"ce": 1.0}}]),
)
def test_a_command_says_the_settings_of_every_part(entries, whole):
    hypothesis.assume("alpha" not in whole or all("weights" not in entry for entry in entries))
    config = build({"data": "x", "method": {"name": entries, **whole}})
    assert same(read_back(command_of(config))[1], config)


@pytest.mark.parametrize("flaw", FLAWS)
@pytest.mark.parametrize("own", [{}, {"alpha": 0.3}, {"weights": {"ce": 0.3}}])
def test_every_remedy_is_a_command_that_is_understood(flaw, own, tmp_path):
    name, changes = FLAWS[flaw]
    measured = replace(HEALTHY, **changes)
    (finding,) = diagnose(measured)
    config = build({"data": "a b.zip", "method": [{"name": "kd", **own}, *COMBINED[1:]]})
    remedy = remedy_for(finding, measured, config)
    command = next_command(remedy, config, tmp_path / "run", name)
    if command.startswith("sapling inspect "):
        return
    _, following = read_back(command)
    assert following.fingerprint() != config.fingerprint(), "the next run would be this one"
    if name == "temperature":
        assert following.method.options["kd"] == {**own, "temperature": 4.0}
    if name in ("alpha", "scale"):
        assert "kd" not in following.method.options
        assert set(following.method.options) == {"at", "alpha" if name == "alpha" else "weights"}
    if name in ("temperature", "alpha", "scale"):
        assert following.method.name == "kd+at"
        assert following.method.options["at"] == config.method.options["at"]


def test_the_diagnosis_looks_at_the_part_that_softens_answers():
    def seen(method):
        config = build({"data": "x", "method": method})
        return softening(config), _alpha(config)

    assert seen("kd") == ((4.0, False), None)
    assert seen("nuclear") == ((4.0, False), 0.1)
    assert seen(["at", {"name": "kd", "temperature": 2, "standardize": True}]) == ((2.0, True), None)
    assert seen(["at", "fitnet"]) == ((None, False), None)
    assert seen("kd+nuclear") == ((4.0, False), None)
    assert seen(["at", {"name": "kd", "alpha": 0.5}]) == ((4.0, False), None)
    assert seen({"name": "kd+at", "alpha": 0.5}) == ((4.0, False), 0.5)
    assert seen({"name": "kd", "alpha": 0.5}) == ((4.0, False), 0.5)
    assert seen({"name": "kd", "weights": {"kd": 2}}) == ((4.0, False), None)


def test_none_takes_a_setting_of_a_part_away():
    config = build({"data": "x", "method": [{"name": "kd", "alpha": 0.3, "temperature": 2}, *COMBINED[1:]]})
    other = changed(config, {"method.kd.alpha": None, "method.at.stages": None})
    assert other.method.options == {"kd": {"temperature": 2}, "at": {"weight": 0.5}}


def test_a_dry_run_tells_of_terms_phases_and_recipe(photos, tmp_path, capsys):
    method = ["function_matching", {"name": "fdbd", "weight": 0.5, "phase1_epochs": 2}]
    blocks = {**SMALL_RUN, "data": {"source": str(photos), "img_size": 16}, "method": method}
    found = plan(build({**blocks, "output": str(tmp_path / "r")}))
    assert found["weights"] == {"kd": 1.0, "diffkd": 0.5}
    assert [p["name"] for p in found["phases"]] == ["denoiser"]
    print_plan(found)
    shown = " ".join(capsys.readouterr().out.split())
    assert "loss: 1 kd + 0.5 diffkd" in shown
    assert "mixing is off: --mixup 1" in shown
    assert "3 epochs: --epochs 300 or more" in shown


@pytest.mark.parametrize("name", ["function_matching", "at+function_matching"])
def test_a_recipe_that_is_not_followed_is_named_in_the_log(name):
    def said(epochs, **data):
        lines = []
        config = build({"data": {"source": "x", **data}, "method": name})
        log_notes(SimpleNamespace(config=config, log=lines.append), epochs)
        return lines

    assert [line.partition(",")[0] for line in said(10)] == [
        "note: function_matching asks the teacher about mixed images",
        "note: function_matching is for long runs",
    ]
    assert len(said(299, mixup=1.0)) == len(said(300)) == 1
    assert said(300, mixup=1.0) == said(300, cutmix=1.0) == []
    assert len(said(300, mixup=1.0, mix_share=0)) == 1


@pytest.mark.parametrize(
    ("method", "terms"),
    [
        ("kd+kdpp", "1 kd + 1 kdpp_kd"),
        ({"name": "kd+kdpp", "alpha": 0.5, "kdpp": {"weight": 0.5}}, "0.5 kd + 0.25 kdpp_kd"),
        ({"name": "kd+kdpp", "weights": {"kdpp_kd": 3.0}}, "1 kd + 3 kdpp_kd"),
        ("at+kd+dkd", "1 kd + 1 tckd + 8 nckd"),
        ("kd+at", None),
        ("kdpp+ps_kd", None),
        ({"name": "kd+kdpp", "weights": {"kdpp_kd": 0}}, None),
        ({"name": "kd+kdpp", "kdpp": {"weights": {"kd": 0}}}, None),
        ({"name": "kd+kdpp", "alpha": 1}, None),
    ],
)
def test_answers_that_are_copied_twice_are_said_to_be(method, terms):
    """Two parts that hold the same divergence weigh it twice: nobody who types kd+kdpp can see that."""
    found = [n for n in method_notes(build({"data": "x", "method": method}), 300) if "answers" in n]
    assert len(found) == (terms is not None)
    if terms:
        assert f"count 2 times over ({terms})" in found[0]
        said = dict(entry.split(": ") for entry in re.search(r"weights: {(.*)}", found[0])[1].split(", "))
        off = {**build({"data": "x", "method": method}).method.options}
        off = {k: v for k, v in off.items() if k != "alpha"} | {"weights": dict.fromkeys(said, 0)}
        name = method if isinstance(method, str) else method["name"]
        assert method_notes(build({"data": "x", "method": {"name": name, **off}}), 300) == []


def test_what_a_part_needs_is_refused_before_anything_is_decoded(photos, capsys):
    call = ["distill", str(photos), "--teacher", "cnn4", "--dry-run", "--method"]
    assert main([*call, "kd+crd", "--mixup", "0.2"]) == 2
    assert "method 'kd+crd' needs one class number per image" in capsys.readouterr().err
    assert main([*call, "kd+sp", "--batch-size", "4"]) == 2
    assert "8 or more" in capsys.readouterr().err
