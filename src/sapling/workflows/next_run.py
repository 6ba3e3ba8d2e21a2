"""A run's settings as the command that makes it; and with a few of them changed, the command of the next run.

Only what differs from the defaults is said, with a flag where there is one. The command needs nothing but the images
and a teacher that was given: it does not lean on the old run folder's ``config.yaml``.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Mapping
from typing import Any

import yaml

from sapling.config import RunConfig, build, override
from sapling.methods.combination import key_of, split_name

FLAGS = {
    "data.img_size": "--img-size",
    "data.views": "--views",
    "data.mixup": "--mixup",
    "data.cutmix": "--cutmix",
    "data.group_pattern": "--group-pattern",
    "data.group_column": "--group-column",
    "data.on_bad_image": "--on-bad-image",
    "data.split_file": "--split",
    "teacher.model": "--teacher",
    "teacher.num_teachers": "--teachers",
    "teacher.recipe": "--teacher-recipe",
    "teacher.epochs": "--teacher-epochs",
    "teacher.cache": "--teacher-cache",
    "student.model": "--student",
    "method.name": "--method",
    "method.alpha": "--alpha",
    "method.temperature": "--temperature",
    "train.epochs": "--epochs",
    "train.batch_size": "--batch-size",
    "train.lr": "--lr",
    "train.imbalance": "--imbalance",
    "train.seed": "--seed",
    "train.num_seeds": "--seeds",
    "train.device": "--device",
    "train.precision": "--amp",
    "train.threads": "--threads",
    "train.members_per_pass": "--members-per-pass",
    "output.folder": "--output",
}
SWITCHES = {"data.allow_leaks": "--allow-leaks", "teacher.accept_weak": "--accept-weak-teacher"}
ALWAYS = ("teacher.model", "student.model", "method.name")
"""Said even at their defaults: the three words that tell what a run is."""


def changed(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """``config`` with settings changed, ``{"train.epochs": 30}``; None removes a setting of the method.

    Raises:
        ConfigError: the settings do not fit together.
    """
    blocks = override(config.model_dump(mode="json"), changes)
    parts = [key_of(part) for part in split_name(str(blocks["method"]["name"]))]
    blocks["method"] = _without_none(blocks["method"], parts if len(parts) > 1 else ())
    return build(blocks)


def _without_none(method: Mapping[str, Any], parts: Collection[str]) -> dict[str, Any]:
    """A ``method`` block without settings that are None, those of ``parts`` too."""
    kept = {k: _without_none(v, ()) if k in parts and isinstance(v, Mapping) else v for k, v in method.items()}
    return {k: v for k, v in kept.items() if v is not None}


def command_of(config: RunConfig, task: str = "distill") -> str:
    """The command line that makes a run with these settings."""
    source = config.data.source
    words = ["--set", _assignment("data.source", source)] if source.startswith("-") else [source]
    return shlex.join(["sapling", task, *words, *flags_of(config)])


def flags_of(config: RunConfig, block: str = "") -> list[str]:
    """What a command says of these settings, but for the data; of one ``block`` alone, such as ``teacher.``."""
    settings = _flat(config)
    defaults = _flat(RunConfig.model_validate({"data": {"source": "x"}}))
    del settings["data.source"]
    words: list[str] = []
    said = [k for k in settings if k in ALWAYS or k not in defaults or settings[k] != defaults[k]]
    said = [k for k in said if k.startswith(block)]
    order = [*FLAGS, *SWITCHES]
    # what the run is first, then what was changed; the folder stands last
    said.sort(key=lambda k: (k == "output.folder", k not in ALWAYS, order.index(k) if k in order else len(order)))
    for key in said:
        value = settings[key]
        if key in SWITCHES and value is True:
            words.append(SWITCHES[key])
        elif key == "output.trackers":
            words += [word for name in value for word in ("--track", name)]
        elif key in FLAGS and isinstance(value, str | int | float) and not str(value).startswith("-"):
            words += [FLAGS[key], str(value)]
        else:
            words += ["--set", _assignment(key, value)]
    return words


def _flat(config: RunConfig) -> dict[str, Any]:
    """``block.name`` to value, as JSON types; settings of the method that are None are not there."""
    blocks = config.model_dump(mode="json")
    parts = [f"method.{key_of(part)}" for part in split_name(config.method.name)]
    flat = {f"{block}.{name}": value for block, settings in blocks.items() for name, value in settings.items()}
    for place in parts if len(parts) > 1 else ():
        flat |= {f"{place}.{name}": value for name, value in (flat.pop(place, None) or {}).items()}
    return {key: value for key, value in flat.items() if not key.startswith("method.") or value is not None}


def _assignment(key: str, value: Any) -> str:
    # inside a list, so that texts which hold commas or look like numbers are quoted
    text = yaml.safe_dump([value], default_flow_style=True, width=math.inf, allow_unicode=True)
    return f"{key}={text.strip()[1:-1]}"
