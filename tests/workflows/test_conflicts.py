"""What a method refuses is said at once, from the catalogue, and is what the method itself says."""

import pytest

from sapling.config import build
from sapling.errors import UsageError
from sapling.methods.registry import built_in
from sapling.workflows.conflicts import check_method_fits, known_needs
from sapling.workflows.networks import hears_logits, method_notes, needs_of, without_gain


@pytest.mark.parametrize("name", built_in())
def test_the_catalogue_says_what_the_method_says(name):
    config = build({"data": "digits", "method": name})
    assert known_needs(config) == needs_of(config)


def test_what_depends_on_settings_is_left_to_the_method():
    assert known_needs(build({"data": "digits", "method": {"name": "fdbd", "branches": ["logit"]}})) is None
    assert known_needs(build({"data": "digits", "method": {"name": "kd", "temperature": 2}})) is not None
    assert known_needs(build({"data": "digits", "method": "mine.py"})) is None


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ({"method": "crd", "data": {"source": "digits", "mixup": 0.2}}, "needs one class number per image"),
        ({"method": "ps_kd", "data": {"source": "digits", "mixup": 0.2}}, "needs one class number per image"),
        ({"method": "dist", "train": {"batch_size": 2}}, "compares images with each other"),
        (
            {"method": "at", "student": {"model": "resnet18", "pretrained": True, "freeze_backbone": True}},
            "teaches the student's features",
        ),
        ({"method": "at", "teacher": {"num_teachers": 2, "cross_fit": True}}, "learns from the teacher's features"),
        (
            {"data": {"source": "digits", "cutmix": 1}, "teacher": {"num_teachers": 2, "cross_fit": True}},
            r"data\.cutmix mixes images of several folds",
        ),
    ],
)
def test_each_conflict_has_its_words(blocks, words):
    config = build({"data": "digits", **blocks})
    with pytest.raises(UsageError, match=words):
        check_method_fits(config, known_needs(config))


def test_symmetries_without_logits_are_said_to_be_for_nothing():
    def said(method, symmetrise=True):
        return without_gain(build({"data": "digits", "teacher": {"symmetrise": symmetrise}, "method": method}))

    for method in ("at", "fdbd", "rkd", {"name": "diffkd", "branches": ["feat"]}):
        (sentence,) = said(method)
        assert "changes nothing for the student" in sentence
        assert said(method, symmetrise=False) == []
    for method in ("kd", "dist", "srrl", "diffkd", "nuclear"):
        assert said(method) == []


def test_kd_from_a_teacher_of_mixed_images_is_warned_of_before_it_is_trained():
    def said(method, **blocks):
        notes = method_notes(build({"data": "digits", "method": method, **blocks}), epochs=10)
        return any("nor is --method dist" in note for note in notes)

    mixed = {"teacher": {"recipe": "mixed"}}
    papers = {"name": "kd", "alpha": 0.1}
    weights = {"weights": {"ce": 0.1, "kd": 9}}
    standardised = {"name": "kd", "standardize": True, "temperature": 2, **weights}
    half, heavy = {"name": "kd", "alpha": 0.5}, {"name": "kd", "weights": {"kd": 3}}
    papers_like = (half, heavy, standardised, "nuclear", "ctkd")
    for method in (papers, ["at", papers], [papers, "at"], {**papers, "temperature": 2}, *papers_like):
        assert said(method, **mixed)
        assert said(method, data={"source": "digits", "cutmix": 1})
        assert not said(method)
        assert not said(method, teacher={"model": "runs/t/teacher"})
        assert not said(method, data={"source": "digits", "cutmix": 1}, teacher={"mixup": 0, "cutmix": 0})
    assert not said({**papers, "temperature": 1}, **mixed)
    assert not said({"name": "kd", "standardize": True}, **mixed)
    assert not said({"name": "kd", "alpha": 1}, **mixed)
    assert not said("at+nuclear", **mixed)
    assert not said("kd", **mixed)
    assert not said("kd+at", **mixed)
    assert not said("dist", **mixed)


OTHER = """\"\"\"A method of somebody else.

What it compares is its own business.

Family: features
Paper: none
Year: 2026
Formula: ce + own
Defaults: none
Departures: none
\"\"\"

from sapling.methods import Method
from sapling.types import Taps


class Own(Method):
    \"\"\"May compare anything.\"\"\"

    terms = ("ce", "own")

    @classmethod
    def taps(cls, config):
        return Taps(teacher=("embedding",))

    def forward(self, student, teacher, batch, step):
        return self.label_terms(student, batch, step)
"""


def test_methods_of_others_may_hear_logits(tmp_path):
    (tmp_path / "own.py").write_text(OTHER)
    assert hears_logits(build({"data": "digits", "method": str(tmp_path / "own.py")}))
