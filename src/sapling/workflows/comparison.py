"""What a comparison of runs holds, and how it says so. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sapling.evaluation.ranks import Standing
from sapling.evaluation.verdict import SEEDS_FOR_HEADLINES, Outcome, Verdict, preliminary
from sapling.workflows.comparable import Difference

CONTROL_NAME = "the same student trained alone"
UNEVEN = (
    "Test images come in groups of unequal sizes: gains, verdicts and ranks count every group alike, the levels beside "
    "them every image, so that the gain is not quite the difference of two levels."
)
MOST_NAMED = 6  # in a sentence; of more it gives the number


@dataclass(frozen=True, slots=True)
class Controls:
    """Whether the runs trained the same control.

    Attributes:
        are_one: its answers on the test images are the same in all runs, under every shared seed.
        to_the_bit: so are its logits.
        scores: by seed, the measure; of the one control, else empty.
        statement: the same in words.
    """

    are_one: bool
    to_the_bit: bool
    scores: tuple[float, ...]
    statement: str


@dataclass(frozen=True, slots=True)
class MethodResult:
    """One run: what its method gained over its own control.

    Attributes:
        name: how the comparison calls it; unique.
        folder: of the run.
        method: name of the method.
        settings: of the method, where they are not its defaults.
        scores: the measure on the test images, one per shared seed.
        control_scores: the same of its control.
        verdict: method against control on the shared seeds.
        p_adjusted: Holm (1979) over all runs.
        outcome: of the verdict after this adjustment.
        standing: among all methods (and the control, where it is one).
        student_seconds: training of one student, mean over its seeds.
        control_seconds: training of one control.
        phase_seconds: what the method learns before there are students, once for all seeds.
        teacher_seconds: training of the teacher and its answers, as the run recorded them.
        parameters: of the student.
        macs: of the student.
        latency_ms: median time for one image, where it was measured.
        latency_of: ``ONNX`` or ``torch``.
        teacher: ``model``, ``sha256``, ``score`` (the measure on the test images), ``gate`` (whether it passed),
            ``taught`` (whether the students heard it).
        command: that made the run.
    """

    name: str
    folder: str
    method: str
    settings: str
    scores: tuple[float, ...]
    control_scores: tuple[float, ...]
    verdict: Verdict
    p_adjusted: float
    outcome: Outcome
    standing: Standing
    student_seconds: float | None
    control_seconds: float | None
    phase_seconds: float | None
    teacher_seconds: float | None
    parameters: int | None
    macs: int | None
    latency_ms: float | None
    latency_of: str
    teacher: Mapping[str, Any]
    command: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Two methods over the same seeds and test images: ``second`` minus ``first``.

    Attributes:
        first: name of a method.
        second: name of a method.
        verdict: of their students' answers, whatever their controls are.
        p_adjusted: Holm (1979) over all pairs.
        outcome: of the verdict after this adjustment.
    """

    first: str
    second: str
    verdict: Verdict
    p_adjusted: float
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Comparison:
    """What ``sapling compare`` finds.

    Attributes:
        measure: that all runs declared.
        confidence: of the intervals.
        seeds: that all runs have; all figures are of these.
        num_images: test images.
        num_groups: independent ones.
        methods: one per run, in the given order.
        pairs: all pairs of them.
        controls: whether they are one.
        control_standing: of the control, where it is one.
        allowed: what differs and was allowed to.
        statement: the outcome in one sentence.
        between: what the pairs say, in one sentence.
        scope: what all of it is conditional on.
        notes: what a reader must know.
        student: name of the network.
        split: sizes and fingerprint.
        data: source and fingerprint.
        created: when the comparison was made.
        page: where its page is, or None.
    """

    measure: str
    confidence: float
    seeds: tuple[int, ...]
    num_images: int
    num_groups: int
    methods: tuple[MethodResult, ...]
    pairs: tuple[Pair, ...]
    controls: Controls
    control_standing: Standing | None
    allowed: tuple[Difference, ...]
    statement: str
    between: str
    scope: str
    notes: tuple[str, ...]
    student: str
    split: Mapping[str, Any]
    data: Mapping[str, Any]
    created: str
    page: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON types."""
        found: dict[str, Any] = plain(self)
        return found


def statement_of(methods: Sequence[MethodResult], verdict: Verdict) -> str:
    """One sentence on all methods against their controls, after adjustment; with one seed on their students alone."""
    is_single = verdict.num_seeds == 1
    found = {o: [m.name for m in methods if m.outcome == o] for o in ("better", "worse", "no difference shown")}
    parts = []
    for outcome in ("better", "worse"):
        if names := found[outcome]:
            does = f"did {outcome}" if is_single else f"{'is' if len(names) == 1 else 'are'} {outcome}"
            parts.append(f"{_subject(names, is_single=is_single)} {does} than {CONTROL_NAME}")
    if none := found["no difference shown"]:
        which = _subject(none, is_single=is_single) if parts else "any of them"
        parts.append(f"no difference to {'it' if parts else CONTROL_NAME} is shown for {which}")
    of = f"With this one seed, of {len(methods)} trained students" if is_single else f"Of {len(methods)} methods"
    caveat = "; this says nothing of the methods" if is_single else preliminary(verdict.num_seeds)
    seeds = "one seed" if is_single else f"{verdict.num_seeds} seeds"
    counts = f"{seeds}, {verdict.num_images:,} test images; {100 * verdict.confidence:.4g} % after Holm"
    return f"{of}, {'; '.join(parts)}{caveat} ({counts})."


def _subject(names: Sequence[str], *, is_single: bool) -> str:
    named = words(names) if len(names) <= MOST_NAMED else f"{len(names)} of them"
    if not is_single or len(names) > MOST_NAMED:
        return named
    return f"{'that' if len(names) == 1 else 'those'} of {named}"


def between_of(pairs: Sequence[Pair]) -> str:
    """One sentence on all pairs of methods, after adjustment; the better one of a pair stands first."""
    num_seeds = pairs[0].verdict.num_seeds
    is_single, caveat = num_seeds == 1, preliminary(num_seeds)
    form = "that of {} did better than that of {}" if is_single else "{} is better than {}"
    what = "students" if is_single else "methods"
    shown_pairs = [
        form.format(*((p.second, p.first) if p.outcome == "better" else (p.first, p.second)))
        for p in pairs
        if p.outcome != "no difference shown"
    ]
    if not shown_pairs:
        which = f"the two {what}" if len(pairs) == 1 else f"any two of them ({len(pairs)} pairs)"
        return f"Between {which} no difference is shown{caveat}."
    if len(shown_pairs) > MOST_NAMED:
        return f"Of {len(pairs)} pairs of {what}, {len(shown_pairs)} differ{caveat}."
    rest = len(pairs) - len(shown_pairs)
    more = f"; no difference is shown in {rest} other pair{'' if rest == 1 else 's'}" if rest else ""
    return f"Between the {what}: {words(shown_pairs)}{more}{caveat}."


def scope_of(methods: Sequence[MethodResult], num_seeds: int) -> str:
    """What all figures are conditional on."""
    heard = [m.teacher for m in methods if m.teacher["taught"]]
    teachers = {card["sha256"] for card in heard}  # one may have another name where it was given as a folder
    which = f"the {len(teachers)} teachers of these runs" if len(teachers) > 1 else "no teacher"
    if len(teachers) == 1:
        which = f"one teacher ({heard[0]['model']})"
    text = f"Conditional on {which} and one split: other teachers or splits may give another answer."
    if num_seeds == 1:
        return f"{text} With one seed these are statements on trained students, not on methods."
    if num_seeds < SEEDS_FOR_HEADLINES:
        return f"{text} Headline claims need {SEEDS_FOR_HEADLINES} seeds; these are {num_seeds}."
    return text


def words(items: Iterable[object]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    listed = [str(i) for i in items]
    return " and ".join(filter(None, (", ".join(listed[:-1]), *listed[-1:])))


def plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as JSON types."""
    if isinstance(value, Verdict):
        return value.as_dict()
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    return str(value) if isinstance(value, Path) else value
