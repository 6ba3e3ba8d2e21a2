"""Whose a folder is: that of the run that is asked for, that of another run, or somebody's own. No torch."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from shlex import quote
from typing import Any

from sapling.assignments import read_yaml
from sapling.config import AUTO, MethodBlock, RunConfig
from sapling.errors import RunError, SaplingError, UsageError

SPLIT_FILE = "split.csv"
STOPPED_FILE, ENVIRONMENT = "stopped.json", "environment.json"
CHOSEN = "chosen.json"  # what the settings leave open and the run chose
STUDENTS_ALONE = {"num_seeds", "half_size_share", "members_per_pass"}  # settings of training that no teacher hears of
FIRST_FILES = {
    "config.yaml",
    ENVIRONMENT,
    "data.json",
    "machine.json",
    CHOSEN,
    "log.txt",
    SPLIT_FILE,
    STOPPED_FILE,
}


def refuse_foreign_folder(folder: Path) -> None:
    """Never write into a folder that holds something else.

    Raises:
        UsageError: it is a file, or holds files and no run.
    """
    if folder.is_file():
        raise UsageError("the output is a file", where=str(folder), allowed="a folder")
    names = {p.name for p in folder.iterdir() if not p.name.startswith(".")} if folder.is_dir() else set()
    if names and not _is_a_run(folder, names):
        raise UsageError(
            "the output folder holds other files and is no run",
            where=str(folder),
            remedy="give an empty or new folder with --output",
        )


def refuse_own_split(folder: Path, config: RunConfig) -> None:
    """Never overwrite the split that a run is told to use.

    Raises:
        UsageError: it lies in the run's own folder.
    """
    given = config.data.split_file
    if given is not None and Path(given).resolve().parent == folder.resolve():
        raise UsageError(
            "the split lies in the output folder, where the run writes its own",
            where=str(given),
            remedy="another --output, or a copy of the split elsewhere",
        )


def _is_a_run(folder: Path, names: set[str]) -> bool:
    """Whether the settings in a folder are those of a run, damaged or not; or it was killed before they were kept."""
    if "config.yaml" not in names:
        try:
            return names == {ENVIRONMENT} and "started" in json.loads((folder / ENVIRONMENT).read_text())
        except (OSError, ValueError, TypeError):
            return False
    if ENVIRONMENT in names:
        return True
    return any(has_stamp(folder, f"{task}:", whole=False) for task in ("distill", "train"))


def is_untouched(folder: Path) -> bool:
    """Whether nothing was trained here: such a folder belongs to nobody."""
    return {p.name for p in folder.iterdir() if not p.name.startswith(".")} <= FIRST_FILES


def is_this_run(folder: Path, config: RunConfig, task: str) -> bool:
    """Whether a folder holds the run of these settings; if not, nothing of a run is there but its first files.

    Raises:
        UsageError: it holds a run with other settings.
        RunError: its settings are damaged.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        return False
    old = _read_settings(path)
    if old.pop("fingerprint", None) == stamp_of(config, task):
        return True
    if is_untouched(folder):
        return False
    changed = _differences(old, config.model_dump(mode="json"))
    raise UsageError(
        "this folder holds a run with other settings" + (f": {changed}" if changed else ""),
        where=str(folder),
        remedy=f"--output {free_folder(str(folder), config, task)}, or the old settings",
    )


def stamp_of(config: RunConfig, task: str) -> str:
    """What tells whether a folder's run is this run; no method and no teacher has a part in training alone."""
    if task != "distill":  # what stood in the settings when the first such runs were made
        config = config.model_copy(update={"method": MethodBlock(name="kd")})
        if config.teacher.model == AUTO:
            config = config.model_copy(update={"teacher": config.teacher.model_copy(update={"model": "resnet18"})})
    return f"{task}:{config.fingerprint()}"


def free_folder(base: str, config: RunConfig, task: str) -> str:
    """``base``, or ``base-2``, ``base-3``, .. : the first that is free or holds this very run."""
    for number in itertools.count(1):
        folder = Path(base if number == 1 else f"{base}-{number}")
        names = {p.name for p in folder.iterdir() if not p.name.startswith(".")} if folder.is_dir() else set()
        if not folder.exists() or names <= FIRST_FILES:
            break
        if has_stamp(folder, stamp_of(config, task)):
            break
    return str(folder)


def has_stamp(folder: Path, stamp: str, *, whole: bool = True) -> bool:
    """Whether a folder holds the run of this stamp (see :func:`stamp_of`), or of one that begins so."""
    file = folder / "config.yaml"
    return file.is_file() and f"fingerprint: {stamp}" + "\n" * whole in file.read_text(errors="replace")


def run_folder(config: RunConfig, task: str) -> str:
    """The folder that was asked for; by default one named after data, student and method, numbered if need be."""
    return config.output.folder or free_folder(config.default_folder(task), config, task)


def same_teacher(folder: Path, config: RunConfig) -> str:
    """Say which run beside ``folder`` trained the teacher of these images and settings; empty where none did."""
    for run in sorted(folder.parent.glob("*/teacher/card.json")) if config.teacher.model != AUTO else ():
        home = run.parent.parent
        try:
            old, new = load_run_config(home), config.model_dump(mode="json")
            chosen = home / CHOSEN
            if chosen.is_file():
                old["teacher"] = {**old["teacher"], "model": json.loads(chosen.read_text())["teacher"]}
            for blocks in (old, new):
                students = STUDENTS_ALONE | ({"epochs"} if blocks["teacher"]["epochs"] is not None else set())
                blocks["train"] = {k: v for k, v in blocks["train"].items() if k not in students}
                blocks["data"] = {k: v for k, v in blocks["data"].items() if k != "num_views"}
            same = all(old[block] == new[block] for block in ("data", "teacher", "train"))
        except (SaplingError, ValueError, OSError, KeyError, TypeError, AttributeError):
            continue  # somebody's own, or damaged
        if same and home.resolve() != folder.resolve():
            place = quote(str(run.parent))
            return f"{place} was trained with these settings: --teacher {place} learns from it, and trains no other"
    return ""


def _differences(old: Any, new: dict[str, Any]) -> str:
    """``train.epochs was 5, is 6``."""
    found = []
    for block, values in new.items():
        before = old.get(block) if isinstance(old, dict) else None
        if block == "output" or not isinstance(values, dict) or not isinstance(before, dict):
            continue
        keys = sorted({*values, *before})
        found += [
            f"{block}.{k} was {before.get(k)}, is {values.get(k)}" for k in keys if before.get(k) != values.get(k)
        ]
    return "; ".join(found[:5])


def load_run_config(folder: str | Path) -> dict[str, Any]:
    """The blocks of a run folder's ``config.yaml``, for ``--resume`` and ``export``."""
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise UsageError("no run is here: config.yaml is missing", where=str(folder), remedy="give a run folder")
    content = _read_settings(path)
    content.pop("fingerprint", None)
    return content


def refuse_code(blocks: dict[str, Any], *, named: str | None, remedy: str) -> None:
    """Never run a Python file because the settings in a run folder name it: the folder may be somebody else's.

    Args:
        blocks: of the run.
        named: the method that the user names beside the folder; a file that is named there is meant.
        remedy: a command that names it, up to its ``--method``.

    Raises:
        UsageError: the settings name one, and the user does not; or the user names another method.
    """
    block = blocks.get("method")
    own = block.get("name") if isinstance(block, dict) else block
    if _names_code(block) and (named is None or named != own):
        raise UsageError(
            f"the settings of this run name a Python file, which would be run: {str(own)!a}",
            allowed="a method of sapling methods; or a file of your own that you name",
            remedy=f"{remedy} --method {quote(str(own))}, if you trust it",
        )
    if named is not None and named != own:
        raise UsageError(f"the method of this run is {str(own)!a}, not {named!r}", remedy=remedy)


def _names_code(block: Any) -> bool:
    if isinstance(block, dict):
        return any(map(_names_code, (*block.keys(), *block.values())))
    if isinstance(block, (list, tuple)):
        return any(map(_names_code, block))
    return re.search(r"\.py\s*(\+|$)", str(block), re.IGNORECASE) is not None  # alone, or joined with others


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        content = None
    if not isinstance(content, dict):
        raise RunError("config.yaml of the run is damaged", where=str(path))
    return {str(k): v for k, v in content.items()}
