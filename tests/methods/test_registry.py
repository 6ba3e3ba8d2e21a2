from __future__ import annotations

import json
from importlib.metadata import EntryPoint

import pytest

from sapling import methods
from sapling.errors import ConfigError, MethodError
from sapling.methods import generate, registry
from sapling.methods.describe import MEASURED, describe, parse_docstring
from sapling.methods.own import explained
from sapling.types import PairInfo, Step
from tests.methods.toys import HINT, batch, outputs, pair_info, write_toy


def test_the_catalogue_is_current():
    assert generate.is_current(), "run: python -m sapling.methods.generate"
    assert generate.main(["--check"]) == 0


def test_the_catalogue_is_what_the_classes_say():
    for name, entry in methods.catalogue().items():
        figures = {key: entry[key] for key in MEASURED}
        assert entry == {**json.loads(json.dumps(describe(methods.load_class(name)))), **figures}


def test_generate_writes_whole_files(tmp_path, capsys, monkeypatch):
    target = tmp_path / "catalogue.json"
    monkeypatch.setattr(generate, "CATALOGUE", target)
    generate.write(target)
    assert generate.is_current(target)
    assert [p.name for p in tmp_path.iterdir()] == ["catalogue.json"]
    target.write_text("{}")
    assert not generate.is_current(target)


def test_every_file_here_is_a_method_or_known_not_to_be():
    files = {p.stem for p in registry.FOLDER.glob("*.py")}
    assert set(registry.built_in()) == files - registry.NOT_METHODS
    assert files >= registry.NOT_METHODS


def test_a_method_that_is_not_in_the_catalogue_yet_is_described_from_its_class(monkeypatch):
    monkeypatch.setattr(registry, "_stored", dict)
    assert methods.catalogue()["kd"]["terms"] == ["ce", "kd"]
    assert methods.check_config("kd", {"temprature": 1})


def test_a_damaged_catalogue_does_no_harm(monkeypatch, tmp_path):
    (tmp_path / "broken.json").write_text("<<<<<<< ours")
    monkeypatch.setattr(registry, "CATALOGUE", tmp_path / "broken.json")
    registry._stored.cache_clear()
    try:
        assert "kd" in methods.catalogue()
    finally:
        registry._stored.cache_clear()


def test_unknown_names_are_met_with_the_nearest():
    with pytest.raises(MethodError, match=r"unknown method 'dkdd'; did you mean 'dkd'[\s\S]*allowed: .*\bdist, dkd, "):
        methods.build("dkdd", pair_info())
    with pytest.raises(MethodError, match="unknown method 'base'"):
        methods.load_class("base")


def test_a_file_is_a_method(tmp_path):
    path = write_toy("hint", tmp_path)
    method = methods.build(path, pair_info(), stage="stage3")
    assert method.name == "hint"
    assert method.projector.weight.shape == (12, 8, 1, 1)
    assert methods.load_class(path) is type(method)
    with pytest.raises(ConfigError, match="did you mean 'stage'"):
        methods.build(path, pair_info(), stag="stage3")


def test_two_files_of_one_name_stay_apart(tmp_path):
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(write_toy("hint", tmp_path / folder))
    first, second = map(methods.load_class, paths)
    assert first is not second


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "0 methods are defined"),
        ("x = 1\nimport nothing_of_this_name", r"(?s)cannot be imported.*mine\.py, line 2"),
        ("x = 1\n\ndef f(:", r"(?s)cannot be imported.*mine\.py, line 3"),
        (HINT.replace('terms = ("ce", "hint")', "terms = ()"), "terms must be"),
        (HINT.replace('terms = ("ce", "hint")', 'terms = ("hint", "ce")'), "must be the first"),
        (HINT.replace("scales = {", 'scales = {"hnt": 1.0, '), "no terms beside"),
        (HINT.replace(', description="which map"', ""), "'stage' of its Config has no description"),
        (HINT.replace("def forward(", "def forwards("), "no forward"),
        (HINT.replace("teacher, batch, step)", "teacher, batch)"), "forward does not take"),
        (HINT.replace("return Taps(student", "return Tap(student"), r"mine.py failed in taps: NameError"),
        (HINT.replace('Field("stage4", ', "Field("), "fields without a default: stage"),
    ],
)
def test_incomplete_files_are_refused(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(MethodError, match=message):
        methods.build(str(path), pair_info())


def test_a_file_of_ones_own_need_not_explain_itself(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(HINT.replace("Year: none\n", ""))
    assert registry.entry(str(path))["year"] is None
    bare = HINT[HINT.index('"""', 3) + 3 :]
    path = tmp_path / "bare.py"
    path.write_text(bare)
    described = registry.entry(str(path))
    assert (described["title"], described["paper"]) == ("bare, a method of one's own", "")
    assert methods.build(str(path), pair_info()).terms == ("ce", "hint")


def test_an_error_in_a_file_of_ones_own_names_its_line(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(HINT.replace("self.projector(", "self.projectr("))
    method = methods.build(str(path), pair_info())
    message = r"the method wrong\.py failed in forward: AttributeError[\s\S]*wrong\.py, line \d+"
    with pytest.raises(MethodError, match=message) as error, explained():
        method(outputs(1, "student"), outputs(2, "teacher"), batch(), Step(terms=("ce", "hint")))
    line = int(str(error.value).rpartition("line ")[2])
    assert "self.projectr(" in path.read_text().splitlines()[line - 1]
    with pytest.raises(ZeroDivisionError), explained():  # no frame of such a file: a fault of ours stays one
        1 / 0  # noqa: B018
    path = tmp_path / "other.py"
    path.write_text(HINT.replace("super().__init__(config, info)", "super().__init__(config, nothing)"))
    with pytest.raises(MethodError, match=r"other\.py failed in __init__: NameError"):
        methods.build(str(path), pair_info())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MethodError, match="there is no file"):
        methods.build(str(tmp_path / "gone.py"), pair_info())


def test_taps_are_known_before_a_method_is_built(tmp_path):
    path = write_toy("hint", tmp_path)
    assert methods.taps("kd", temperature=2).teacher == ()
    assert methods.taps(path, stage="stage2").teacher == ("stage2",)
    with pytest.raises(ConfigError, match="did you mean 'stage'"):
        methods.taps(path, stag="stage2")


def test_taps_that_are_not_there_are_refused(tmp_path):
    path = write_toy("hint", tmp_path)
    with pytest.raises(MethodError, match=r"needs the student's stage9, which is not tapped"):
        methods.build(path, pair_info(), stage="stage9")
    with pytest.raises(MethodError, match=r"no features of this network are tapped"):
        methods.build(path, PairInfo(num_classes=5, num_samples=9))


def offer(monkeypatch, *points):
    registry._offered.cache_clear()
    monkeypatch.setattr(registry, "entry_points", lambda group: points)


@pytest.fixture
def clean_offers():
    yield
    registry._offered.cache_clear()


@pytest.mark.usefixtures("clean_offers")
def test_another_package_offers_a_method(monkeypatch, tmp_path):
    write_toy("hint", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    offer(
        monkeypatch,
        EntryPoint("hint", "hint", registry.GROUP),
        EntryPoint("other", "hint:Hint", registry.GROUP),
        EntryPoint("gone", "no_such_package", registry.GROUP),
    )
    assert methods.names() == sorted([*registry.built_in(), "gone", "hint", "other"])
    assert methods.build("hint", pair_info()).name == "hint"
    assert registry.entry("hint")["terms"] == ["ce", "hint"]
    assert methods.check_config("hint", {"x": 1}) == []  # when it is built: checking must not import packages
    with pytest.raises(MethodError, match="calls itself 'hint'"):
        methods.build("other", pair_info())
    with pytest.raises(MethodError, match="cannot be imported"):
        methods.build("gone", pair_info())


@pytest.mark.usefixtures("clean_offers")
def test_another_package_cannot_take_over_a_name(monkeypatch):
    offer(monkeypatch, EntryPoint("kd", "somewhere.else", registry.GROUP))
    assert registry._offered() == {}
    assert methods.load_class("kd").__module__ == "sapling.methods.kd"


def test_docstrings_are_read_whole():
    said = parse_docstring("Title.\n\nTwo lines\nof summary.\n\nFamily: logits\nFormula: a\n    + b\nYear: 2001")
    assert said == {
        "title": "Title",
        "summary": "Two lines of summary.",
        "family": "logits",
        "formula": "a + b",
        "year": "2001",
    }


def test_the_package_hands_out_its_base_classes():
    assert issubclass(methods.load_class("kd"), methods.Method)
    assert methods.load_class("kd").Config.__mro__[1] is methods.MethodConfig
    assert methods.Requires().min_batch == 1
    with pytest.raises(AttributeError, match="nothing"):
        _ = methods.nothing
