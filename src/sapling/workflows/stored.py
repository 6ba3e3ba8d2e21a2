"""Read what a finished run of ``sapling distill`` kept of its students' answers on the test images. No torch.

A run folder may come from anyone: nothing in it is run, nothing outside of it is read (no name and no link leads out),
and sizes are checked before anything large is read.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from sapling.errors import RunError, UsageError
from sapling.evaluation.metrics import confusion_matrix, macro_scores
from sapling.evaluation.multilabel import average_precision
from sapling.evaluation.verdict import AnyMeasure
from sapling.record import FORMAT, SPLIT_FILE, read_json
from sapling.report.confined import MAX_JSON, MAX_SETTINGS, is_deep, is_within
from sapling.report.folder import block, inner, listing, number
from sapling.report.unfinished import advice, read_stop
from sapling.run_folders import load_run_config

CONTROL = "control"
_MAX_SEEDS = 1000
_MAX_LOGITS, _MAX_KEPT = 2**28, 2**29  # numbers: of one member, and of all that is kept of a run
_MAX_HEADER = 2**20  # bytes of an answers' file beside its numbers
_DTYPES = {"logits": "F32", "labels": "I64", "groups": "I64"}


@dataclass(frozen=True, slots=True)
class Answers:
    """What one arm of a run answered.

    Attributes:
        given: by seed: ``[n]`` predicted classes, or logits ``[n,K]`` where images may have several labels.
        digests: by seed: sha256 of the logits.
        scores: by seed: the measure.
    """

    given: Mapping[int, NDArray[Any]]
    digests: Mapping[int, str]
    scores: Mapping[int, float]

    def table(self, seeds: Sequence[int]) -> NDArray[Any]:
        """``[S,n]`` or ``[S,n,K]``."""
        return np.stack([self.given[seed] for seed in seeds])


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A finished run, as far as a comparison needs it.

    Attributes:
        folder: as it was given.
        results: ``results.json``.
        settings: blocks of ``config.yaml``, not checked.
        method: name of the distilled arm.
        measure: of its verdict.
        confidence: of its verdict.
        control: answers of the students that were trained alone.
        distilled: answers of the distilled students.
        truth: ``[n]`` classes or ``[n,K]`` targets of the test images.
        groups: ``[n]`` numbers of images that belong together, or None.
        test_keys: sha256 of the test images' names in their order, or None where the run kept no split.
    """

    folder: Path
    results: Mapping[str, Any]
    settings: Mapping[str, Any]
    method: str
    measure: AnyMeasure
    confidence: float
    control: Answers
    distilled: Answers
    truth: NDArray[np.int64]
    groups: NDArray[np.int64] | None
    test_keys: str | None

    @property
    def manifest(self) -> dict[str, Any]:
        """The frozen settings of the run."""
        return block(self.results, "manifest")

    @property
    def is_taught(self) -> bool:
        """Whether its students heard the teacher, which a method without one only has measured beside them."""
        return self.manifest.get("taught") is not False

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return self.truth.ndim == 2

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that control and distilled student were trained with."""
        return tuple(sorted(self.control.given))


def read_stored(folder: str | Path) -> StoredRun:
    """Read a finished run.

    Raises:
        UsageError: there is no run of ``sapling distill``, or it is not finished, or of another format.
        RunError: a file is missing or damaged.
    """
    place = Path(folder)
    results = _results(place)
    arms: dict[str, dict[int, str]] = {}
    for member in listing(results, "members"):
        arm, seed = inner(member, "arm"), inner(member, "seed")
        if not isinstance(arm, str) or not isinstance(seed, int) or isinstance(seed, bool) or len(arms) > 2:
            raise _damaged(place, "a member has no arm or no seed")
        arms.setdefault(arm, {})[seed] = f"{arm}-s{seed}"
    names = [arm for arm in arms if arm != CONTROL]
    if CONTROL not in arms or len(names) != 1 or arms[CONTROL].keys() != arms[names[0]].keys():
        raise _damaged(place, "it does not hold a control and a distilled student for every seed")
    if len(arms[CONTROL]) > _MAX_SEEDS:
        raise _damaged(place, f"it claims {len(arms[CONTROL])} seeds")
    verdict = block(results, "comparison", "verdict")
    measure, confidence = verdict.get("measure"), number(verdict.get("confidence"))
    if measure not in ("top1", "macro_recall", "map") or confidence is None or not 0.5 < confidence < 1:
        raise _damaged(place, "its verdict names no known measure and confidence")
    if (measure == "map") != (results.get("multi_label") is True):
        raise _damaged(place, f"its verdict is on {measure}, which its labels have not")
    num_images = number(inner(results, "manifest", "split", "test"))
    shape = (int(num_images or 0), len(listing(results, "classes")))
    if shape[0] < 1 or shape[1] < 2:
        raise _damaged(place, "it has no test images or fewer than two classes")
    kept = sum(map(len, arms.values())) * shape[0] * (shape[1] if measure == "map" else 1)
    if shape[0] * shape[1] > _MAX_LOGITS or kept > _MAX_KEPT:
        raise _damaged(
            place, f"it claims answers to {shape[0]:,} images of {shape[1]:,} classes, which is more than fits"
        )
    found: dict[str, Answers] = {}
    truth: NDArray[np.int64] | None = None
    groups: NDArray[np.int64] | None = None
    for arm, members in arms.items():
        answers = Answers({}, {}, {})
        found[arm] = answers
        for seed, name in members.items():
            logits, labels, own = _read_logits(place, name, shape, several=results.get("multi_label") is True)
            if truth is None:
                truth, groups = labels, own
            elif not np.array_equal(labels, truth) or not _same(own, groups):
                raise _damaged(place, "its members were not measured on the same images", f"members/{name}")
            _keep(answers, seed, logits, labels, measure)
    _check_scores(place, results, found)
    assert truth is not None
    if groups is None and verdict.get("num_groups") != verdict.get("num_images"):
        raise RunError(
            "its test images come in groups, and it was made before runs kept which images belong together",
            where=str(place),
            remedy="run its command again with another --output",
        )
    return StoredRun(
        folder=place,
        results=results,
        settings=_settings(place),
        method=names[0],
        measure=measure,
        confidence=confidence,
        control=found[CONTROL],
        distilled=found[names[0]],
        truth=truth,
        groups=groups,
        test_keys=_test_keys(place),
    )


def _results(place: Path) -> dict[str, Any]:
    if not place.is_dir():
        raise UsageError(f"no run folder {str(place)!r}", where=str(place), remedy="sapling compare runs/A runs/B")
    path = _inside(place, "results.json")
    if not path.is_file():
        if (place / "config.yaml").is_file():
            stop = read_stop(place)
            raise UsageError(
                "this run is not finished: it has no results.json" + (f"; it {stop.said}" if stop else ""),
                where=str(place),
                remedy=advice(str(place), "distill", stop),
            )
        raise UsageError("no run is here: results.json is missing", where=str(place), allowed="run folders")
    if path.stat().st_size > MAX_JSON:
        raise _damaged(place, f"results.json is larger than {MAX_JSON >> 20} MB")
    results = read_json(path)
    if is_deep(results):
        raise _damaged(place, "results.json is nested too deeply")
    if not isinstance(results, dict):
        raise _damaged(place, "results.json holds no results")
    if results.get("task") != "distill":
        raise UsageError(
            "this run compares nothing: it has no control and no distilled student",
            where=str(place),
            allowed="run folders of sapling distill",
        )
    if results.get("format") != FORMAT:
        raise UsageError(
            f"this run has the format {str(results.get('format'))[:20]}", where=str(place), allowed=f"format {FORMAT}"
        )
    return results


def _settings(place: Path) -> dict[str, Any]:
    path = _inside(place, "config.yaml")
    if path.is_file() and path.stat().st_size > MAX_SETTINGS:
        raise _damaged(place, f"config.yaml is larger than {MAX_SETTINGS >> 20} MB")
    try:
        settings = load_run_config(place)
    except RecursionError:
        settings = None
    if settings is None or is_deep(settings):
        raise _damaged(place, "config.yaml is nested too deeply")
    return settings


def _inside(place: Path, *names: str) -> Path:
    """A path in the run folder; neither a name nor a link may lead out of it."""
    path = place.joinpath(*names)
    if any(c in name for name in names for c in "/\\\0") or not is_within(path, place):
        raise _damaged(place, f"a name or a link leads out of the run: {'/'.join(names)[:120]!r}")
    return path


def _read_logits(
    place: Path, name: str, shape: tuple[int, int], *, several: bool
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64] | None]:
    """Logits ``[n,K]``, truth and groups of a member; shapes and types are checked before anything is read."""
    path = _inside(place, "members", name, "test_logits.safetensors")
    if not path.is_file():
        raise _damaged(place, f"the answers of {name[:80]} are missing", f"members/{name}")
    wanted = {"logits": [*shape], "labels": [*shape] if several else [shape[0]], "groups": [shape[0]]}
    most = sum(math.prod(wanted[key]) * (4 if _DTYPES[key] == "F32" else 8) for key in wanted) + _MAX_HEADER
    if (size := path.stat().st_size) > most:
        raise _damaged(
            place, f"the answers take {size:,} bytes, and so many images need {most:,}", f"members/{name}/{path.name}"
        )
    read: dict[str, NDArray[Any]] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for key in ("logits", "labels", *({"groups"} & set(file.keys()))):
                part = file.get_slice(key)
                if part.get_shape() != wanted[key] or part.get_dtype() != _DTYPES[key]:
                    raise _damaged(
                        place, f"{key} have shape {part.get_shape()}, not {wanted[key]}", f"members/{name}/{path.name}"
                    )
                read[key] = file.get_tensor(key)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(place, f"the answers cannot be read ({error})", f"members/{name}/{path.name}") from None
    logits, labels = read["logits"], read["labels"]
    if not np.isfinite(logits).all() or labels.min() < 0 or labels.max() > (1 if several else shape[1] - 1):
        raise _damaged(place, "answers or labels are no such numbers", f"members/{name}/{path.name}")
    return logits, labels, read.get("groups")


def _keep(answers: Answers, seed: int, logits: NDArray[np.float32], truth: NDArray[np.int64], measure: str) -> None:
    given: NDArray[Any] = logits if truth.ndim == 2 else logits.argmax(1).astype(np.int64)
    if measure == "map":
        score = float(np.nanmean(average_precision(logits, truth)))
    elif measure == "macro_recall":
        score = macro_scores(confusion_matrix(given, truth, logits.shape[1]))[1]
    else:
        score = float((given == truth).mean())
    # Containers of a frozen record are filled once, here.
    for kept, value in ((answers.given, given), (answers.digests, _digest(logits)), (answers.scores, score)):
        kept[seed] = value  # type: ignore[index]


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _same(first: NDArray[Any] | None, second: NDArray[Any] | None) -> bool:
    if first is None or second is None:
        return first is second
    return np.array_equal(first, second)


def _check_scores(place: Path, results: Mapping[str, Any], found: Mapping[str, Answers]) -> None:
    """The answers are those that the results were made of."""
    measure = str(inner(results, "comparison", "verdict", "measure"))
    for member in listing(results, "members"):
        said = number(inner(member, "test", measure))
        arm, seed = member["arm"], member["seed"]
        if said is None or abs(said - found[arm].scores[seed]) > 1e-6:
            raise _damaged(
                place,
                f"the answers of {arm[:80]}, seed {seed}, are not those of results.json: "
                f"{measure} {found[arm].scores[seed]:.4f} instead of {'nothing' if said is None else f'{said:.4f}'}",
            )


def _test_keys(place: Path) -> str | None:
    """Sha256 of the names of the test images, in their order."""
    path = _inside(place, SPLIT_FILE)
    if not path.is_file() or path.stat().st_size > MAX_JSON:
        return None
    digest = hashlib.sha256()
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            for row in csv.reader(file):
                if row[1:] == ["test"]:
                    digest.update(row[0].encode("utf-8", errors="surrogateescape") + b"\0")
    except (csv.Error, OSError):
        return None
    return digest.hexdigest()


def _damaged(place: Path, what: str, inside: str | None = None) -> RunError:
    where = str(place / inside) if inside else str(place)
    return RunError(f"this run cannot be used: {what}", where=where, remedy="run its command again")
