"""What the verdict says, word for word, and what it does where there is little to say."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from sapling.errors import DataError, UsageError
from sapling.evaluation import compare, holm, primary_measure
from sapling.evaluation.verdict import Verdict


def gained(seeds: int, images: int, *gains: int) -> tuple[np.ndarray, np.ndarray]:
    """The method is right on ``gains[s]`` images more than the control, under seed ``s``; both are noisy."""
    rng = np.random.default_rng(0)
    control = np.tile(np.arange(images) < images * 0.8, (seeds, 1))
    method = control.copy()
    for s in range(seeds):
        wrong, right = np.flatnonzero(~control[s]), np.flatnonzero(control[s])
        lost = 20
        method[s, rng.choice(wrong, lost + gains[s % len(gains)], replace=False)] = True
        method[s, rng.choice(right, lost, replace=False)] = False
    return control, method


def test_better_is_said_in_one_sentence() -> None:
    verdict = compare(*gained(3, 4050, 71, 74, 73))
    assert verdict.outcome == "better"
    assert re.fullmatch(
        r"The distilled student is better than the same student trained alone, still preliminary \(a firm claim "
        r"needs 5 seeds\): \+1\.8 percentage points of "
        r"accuracy \(95 % interval \+\d\.\d to \+\d\.\d; 3 seeds, 4,050 test images\)\.",
        verdict.statement,
    )
    assert "this teacher and this split" in verdict.scope
    assert "need 5 seeds" in verdict.scope


def test_worse_is_better_turned_round() -> None:
    control, method = gained(3, 4050, 71, 74, 73)
    verdict = compare(method, control)
    assert verdict.outcome == "worse"
    assert "is worse than the same student trained alone, still preliminary" in verdict.statement
    assert ": -1.8 percentage points" in verdict.statement


def test_no_difference_says_what_could_have_been_shown() -> None:
    verdict = compare(*gained(3, 900, 20, -15, 4))
    assert verdict.outcome == "no difference shown"
    printed = re.search(r"with 3 seeds this test can show differences above (\d+\.\d) points\.$", verdict.statement)
    assert printed
    # Rounded up: the sentence promises no more than the number does.
    assert 0 <= float(printed[1]) - 100 * verdict.detectable["now"] < 0.1 + 1e-9
    assert verdict.detectable["now"] > verdict.high - verdict.difference


def test_one_seed_speaks_of_this_pair_only() -> None:
    verdict = compare(*gained(1, 2000, 60))
    assert verdict.outcome == "better"
    assert verdict.statement.startswith("With this one seed the distilled student is better")
    assert verdict.interval_from == "images of one pair"
    assert "these two trained students only" in verdict.scope
    assert verdict.detectable["twice_the_seeds"] is None
    assert verdict.detectable["endless_seeds"] is None


def test_one_seed_may_come_without_the_axis() -> None:
    control, method = gained(1, 500, 30)
    assert compare(control[0], method[0]) == compare(control, method)


@pytest.mark.parametrize("seeds", [2, 3, 4])
@pytest.mark.parametrize("gains", [(71, 74, 73), (3, -2)])
def test_headlines_of_few_seeds_are_preliminary(seeds: int, gains: tuple[int, ...]) -> None:
    headline, _, figures = compare(*gained(seeds, 4050, *gains)).statement.partition(": ")
    assert headline.endswith(", still preliminary (a firm claim needs 5 seeds)")
    assert "preliminary" not in figures


def test_five_seeds_need_no_caveat() -> None:
    verdict = compare(*gained(5, 900, 5, 6))
    assert "Headline" not in verdict.scope
    assert "preliminary" not in verdict.statement
    assert "preliminary" not in compare(*gained(1, 900, 5)).statement  # it says more: this one seed only


def test_bounds_that_exclude_zero_are_never_printed_as_zero() -> None:
    control = np.zeros((1, 200_000))
    method = control.copy()
    method[0, :12] = 1
    verdict = compare(control, method)
    assert verdict.outcome == "better"
    low = re.search(r"interval (\+[\d.]+) to", verdict.statement)
    assert low
    assert float(low[1]) > 0


def test_names_of_the_arms_can_be_given() -> None:
    verdict = compare(*gained(3, 4050, 73), method_name="dkd", control_name="kd")
    assert verdict.statement.startswith("Dkd is better than kd, still preliminary (a firm claim needs 5 seeds): ")


def test_groups_and_measure_are_named() -> None:
    control, method = gained(3, 900, 3, -2)
    verdict = compare(
        control,
        method,
        groups=np.repeat([f"tree {k}" for k in range(300)], 3),
        measure="macro_recall",
        labels=np.arange(900) % 4,
    )
    assert verdict.num_groups == 300
    assert "of mean recall per class" in verdict.statement
    assert "900 test images in 300 groups" in verdict.statement
    assert "groups of test images" in verdict.scope


def test_dictionary_is_json_and_complete() -> None:
    verdict = compare(*gained(3, 900, 3, -2))
    plain = json.loads(json.dumps(verdict.as_dict(), allow_nan=False))
    assert set(plain) == set(Verdict.__dataclass_fields__)
    assert plain["seed_differences"] == list(verdict.seed_differences)
    assert set(plain["detectable"]) == {"now", "twice_the_seeds", "endless_seeds"}


def test_seed_means_are_named_where_they_are_the_wider() -> None:
    """Seeds scatter, images add nothing: at S = 3 the plain t has fewer degrees of freedom."""
    rng = np.random.default_rng(1)
    control = np.ones((3, 400), bool)
    method = control.copy()
    for s, lost in enumerate((10, 60, 150)):
        method[s, rng.choice(400, lost, replace=False)] = False
    method[:, :6] = False
    verdict = compare(control, method)
    assert verdict.interval_from == "seed means"
    assert verdict.degrees_of_freedom == 2


class TestDegenerate:
    """Nothing varies, or almost nothing is there."""

    zeros, ones = np.zeros((3, 100)), np.ones((3, 100))

    @pytest.mark.parametrize("seeds", [1, 2, 5])
    def test_all_answers_equal(self, seeds: int) -> None:
        verdict = compare(self.ones[:1].repeat(seeds, 0), self.ones[:1].repeat(seeds, 0))
        assert verdict.outcome == "no difference shown"
        assert verdict.p_value == 1.0
        assert verdict.difference == 0.0
        # None of 100 images differs: up to 3.6 % of such images may (Clopper-Pearson).
        assert verdict.high == pytest.approx(1 - 0.025 ** (1 / 100))
        assert ": 0.0 percentage points" in verdict.statement

    def test_all_answers_turned(self) -> None:
        verdict = compare(self.zeros, self.ones)
        assert verdict.outcome == "better"
        assert verdict.high == 1.0
        assert verdict.low == pytest.approx(2 * 0.025 ** (1 / 100) - 1)

    @pytest.mark.parametrize(
        ("images", "outcome"), [(2, "no difference shown"), (5, "no difference shown"), (6, "better")]
    )
    def test_few_images_are_a_sign_test(self, images: int, outcome: str) -> None:
        verdict = compare(self.zeros[:, :images], self.ones[:, :images])
        assert verdict.outcome == outcome
        assert verdict.p_value == pytest.approx(2.0 ** (1 - images))

    @pytest.mark.parametrize(("differing", "outcome"), [(5, "no difference shown"), (7, "better")])
    def test_few_differing_images_are_a_sign_test(self, differing: int, outcome: str) -> None:
        method = np.zeros((3, 2000))
        method[:, :differing] = 1
        assert compare(np.zeros((3, 2000)), method).outcome == outcome

    def test_one_image_says_nothing(self) -> None:
        verdict = compare(self.zeros[:, :1], self.ones[:, :1])
        assert (verdict.low, verdict.high, verdict.p_value) == (-1.0, 1.0, 1.0)
        assert verdict.outcome == "no difference shown"
        assert "so few images" in verdict.statement

    @pytest.mark.parametrize("differing", [0, 3])
    def test_more_seeds_show_no_more_than_the_images_allow(self, differing: int) -> None:
        """Where hardly an answer differs the images set the limit, now and with any number of seeds."""
        method = np.zeros((5, 500))
        method[:, :differing] = 1
        verdict = compare(np.zeros((5, 500)), method)
        half_width = verdict.high - verdict.difference
        assert list(verdict.detectable) == ["now", "twice_the_seeds", "endless_seeds"]
        assert min(verdict.detectable.values()) >= half_width - 1e-12
        once = compare(np.zeros((1, 500)), method[:1]).detectable
        assert (once["twice_the_seeds"], once["endless_seeds"]) == (None, None)

    @pytest.mark.parametrize("seeds", [3, 60])
    def test_one_group_says_nothing(self, seeds: int) -> None:
        verdict = compare(np.zeros((seeds, 100)), np.ones((seeds, 100)), groups=np.zeros(100, int))
        assert (verdict.low, verdict.high) == (-1.0, 1.0)

    def test_seed_means_that_agree_by_chance_leave_a_width(self) -> None:
        """MS_seed = 0 and images that do not agree: the crossed standard error alone would be 0."""
        control, method = np.zeros((2, 40)), np.zeros((2, 40))
        control[0, :4], method[0, 4:8] = 1, 1
        control[1, 8:12], method[1, 12:16] = 1, 1
        verdict = compare(control, method)
        assert verdict.difference == 0.0
        assert verdict.seed_differences == (0.0, 0.0)
        assert verdict.high > 0.05

    def test_seeds_that_are_copies_count_as_one_pair(self) -> None:
        """Deterministic training: three equal seeds say no more of the images than one does."""
        control, method = gained(1, 600, 25)
        once, thrice = compare(control, method), compare(control.repeat(3, 0), method.repeat(3, 0))
        assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=0.02)

    def test_seed_that_does_all_and_others_nothing(self) -> None:
        method = self.zeros.copy()
        method[0] = 1
        verdict = compare(self.zeros, method)
        assert verdict.outcome == "no difference shown"
        assert (verdict.low, verdict.high) == (-1.0, 1.0)

    def test_classes_with_one_image(self) -> None:
        control, method = gained(3, 300, 10)
        labels = np.zeros(300, int)
        labels[-2:] = [1, 2]
        verdict = compare(control, method, labels=labels, measure="macro_recall")
        assert np.isfinite(verdict.standard_error)
        # Two thirds of the measure hang on two images: nothing can be shown.
        assert verdict.outcome == "no difference shown"


@pytest.mark.parametrize(
    ("control", "method", "options", "said"),
    [
        (np.ones((2, 5)), np.ones((3, 5)), {}, "the same seeds"),
        (np.ones((2, 5)), np.ones((2, 6)), {}, "the same test images"),
        (np.ones((2, 5)) * 0.5, np.ones((2, 5)), {}, "other than 0 and 1"),
        (np.full((2, 5), np.nan), np.ones((2, 5)), {}, "other than 0 and 1"),
        (np.ones((2, 5, 1)), np.ones((2, 5, 1)), {}, "[seeds, images]"),
        (np.ones((2, 5)), np.ones((2, 5)), {"measure": "macro_recal"}, "macro_recall"),
        (np.ones((2, 5)), np.ones((2, 5)), {"measure": "macro_recall"}, "labels"),
        (np.ones((2, 5)), np.ones((2, 5)), {"confidence": 95}, "0.95"),
        (np.ones((2, 5)), np.ones((2, 5)), {"groups": [1, 2]}, "groups"),
        (np.ones((2, 5)), np.ones((2, 5)), {"measure": "macro_recall", "labels": [1]}, "labels"),
    ],
)
def test_wrong_calls_say_what_is_wrong(control, method, options, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        compare(control, method, **options)


def test_no_images_is_an_error_of_the_data() -> None:
    with pytest.raises(DataError, match="no answers"):
        compare(np.ones((2, 0)), np.ones((2, 0)))


def test_primary_measure_turns_at_five_to_one() -> None:
    assert primary_measure([100, 20]) == "top1"
    assert primary_measure([101, 20]) == "macro_recall"
    assert primary_measure([7]) == "top1"
    assert primary_measure(np.array([50, 0])) == "macro_recall"
    with pytest.raises(DataError):
        primary_measure([])


def test_holm_matches_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
    with pytest.raises(UsageError):
        holm([0.5, 1.5])


def test_holm_never_beats_the_raw_and_is_capped_by_bonferroni() -> None:
    p = np.random.default_rng(0).random(20)
    adjusted = np.array(holm(p))
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(p * 20, 1) + 1e-12).all()
    assert (np.argsort(adjusted, kind="stable")[:1] == np.argsort(p)[:1]).all()


def test_a_test_that_could_only_show_more_than_half_of_everything_shows_none():
    """As the page says it: nobody has to be told of differences above 54 points."""
    rng = np.random.default_rng(0)
    said = []
    for _ in range(60):
        control, method = ((rng.random((2, 24)) < 0.6).astype(float) for _ in range(2))
        found = compare(control, method)
        if found.outcome == "no difference shown":
            said.append((found.as_dict()["detectable"]["now"] > 0.5, "can show none reliably" in found.statement))
    assert {hopeless for hopeless, _ in said} == {True, False}
    assert all(hopeless == none for hopeless, none in said)
