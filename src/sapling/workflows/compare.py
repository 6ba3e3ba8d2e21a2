"""Several methods under one contract: each with its control, all with each other, and how sure that is. No torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapling.errors import UsageError
from sapling.evaluation.ranked import compare_rankings
from sapling.evaluation.ranks import Standing, image_scores, rank_students
from sapling.evaluation.verdict import Outcome, Verdict, holm, layout_of
from sapling.evaluation.verdict import compare as judge_answers
from sapling.record import now
from sapling.report.folder import block, command_of, inner, listing, number
from sapling.report.wording import clean, model_name, shorten
from sapling.workflows.comparable import Difference, refuse_other, shared_seeds, shown
from sapling.workflows.comparison import (
    CONTROL_NAME,
    UNEVEN,
    Comparison,
    Controls,
    MethodResult,
    Pair,
    between_of,
    scope_of,
    statement_of,
    words,
)
from sapling.workflows.stored import CONTROL, StoredRun, read_stored

MAX_RUNS = 50


def compare(runs: Sequence[str | Path], *, allow: Collection[str] = (), output: str | Path | None = None) -> Comparison:
    """Compare finished runs of ``sapling distill``: every method with its control, and the methods with each other.

    The comparisons are those of all given runs; leave none out because of how it came out. Intervals and verdicts are
    those of one comparison each; p-values are adjusted for their number (Holm 1979): over the runs for methods against
    controls, over the pairs for methods against each other.

    Args:
        runs: two or more run folders.
        allow: what may differ: ``student``, ``teacher``, ``budget``, ``recipe``, ``seeds``; all else is refused.
        output: folder or ``.html`` file for the page; None writes none.

    Raises:
        UsageError: fewer than two runs, one of them twice, an unfinished one, or runs that cannot be compared.
        RunError: a run folder is damaged.
    """
    folders, page = _folders(runs), None
    if output is not None:
        from sapling.report.comparison import page_path, write_comparison  # not above: it brings matplotlib

        page = page_path(Path(output))
    stored = [read_stored(folder) for folder in folders]
    names = _names(stored)
    allowed = refuse_other(stored, names, (allow,) if isinstance(allow, str) else allow)
    seeds = shared_seeds(stored)
    _refuse_twice(stored, names, seeds)
    found = _compare(stored, names, seeds, allowed, page)
    if page is not None:
        write_comparison(page, found.as_dict())
    return found


def _compare(
    runs: list[StoredRun], names: list[str], seeds: list[int], allowed: list[Difference], page: Path | None
) -> Comparison:
    first = runs[0]
    tables = [run.distilled.table(seeds) for run in runs]
    verdicts = [
        _judge(run.control.table(seeds), table, first, (name, CONTROL_NAME))
        for run, table, name in zip(runs, tables, names, strict=True)
    ]
    adjusted = holm([v.p_value for v in verdicts])
    pairs = [(a, b) for a, b in combinations(range(len(runs)), 2)]
    pair_verdicts = [_judge(tables[a], tables[b], first, (names[b], names[a])) for a, b in pairs]
    pair_adjusted = holm([v.p_value for v in pair_verdicts])
    controls = _controls(runs, seeds)
    contestants = [*tables, first.control.table(seeds)] if controls.are_one else tables
    scored = [image_scores(table, first.truth, first.measure) for table in contestants]
    layout = None if first.measure == "map" else layout_of(len(first.truth), first.measure, first.truth, first.groups)
    standings = rank_students(
        np.stack([values for values, _ in scored]),
        scored[0][1],
        groups=first.groups,
        weights=None if layout is None else layout.weights,
    )
    methods = tuple(
        _method(run, name, seeds, verdict, p, standing)
        for run, name, verdict, p, standing in zip(runs, names, verdicts, adjusted, standings[: len(runs)], strict=True)
    )
    found_pairs = tuple(
        Pair(names[a], names[b], verdict, p, _outcome(verdict, p))
        for (a, b), verdict, p in zip(pairs, pair_verdicts, pair_adjusted, strict=True)
    )
    return Comparison(
        measure=first.measure,
        confidence=first.confidence,
        seeds=tuple(seeds),
        num_images=verdicts[0].num_images,
        num_groups=verdicts[0].num_groups,
        methods=methods,
        pairs=found_pairs,
        controls=controls,
        control_standing=standings[-1] if controls.are_one else None,
        allowed=tuple(allowed),
        statement=statement_of(methods, verdicts[0]),
        between=between_of(found_pairs),
        scope=scope_of(methods, len(seeds)),
        notes=(*(UNEVEN,) * (layout is not None and layout.is_uneven), *_notes(runs, names, seeds)),
        student=words(dict.fromkeys(model_name(run.manifest.get("student")) for run in runs)),
        split={
            **{k: number(inner(first.manifest, "split", k)) for k in ("train", "val", "test")},
            "fingerprint": clean(inner(first.manifest, "split", "fingerprint")),
        },
        data={k: clean(inner(first.manifest, "data", k)) for k in ("source", "fingerprint")},
        created=now(),
        page=page,
    )


def _folders(runs: Sequence[str | Path]) -> list[Path]:
    if isinstance(runs, str | Path):
        raise UsageError(f"{str(runs)!r} is one run", allowed="a list of two or more run folders")
    folders = [Path(run) for run in runs]
    if not 2 <= len(folders) <= MAX_RUNS:
        given = "no run is" if not folders else "1 run is" if len(folders) == 1 else f"{len(folders)} runs are"
        raise UsageError(
            f"{given} given",
            where=str(folders[0]) if len(folders) == 1 else None,
            allowed=f"2 to {MAX_RUNS} run folders",
            remedy="sapling compare runs/A runs/B; sapling report shows one run",
        )
    seen: dict[Path, Path] = {}
    for folder in folders:
        if (before := seen.get(folder.resolve())) is not None:
            raise UsageError(f"the same run is given twice: {before} and {folder}", allowed="each run once")
        seen[folder.resolve()] = folder
    return folders


def _refuse_twice(runs: list[StoredRun], names: list[str], seeds: list[int]) -> None:
    """A copy of a run is no other run, whatever its settings say: two students that learned differently differ.

    Where a method teaches nothing (``alpha: 1``) its student is the control to the bit, and so are those of others.
    """
    seen: dict[str, tuple[StoredRun, str]] = {}
    for run, name in zip(runs, names, strict=True):
        for seed in seeds:
            digest = run.distilled.digests[seed]
            if digest == run.control.digests[seed]:
                continue
            other, before = seen.setdefault(digest, (run, name))
            if other is run:
                continue
            own, theirs = ((r.method, shown(r.manifest.get("method_config"))) for r in (run, other))
            raise UsageError(
                f"{before} and {name} hold the same answers of the same method: it is one run, given twice"
                if own == theirs
                else f"{before} and {name} hold the same answers to the bit (seed {seed}), though they name other "
                f"methods or settings: {' '.join(theirs)}, and {' '.join(own)}. One is a copy of the other under "
                "other names, or what differs changed nothing",
                where=str(run.folder),
                allowed="each run once",
            )


def _names(runs: list[StoredRun]) -> list[str]:
    """The methods' names; those of one method are told apart by their settings, or else by their folders."""
    methods = [shorten(run.method, 40) for run in runs]
    names = methods
    for more in (_settings_of, lambda run: run.folder.name, lambda run: run.folder):
        if len(set(names)) == len(names):
            return names
        names = [
            f"{m} ({shorten(more(run), 60)})" if methods.count(m) > 1 else m
            for m, run in zip(methods, runs, strict=True)
        ]
    return names if len(set(names)) == len(names) else [f"{m} [{k}]" for k, m in enumerate(methods, 1)]


def _settings_of(run: StoredRun) -> str:
    return shown(run.manifest.get("method_config") or "defaults")


def _judge(first: NDArray[Any], second: NDArray[Any], run: StoredRun, names: tuple[str, str]) -> Verdict:
    """``second`` against ``first``, answers ``[S,n]`` or logits ``[S,n,K]``, by the one model of verdicts."""
    common: dict[str, Any] = {"groups": run.groups, "confidence": run.confidence}
    common |= {"method_name": names[0], "control_name": names[1]}
    if run.measure == "map":
        return compare_rankings(first, second, run.truth, **common)
    right = (answers == run.truth for answers in (first, second))
    return judge_answers(*right, labels=run.truth, measure=run.measure, **common)


def _outcome(verdict: Verdict, p_adjusted: float) -> Outcome:
    return verdict.outcome if p_adjusted < 1.0 - verdict.confidence else "no difference shown"


def _controls(runs: list[StoredRun], seeds: list[int]) -> Controls:
    first = runs[0].control
    other_bits = [s for s in seeds if any(run.control.digests[s] != first.digests[s] for run in runs)]
    # What the measure reads: of several labels that is all of the logits.
    apart = [s for s in other_bits if any(not np.array_equal(r.control.given[s], first.given[s]) for r in runs)]
    seed = "the one shared seed" if len(seeds) == 1 else f"each of the {len(seeds)} shared seeds"
    if apart:
        which = "every shared seed" if len(apart) == len(seeds) else f"seed {words([str(s) for s in apart])}"
        text = (
            f"The controls were trained apart: their answers differ under {which}, by other settings or by another "
            "machine or version. Each method is compared with the control of its own run."
        )
        return Controls(False, False, (), text)
    bits = "to the bit" if not other_bits else "in every answer, though not to the bit"
    text = f"All runs trained the same control: on the test images it agrees {bits} under {seed}."
    return Controls(True, not other_bits, tuple(first.scores[s] for s in seeds), text)


def _method(
    run: StoredRun, name: str, seeds: list[int], verdict: Verdict, p_adjusted: float, standing: Standing
) -> MethodResult:
    results = run.results
    members = [m for m in listing(results, "members") if m["seed"] in seeds]
    own, alone = ([m for m in members if (m["arm"] == CONTROL) == is_control] for is_control in (False, True))
    card, cost = block(results, "teacher"), block(results, "cost")
    teacher_parts = [number(cost.get(k)) for k in ("teacher_seconds", "teacher_forward_seconds")]
    latency, latency_of = _latency(results)
    return MethodResult(
        name=name,
        folder=str(run.folder),
        method=clean(run.method),
        settings=_settings_of(run),
        scores=tuple(run.distilled.scores[s] for s in seeds),
        control_scores=tuple(run.control.scores[s] for s in seeds),
        verdict=verdict,
        p_adjusted=p_adjusted,
        outcome=_outcome(verdict, p_adjusted),
        standing=standing,
        student_seconds=_mean(own, "seconds"),
        control_seconds=_mean(alone, "seconds"),
        phase_seconds=number(cost.get("phase_seconds")),
        teacher_seconds=sum(p for p in teacher_parts if p is not None)
        if run.is_taught and any(teacher_parts)
        else None,
        parameters=_count(own[0].get("parameters")),
        macs=_count(own[0].get("macs")),
        latency_ms=latency,
        latency_of=latency_of,
        teacher={
            "model": clean(card.get("model") or "unknown"),
            "sha256": clean(card.get("sha256") or "unknown"),
            "score": number(inner(card, "test", run.measure)),
            "gate": inner(card, "gate", "passed") is True,
            "taught": run.is_taught,
        },
        command=command_of(results),
    )


def _latency(results: Mapping[str, Any]) -> tuple[float | None, str]:
    """Of the exported file; where there is none, of the network in torch."""
    onnx = number(inner(results, "deploy", "onnx", "latency_ms", "1", "p50"))
    if onnx is not None:
        return onnx, "ONNX"
    for entry in listing(results, "efficiency", "networks"):
        if inner(entry, "role") == "student":
            return number(inner(entry, "latency_ms", "1", "p50")), "torch"
    return None, ""


def _mean(members: list[dict[str, Any]], key: str) -> float | None:
    values = [v for v in (number(m.get(key)) for m in members) if v is not None]
    return float(np.mean(values)) if values else None


def _count(value: Any) -> int | None:
    found = number(value)
    return None if found is None else round(found)


def _notes(runs: list[StoredRun], names: list[str], seeds: list[int]) -> tuple[str, ...]:
    notes = []
    for run, name in zip(runs, names, strict=True):
        if all(run.distilled.digests[s] == run.control.digests[s] for s in seeds):
            notes.append(f"The students of {name} answer as its control to the bit: the method changed nothing.")
        if not run.is_taught:
            notes.append(f"No student of {name} heard a teacher.")
        elif inner(run.results, "teacher", "gate", "passed") is not True:
            notes.append(f"The teacher of {name} did not pass its check: its gain says little about distillation.")
        leaks = [clean(w) for w in listing(run.results, "warnings") if str(w).startswith("Leak")]
        notes += [f"{name} went on with a leak, so its figures are too good. {leak}" for leak in leaks[:3]]
        if left := [s for s in run.seeds if s not in seeds]:
            notes.append(f"Left out of {name}: seed {words([str(s) for s in left])}, which not all runs have.")
    for what, values in (
        ("devices", [run.manifest.get("device") for run in runs]),
        ("numbers of threads", [run.manifest.get("threads") for run in runs]),
        ("versions of Sapling", [run.results.get("sapling_version") for run in runs]),
    ):
        if len(different := list(dict.fromkeys(map(shown, values)))) > 1:
            notes.append(f"The runs were made with different {what}: {words(different)}.")
    return tuple(notes)
