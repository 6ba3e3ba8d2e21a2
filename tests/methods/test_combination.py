"""Names and settings of combinations: short forms, terms, what is refused. Nothing here needs torch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapling.cli import main
from sapling.config import build, override
from sapling.errors import ConfigError, MethodError
from sapling.methods import check_config, registry
from sapling.methods.combination import arm_of, joined_requires, joined_terms, opened, split_name, term_names
from tests.test_lazy import run


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("kd+at", {"name": "kd+at"}),
        (" kd + at ", {"name": "kd+at"}),
        (["kd", "at"], {"name": "kd+at"}),
        (["kd"], {"name": "kd"}),
        ([{"name": "kd", "temperature": 2}], {"name": "kd", "temperature": 2}),
        ([{"name": "kd", "temperature": 2}, "at"], {"name": "kd+at", "kd": {"temperature": 2}}),
        ({"name": ["kd", {"name": "at", "x": 1}], "alpha": 0.3}, {"name": "kd+at", "at": {"x": 1}, "alpha": 0.3}),
        ({"name": ["kd", {"name": "at", "power": 1}], "at": {"x": 2}}, {"name": "kd+at", "at": {"x": 2, "power": 1}}),
        ({"name": "kd+at", "kd": {}, "at": None}, {"name": "kd+at"}),
        (["kd", {"name": "own/mine.py", "weight": 2}], {"name": "kd+own/mine.py", "mine": {"weight": 2}}),
    ],
)  # fmt: skip
def test_short_forms(short, long):
    assert opened(short) == long
    assert opened(opened(short)) == long


def test_one_setting_written_in_two_ways_is_one_run():
    runs = [
        build({"data": "x", "method": method})
        for method in (
            [{"name": "kd", "temperature": 2}, "at"],
            {"name": "kd+at", "kd": {"temperature": 2.0}, "at": {}},
            override({"method": ["kd", "at"]}, {"method.kd.temperature": 2})["method"],
            override({}, {"method": ["kd", "at"], "method.kd.temperature": 2})["method"],
        )
    ]
    assert len({r.fingerprint() for r in runs}) == 1
    assert {(r.method.arm, r.default_folder()) for r in runs} == {("kd+at", "runs/x-cnn3-kd+at")}
    other = build({"data": "x", "method": {"name": "kd+at", "kd": {"temperature": 3}}})
    assert other.fingerprint() != runs[0].fingerprint()


def test_a_file_with_a_plus_in_its_path_is_one_method(tmp_path):
    file = tmp_path / "c++" / "mine.py"
    assert len(split_name(str(file))) > 1
    file.parent.mkdir()
    file.touch()
    assert split_name(str(file)) == (str(file),)
    assert arm_of(f"kd+{tmp_path}/other.py") == "kd+other"


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("kd+", {}, "name: 'kd+' lacks a name beside a +"),
        ("kd+at+kd", {}, "name: 'kd' stands there 2 times"),
        ("kd+none", {}, "name: 'none' is the control"),
        ("kd+own/alpha.py", {}, "name: 'alpha' cannot be the name of a part"),
        ("kd+att", {}, "name: unknown method 'att'; did you mean 'at'?"),
        ("[kd, at]", {}, "name: unknown method '[kd, at]'; several are joined with +: kd+at"),
        ("kd,at", {}, "name: unknown method 'kd,at'; several are joined with +: kd+at"),
        ("kd", {"weight": 2}, "weight: unknown setting of method 'kd'; it is for the parts of a combination"),
        ("kd", {"at": 0.5}, "at: unknown setting of method 'kd'; several methods are a list: method: [kd, at]"),
        ("kd+at", {"temperature": 2}, "temperature: unknown setting of method 'kd+at'; it is a setting of its parts"),
        ("kd+at", {"at": {"wieght": 2}}, "at.wieght: unknown setting of method 'at'; did you mean 'weight'?"),
        ("kd+at", {"kd": {"xyz": 2}}, "kd.xyz: unknown setting of method 'kd'; allowed: weight, weights"),
        ("kd+at", {"dkd": {"weight": 2}}, "dkd: unknown setting of method 'kd+at'; dkd is no part of it"),
        ("kd+at", {"ta": {}}, "ta: unknown setting of method 'kd+at'; did you mean 'at'?"),
        ("kd+at", {"temprature": 2}, "temprature: unknown setting of method 'kd+at'; did you mean 'kd.temperature'?"),
        ("kd+at", {"foo": 1}, "foo: unknown setting of method 'kd+at'; allowed: kd, at, weights, alpha"),
        ("kd+at", {"kd": 3}, "kd: 3 is not allowed; must be a mapping of settings of method 'kd'"),
        ("kd+at", {"kd": {"temprature": 2}}, "kd.temprature: unknown setting of method 'kd'; did you mean"),
        ("kd+at", {"kd": {"temperature": 0}}, "kd.temperature: 0 is not allowed; must be above 0"),
        ("kd+at", {"at": {"weight": 0}}, "at.weight: 0 is not allowed; must be above 0"),
        ("kd+at", {"kd": {"alpha": 0.1, "weights": {"kd": 1}}}, "kd.alpha: given together with weights"),
        ("kd+at", {"alpha": 0.5, "kd": {"alpha": 0.1}}, "alpha: given together with kd.alpha"),
        ("kd+at", {"alpha": 0.5, "at": {"weights": {"at": 1}}}, "alpha: given together with at.weights"),
        ("kd+at", {"alpha": 0.5, "weights": {"at": 1}}, "alpha: given together with weights"),
        ("kd+at", {"weights": {"att": 1}}, "weights.att: unknown term; did you mean 'at'?"),
        ("kd+at", {"weights": {"ce": 0, "kd": 0, "at": 0}}, "weights: every term has weight 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence(name, options, expected, capsys):
    (problem,) = check_config(name, options)
    assert problem.startswith(expected)
    with pytest.raises(ConfigError) as error:
        build({"data": "x", "method": {"name": name, **options}})
    assert f"method.{expected}" in str(error.value)
    if not options:
        assert main(["distill", "nowhere.zip", "--method", name]) == 2
        assert expected in capsys.readouterr().err


def test_a_weight_in_the_name_is_told_where_it_belongs():
    for name in ("kd+at:0.5", "0.5*at+kd"):
        assert "of a weight, set method.NAME.weight=0.5" in check_config(name, {})[0]


def test_all_errors_of_all_parts_come_at_once():
    problems = check_config("kd+at", {"kd": {"x": 1, "temperature": -1}, "at": {"power": 0}, "alpha": 9})
    assert [p.partition(":")[0] for p in problems] == ["kd.x", "kd.temperature", "at.power", "alpha"]
    assert check_config("kd+at", {"weights": {"ce": 0, "kd": 0}}) == []


@pytest.mark.parametrize("block", [[], [3], [["kd"]], [{"temperature": 2}], {"name": [None]}])
def test_lists_that_are_no_methods(block):
    with pytest.raises(ConfigError, match="method: "):
        build({"data": "x", "method": block})


def test_a_list_and_what_stands_beside_it_do_not_contradict_each_other():
    listed = ["kd", {"name": "at", "weight": 0.5, "power": 3}]
    for same in ({}, {"at": {"weight": 0.5}}, {"at": {"stages": ["stage2"]}}):
        assert build({"data": "x", "method": {"name": listed, **same}}).method.options["at"]["weight"] == 0.5
    with pytest.raises(ConfigError, match=r"method: at\.weight is 0\.5 in the list and 2 beside it"):
        build({"data": "x", "method": {"name": listed, "at": {"weight": 2}}})
    with pytest.raises(ConfigError, match=r"method: temperature is 2 in the list and 3 beside it"):
        build({"data": "x", "method": {"name": [{"name": "kd", "temperature": 2}], "temperature": 3}})
    for no_mapping in (0, False, "", []):
        with pytest.raises(ConfigError, match=r"method\.at: .* is not allowed"):
            build({"data": "x", "method": {"name": listed, "at": no_mapping}})
    with pytest.raises(ConfigError, match="'at' stands there 2 times"):
        build({"data": "x", "method": [{"name": "at", "power": 2}, {"name": "at", "power": 3}]})
    with pytest.raises(ConfigError, match=r"entry 1 of the list is 'kd\+at', which is several.*\n.*\[kd, at\]"):
        build({"data": "x", "method": ["kd+at", "sp"]})


WORDS = st.sampled_from(["ce", "a", "b", "kd", "at"])
PARTS = st.dictionaries(st.sampled_from(["kd", "at", "x"]), st.lists(WORDS, min_size=1, unique=True), min_size=1)


@given(PARTS)
def test_every_term_has_one_name(parts):
    called = term_names(parts)
    names = [name for part, own in called.items() for term, name in own.items() if term != "ce"]
    assert len(set(names)) == len(names) == sum(t != "ce" for own in parts.values() for t in own)
    assert sorted(joined_terms(parts)) == sorted(names + ["ce"] * any("ce" in own for own in parts.values()))
    assert joined_terms(parts)[0] == "ce" or not any("ce" in own for own in parts.values())
    reverse = term_names(dict(reversed(parts.items())))
    assert reverse == called  # a name does not depend on the order
    once = [t for own in parts.values() for t in own]
    assert all(called[p][t] == t for p, own in parts.items() for t in own if once.count(t) == 1 or t in (p, "ce"))
    assert all(called[p][t] == f"{p}_{t}" for p, own in parts.items() for t in own if called[p][t] != t)


def test_the_whole_needs_what_a_part_needs():
    one = {"labels": False, "views": 2, "min_batch": 8, "multi_label": True, "indices": False}
    two = {"labels": True, "views": 1, "min_batch": 2, "multi_label": False, "indices": False}
    whole = {"labels": True, "views": 2, "min_batch": 8, "multi_label": False, "indices": False}
    assert joined_requires([one, two]) == joined_requires([two, one]) == whole


def test_checking_and_explaining_a_combination_imports_no_torch():
    said = run(
        "from sapling.cli import main\n"
        "from sapling.config import build\n"
        "from sapling.workflows import next_run\n"
        "c = build({'data': 'x', 'method': ['kd', {'name': 'fdbd', 'weight': 0.5}]})\n"
        "print(next_run.command_of(c))\n"
        "assert main(['methods', 'kd+fdbd']) == 0\n"
    )
    assert "--method kd+fdbd --set method.fdbd.weight=0.5" in said
    assert "w_ce ce + w_kd kd + w_diffkd diffkd" in " ".join(said.split())
    assert "fdbd.weight" in said


@pytest.mark.parametrize(
    ("name", "reason"),
    [("kd+kd", "'kd' stands there 2 times"), ("kd+none", "'none' is the control"), ("kd+norm", "ships them")],
)
def test_what_cannot_stand_together_is_not_explained(name, reason):
    with pytest.raises(MethodError, match=reason):
        registry.entry(name)
