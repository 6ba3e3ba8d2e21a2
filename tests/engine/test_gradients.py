"""The pull of each term: the numbers are right, and training never notices that it was measured."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sapling.engine import gradients, trainer
from sapling.engine.gradients import COST, ENOUGH, FEWEST, is_due, stride, term_norms, total_norm
from sapling.engine.trainer import fit
from sapling.types import Step


def bits(member):
    return {k: v.clone() for k, v in member.student.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_measuring_every_step_changes_no_bit(data, make_member, teacher, settings, monkeypatch):
    def trained(due):
        monkeypatch.setattr(trainer, "is_due", lambda number, every: due)
        members, rows = [make_member("control"), make_member("kd", "kd"), make_member("dkd", "dkd")], []
        fit(members, data, settings(2), teacher=teacher, report=rows.extend)
        return members, rows

    (plain, unseen), (watched, seen) = trained(False), trained(True)
    assert not any("gradients" in row for row in unseen)
    assert all(row["gradients"]["steps"] == 4 for row in seen)
    for a, b in zip(plain, watched, strict=True):
        assert same(bits(a), bits(b))
    assert [r["train"] for r in unseen] == [r["train"] for r in seen]


def test_norms_are_those_of_one_backward_pass_per_term(data, make_member, teacher):
    member = make_member("dkd", "dkd", weights={"ce": 0.5, "tckd": 2.0, "nckd": 0.25})
    batch = next(data.train_batches(0, batch_size=10, seed=0))
    target = teacher.outputs(batch)

    def terms():
        return member.method(member.student(batch.images), target, batch, Step(progress=0.5))

    found = term_norms(terms(), member.weights, member.student)
    assert all(p.grad is None for p in member.student.parameters()), "it left gradients behind"
    assert found.keys() == {"ce", "tckd", "nckd"}
    for name, value in found.items():
        member.student.zero_grad()
        (terms()[name] * member.weights[name]).backward()
        squares = [float(x) ** 2 for p in member.student.parameters() for x in p.grad.double().flatten().tolist()]
        assert float(value) == pytest.approx(math.sqrt(sum(squares)), rel=1e-4)
        assert float(total_norm(member.student, value)) == pytest.approx(float(value), rel=1e-4)


def test_a_term_that_does_not_reach_the_student_pulls_with_nothing(make_member):
    own = torch.ones((), requires_grad=True)
    found = term_norms({"a": own * 2, "b": torch.ones(())}, {"a": 1.0, "b": 1.0}, make_member("m").student)
    assert {k: float(v) for k, v in found.items()} == {"a": 0.0, "b": 0.0}


def test_rows_hold_the_pulls_and_a_single_term_is_the_whole(data, make_member, teacher, settings):
    rows = []
    fit([make_member("control"), make_member("kd", "kd")], data, settings(4), teacher=teacher, report=rows.extend)
    assert len(rows) == 8
    found = [row for row in rows if "gradients" in row]
    control, taught = ([r["gradients"] for r in found if r["member"] == name] for name in ("control", "kd"))
    assert len(control) == len(taught) == 2  # sixteen steps in four epochs: two of them
    for alone, pair in zip(control, taught, strict=True):
        assert alone.keys() == {"ce", "total", "steps"}
        assert pair.keys() == {"ce", "kd", "total", "steps"}
        assert alone["ce"] == alone["total"] > 0
        assert abs(pair["ce"] - pair["kd"]) <= pair["total"] + 1e-5
        assert pair["total"] <= pair["ce"] + pair["kd"] + 1e-5


def test_nothing_is_measured_where_no_member_has_two_terms(data, make_member, settings):
    rows = []
    fit([make_member("control")], data, settings(1), report=rows.extend)
    assert "gradients" not in rows[0]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.integers(1, 20_000))
def test_measuring_stays_within_its_share_of_the_time(num_terms, total):
    every = stride(num_terms, total)
    extra = sum(n for n in num_terms if n > 1)
    if not extra:
        assert every is None
        assert not is_due(0, every)
        return
    due = sum(is_due(number, every) for number in range(total))
    assert due >= min(FEWEST, total)
    paid = gradients.BACKWARD * extra * due / (len(num_terms) * total)  # in steps of all members
    if due > 2 * ENOUGH:  # the last stretch may be cut behind its middle: half a measurement more than its share
        assert paid <= 1.07 * COST
    elif due > FEWEST + 1:
        assert paid <= 2 * 1.25 * COST


@pytest.mark.parametrize(
    ("total", "measured", "share"),
    # one term against two, so a measured step costs two thirds of a step of both
    [(1, 1, 1), (2, 2, 1), (40, 2, 0.034), (100, 3, 0.02), (160, 4, 0.017), (280, 4, 0.01), (700, 10, 0.01)],
)
def test_a_short_run_pays_little_for_it_too(total, measured, share):
    every = stride([1, 2], total)
    assert sum(is_due(number, every) for number in range(total)) == measured
    assert gradients.BACKWARD * measured / total <= share
