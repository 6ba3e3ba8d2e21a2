"""``sapling cache build`` and ``verify``: the kept answers of a teacher without a training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

from sapling import methods
from sapling.config import AUTO, RunConfig, build
from sapling.data.answers import AnswerStore, answers_folder, bytes_there
from sapling.data.layout import printable
from sapling.data.loader import Dataset
from sapling.errors import RunError, UsageError
from sapling.models.tapped import TappedModel
from sapling.record import Run, read_json
from sapling.run_folders import load_run_config, refuse_code
from sapling.screen import Screen
from sapling.teachers.build_cache import Verification, bytes_per_view, shapes_of, verify_answers
from sapling.types import Taps, Teacher
from sapling.workflows.answers import FILE, VIEWS, fingerprint, keep, open_store_of, recorded, size_in_words
from sapling.workflows.dataset import open_checked
from sapling.workflows.gate import refuse_replaced
from sapling.workflows.latents import Encodes, latent_teacher
from sapling.workflows.networks import is_given
from sapling.workflows.pair import student_network
from sapling.workflows.passes import Machine, check_names, pair_info, prepare_machine, preprocess_for
from sapling.workflows.phases import put_phases
from sapling.workflows.teacher import CheckedTeacher, get_teacher


@dataclass(frozen=True, slots=True)
class Kept:
    """What was built.

    Attributes:
        folder: where it lies.
        num_views: V.
        num_images: n.
        parts: what is kept of each view: ``logits``, and the method's taps, or the latents that it makes of them.
        num_bytes: that it takes.
        seconds: that it took; 0 where all was there.
    """

    folder: Path
    num_views: int
    num_images: int
    parts: tuple[str, ...]
    num_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Open:
    data: Dataset
    teacher: CheckedTeacher
    live: Teacher
    machine: Machine
    taps: tuple[str, ...]
    batch_size: int

    @property
    def num_bytes(self) -> int:
        shapes = {tap: self.live.shapes[tap] for tap in self.taps}
        return self.data.num_views * bytes_per_view(self.data, shapes)


def build_kept(blocks: dict[str, Any], screen: Screen) -> Kept:
    """Ask a trained teacher for its answers to all views, as ``distill`` with the same settings would.

    Args:
        blocks: as of ``distill``, or those of a run: see :func:`blocks_of_run`.
        screen: where progress is shown.

    Raises:
        UsageError: the teacher is not trained yet, or the method asks none.
    """
    with _opened(blocks, screen) as found:
        screen.say(f"the answers take {size_in_words(found.num_bytes)}")
        cached, seconds = keep(
            found.data, found.teacher, found.live, found.machine, found.taps, found.batch_size, screen
        )
        store = cached.store
        parts = ("logits", *found.taps)
        kept = Kept(store.place, store.num_views, len(store.rows), parts, found.num_bytes, seconds)
        store.close()
        return kept


def verify_kept(blocks: dict[str, Any], screen: Screen) -> tuple[AnswerStore, Verification]:
    """Ask the teacher again about a sample of what is kept.

    Raises:
        RunError: nothing is kept, or something is missing.
    """
    with _opened(blocks, screen) as found:
        of = fingerprint(found.data, found.teacher, found.machine)
        if not bytes_there(of, found.data.split.train, num_views=found.data.num_views):
            raise RunError(
                "no answers of this teacher to these views are kept here",
                where=str(answers_folder()),
                remedy="sapling cache build, with the same settings, or set SAPLING_CACHE to the folder that has them",
            )
        store = open_store_of(found.data, found.teacher, found.machine)
        parts = tuple(shapes_of(found.data, {tap: found.live.shapes[tap] for tap in found.taps}))
        damaged, lacking = store.drop_damaged(parts), store.missing(parts)
        if damaged or lacking:
            what = f"{len(damaged)} files are damaged ({', '.join(damaged[:3])})"
            there = f"{len(lacking)} of {store.num_views} views are missing"
            store.close()
            raise RunError(
                f"the kept answers are not whole: {what if damaged else there}",
                where=str(store.place),
                remedy="sapling cache build, with the same settings, makes anew what is missing",
            )
        result = verify_answers(
            store, found.live, found.data, taps=found.taps, batch_size=found.batch_size, device=found.machine.device
        )
        store.close()
        return store, result


def blocks_of_run(folder: Path, named: str | None = None) -> dict[str, Any]:
    """The settings of a run that keeps answers, with its own teacher as the one that is given.

    Args:
        folder: of the run.
        named: its method, where that is a file of the user's own.

    Raises:
        UsageError: it is no such run, or of another method.
    """
    blocks = load_run_config(folder)
    refuse_code(blocks, named=named, remedy=f"sapling cache verify {quote(str(folder))}")
    found = read_json(folder / FILE) if (folder / FILE).is_file() else {}
    record = found if isinstance(found, dict) else {}
    if not record.get("kept") or not (folder / "teacher" / "card.json").is_file():
        why = f": {printable(str(record['reason']))}" if record.get("reason") and not record.get("kept") else ""
        raise UsageError(
            f"this run keeps no answers of a teacher{why}",
            where=str(folder),
            allowed="a run of sapling distill whose log says that they were kept, or data and --teacher PATH",
        )
    blocks["data"] = {**blocks["data"], "num_views": record["num_views"]}
    blocks["output"] = {"folder": str(folder)}
    return blocks


@contextmanager
def _opened(blocks: dict[str, Any], screen: Screen) -> Iterator[_Open]:
    config = build(blocks)
    views = config.data.num_views or VIEWS
    requires = methods.requires(config.method.name, **config.method.options)
    if not requires.teacher or requires.live_teacher:
        raise UsageError(f"method {config.method.arm!r} hears no kept answers", allowed="see sapling methods")
    home = Path(config.output.folder) if config.output.folder else None
    is_run = home is not None and (home / "teacher" / "card.json").is_file()
    if not is_run and not is_given(config.teacher.model):
        is_named = config.teacher.model != AUTO
        raise UsageError(
            f"the teacher {config.teacher.model!r} is not trained yet" if is_named else "no teacher is given",
            allowed="a run folder, or data with --teacher PATH of a trained network",
            remedy=f"sapling train {config.data.source}" + (f" --model {config.teacher.model}" if is_named else ""),
        )
    with tempfile.TemporaryDirectory() as spare:
        # A run that is there is read with its own settings; its folder is left as it is.
        if is_run:
            assert home is not None
            reading = _Reading(home, config, task="distill")
            refuse_replaced(reading)
            yield _open(reading, config, views, screen)
            return
        check_names(config, "distill")
        with Run(Path(spare) / "run", config, task="distill") as run:
            run.say = screen.say
            yield _open(run, config, views, screen)


class _Reading(Run):
    """A run whose folder is only read: what would be logged is shown."""

    def note(self, line: str) -> None:
        """Leave the log alone."""

    def log(self, line: str) -> None:
        """Show a line, and leave the log alone."""
        self.say(line)


def _open(run: Run, config: RunConfig, views: int, screen: Screen) -> _Open:
    data = open_checked(config, screen, run)
    machine = prepare_machine(config, run)
    teacher = get_teacher(run, data, machine, screen)
    taps = methods.taps(config.method.name, **config.method.options)
    live: Teacher = teacher.live(machine, taps.teacher)
    heard = taps.teacher
    if recorded(run).get("latents"):
        live = _as_latents(run, data, live, machine, taps)
        heard = tuple(live.shapes)
    return _Open(replace(data, num_views=views), teacher, live, machine, heard, config.evaluate.batch_size)


def _as_latents(run: Run, data: Dataset, live: Teacher, machine: Machine, taps: Taps) -> Teacher:
    """The teacher as students of a run hear it that keeps latents: by what its first phase made."""
    config = run.config
    network = student_network(config, data)
    student = TappedModel(network, preprocess_for(network, data), taps.student)
    method = methods.build(config.method.name, pair_info(data, student, live), **config.method.options)
    put_phases(run, method)
    assert isinstance(method, Encodes)
    return latent_teacher(run, live, machine, method)
