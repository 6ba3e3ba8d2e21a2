"""Save and load a trained classifier in timm's folder layout; the one truth about loading.

A folder holds ``model.safetensors``, ``config.json`` and ``classes.txt``. timm reads it as well:
``timm.create_model("local-dir:FOLDER", pretrained=True)``, for our own networks after ``import sapling.models``.
**Without ``pretrained=True`` timm silently gives random weights.** Weights alone (a state dict that was trained
elsewhere) are fitted to the network they are of, see `sapling.models.foreign`. Nothing that a file brings is run.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import safetensors
import timm
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from sapling.bands import Bands, bands_from
from sapling.errors import ConfigError, ModelError, nearest
from sapling.models.build import (
    PREFIX,
    Origin,
    build_network,
    check_arguments,
    list_models,
    public_name,
    resolve_name,
    set_origin,
)
from sapling.models.classnames import class_names
from sapling.models.foreign import find_network, fit_weights, head_names
from sapling.models.hub import fetch
from sapling.models.licence import licence_of
from sapling.models.save import CLASSES, CONFIG, WEIGHTS, Preprocess, save_model
from sapling.models.weights import PICKLE_SUFFIXES, TORCH_SUFFIXES, pickled, read_weights

__all__ = ["LoadedModel", "Preprocess", "is_model_path", "load_model", "read_preprocess", "save_model", "weights_alone"]


@dataclass(slots=True)
class LoadedModel:
    """A trained classifier with all that is needed to use it.

    Attributes:
        model: the network, in eval mode, on the CPU; reads normalised images.
        architecture: timm's name.
        classes: names in the order of the logits.
        preprocess: how an image becomes its input.
        multi_label: whether each logit answers for itself (sigmoid), as for images with several labels.
        names_are_known: whether the classes have names; if not, ``classes`` are numbers.
        notes: what a reader must know of how it was loaded.
    """

    model: nn.Module
    architecture: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    multi_label: bool = False
    names_are_known: bool = True
    notes: tuple[str, ...] = ()


def load_model(
    path: str | Path,
    *,
    img_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> LoadedModel:
    """Load a trained classifier, strictly: every weight must be there and fit, or there is an error.

    Args:
        path: a folder of `save_model`, a run folder (its ``student/``), a ``.safetensors`` file with
            ``config.json`` beside it, ``local-dir:FOLDER`` or ``hf-hub:owner/name``; or weights alone, ``NAME=FILE``
            (``resnet34=best.pth``) or a ``FILE`` whose network can be found out, with ``classes.txt`` beside it if
            its classes are to have names.
        img_size: of weights alone, which do not say it; by itself what the network was designed for.
        mean: of weights alone; by itself what timm says of the network.
        std: likewise.

    Raises:
        ModelError: nothing usable there; the message says what is missing or does not fit.
    """
    alone = weights_alone(path)
    if alone is not None:
        return _load_alone(str(path), *alone, img_size=img_size, mean=mean, std=std)
    if img_size is not None or mean is not None or std is not None:
        raise ModelError(
            "this network says itself how its images are prepared: img_size, mean and std would not be used",
            where=str(path),
            remedy=f"leave them away, or change them in its {CONFIG}",
        )
    folder, weights_file = _locate(path)
    config = _read_config(folder / CONFIG)
    architecture, num_classes, preprocess, arguments = _settings(config, folder / CONFIG)
    classes = class_names(folder, config, num_classes)
    weights = _read_weights(weights_file, config)
    published = config["pretrained_cfg"]
    known = {
        key: published[key] for key in ("mean", "std", "input_size", "first_conv", "classifier") if key in published
    }
    base = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    cfg = {**(base.to_dict() if base is not None else {}), **known, "num_classes": num_classes}
    model = build_network(
        architecture,
        num_classes=num_classes,
        arguments=arguments,
        where=str(folder / CONFIG),
        pretrained_cfg=cfg,
        seed=0,
    )
    _fill(model, weights, weights_file, num_classes)
    licence, started = licence_of(str(path), folder, config), config.get("sapling", {}).get("started_from")
    started = started if isinstance(started, str) else None
    set_origin(model, Origin(architecture, "checkpoint", "loaded", str(path), arguments, licence, started))
    named = "label_names" in config["pretrained_cfg"] or (folder / CLASSES).is_file()
    several = config.get("sapling", {}).get("multi_label") is True
    return LoadedModel(model.eval(), architecture, classes, preprocess, several, named)


def read_preprocess(path: str | Path) -> Preprocess:
    """Read how images are prepared for a trained classifier, without loading its weights.

    Raises:
        ModelError: nothing usable there, see :func:`load_model`.
    """
    folder, _ = _locate(path)
    return _settings(_read_config(folder / CONFIG), folder / CONFIG)[2]


def is_model_path(name: str) -> bool:
    """Whether ``name`` means a trained network (a path, ``hf-hub:..``, ``NAME=FILE``), not one to be made."""
    if name.startswith(("local-dir:", "hf-hub:")) or "/" in name or "=" in name:
        return True
    if name.lower().endswith((".safetensors", *PICKLE_SUFFIXES)):
        return True
    architecture = name.partition(".")[0]
    return Path(name).exists() and not timm.is_model(architecture) and not timm.is_model(PREFIX + architecture)


def ensemble_folders(folder: Path) -> tuple[Path, ...]:
    """The folders ``0``, ``1``, .. of networks that answer as one teacher; empty where ``folder`` is none of these."""
    if not (folder / "1").is_dir() or not (folder / "card.json").is_file() or (folder / CONFIG).is_file():
        return ()
    numbers = itertools.takewhile(lambda k: (folder / str(k)).is_dir(), itertools.count())
    return tuple(folder / str(k) for k in numbers)


def weights_alone(path: str | Path) -> tuple[str | None, Path] | None:
    """Take apart ``NAME=FILE``, or a file of weights that has nothing beside it; None for all else.

    Raises:
        ModelError: the file is not there, or no file of weights.
    """
    text = str(path)
    if text.startswith(("hf-hub:", "local-dir:")):
        return None
    name, sign, file = text.partition("=")
    if not sign or Path(text).exists():
        place = Path(text)
        suffix = place.suffix.lower()
        is_alone = suffix in TORCH_SUFFIXES or (suffix == ".safetensors" and not (place.parent / CONFIG).is_file())
        return (None, place) if is_alone and place.is_file() else None
    resolve_name(name)
    place = Path(file)
    if not place.is_file():
        raise ModelError(f"there is no file {file!r}", where=text, allowed="NAME=FILE, such as resnet34=best.pth")
    if place.suffix.lower() not in (*TORCH_SUFFIXES, ".safetensors"):
        allowed = ", ".join((".safetensors", *TORCH_SUFFIXES))
        raise ModelError(f"{place.name} is no file of weights", where=text, allowed=allowed)
    return name, place


def _load_alone(
    text: str,
    name: str | None,
    file: Path,
    *,
    img_size: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> LoadedModel:
    """Weights without a config.json: the network from the name or from the weights, the rest as given or usual."""
    raw = read_weights(file)
    if name is None:
        fit = find_network(raw.tensors, said=raw.architecture, img_size=img_size)
        how = f"{file.name} names no network; its weights are those of {public_name(fit.architecture)}"
    else:
        fit = fit_weights(raw.tensors, name, img_size=img_size)
        how = ""
    config = timm.get_pretrained_cfg(resolve_name(name or fit.architecture), allow_unregistered=True)
    assert config is not None
    size = fit.arguments.get("img_size") or img_size or config.input_size[-1]
    channels = fit.arguments.get("in_chans", 3)
    values = tuple(map(float, mean or config.mean)), tuple(map(float, std or config.std))
    if {len(v) for v in values} != {channels}:
        raise ModelError(
            f"these weights read {channels} channels; mean and std are of {len(values[0])} and {len(values[1])}",
            where=text,
            remedy="give both with one value per channel: --set 'teacher.mean=[..]' --set 'teacher.std=[..]'",
        )
    if img_size not in (None, size):
        raise ModelError(f"these weights are bound to images of {size} pixels, not {img_size}", where=text)
    if fit.num_classes < 2:
        raise ModelError("these weights have no classifier: they cannot teach or answer", where=text)
    names = class_names(file.parent, {"pretrained_cfg": {}}, fit.num_classes)
    model = build_network(fit.architecture, num_classes=fit.num_classes, arguments=fit.arguments, where=text, seed=0)
    model.load_state_dict(fit.weights, strict=True)
    set_origin(model, Origin(fit.architecture, "checkpoint", "loaded", text, fit.arguments))
    preprocess = Preprocess(size, math.ceil(1.15 * size), *values)
    notes = tuple(filter(None, (how, raw.note, _twin(fit.architecture, file) if not name else "")))
    named = (file.parent / CLASSES).is_file()
    return LoadedModel(model.eval(), fit.architecture, names, preprocess, names_are_known=named, notes=notes)


def _twin(architecture: str, file: Path) -> str:
    """That weights without a name may as well be of the network with the stem of stride 2."""
    other = f"{public_name(architecture)}_s2"
    if other not in list_models():
        return ""
    return f"those of {other} look the same; if they are of it, say so: {other}={file}"


def _locate(path: str | Path) -> tuple[Path, Path]:
    """Find the folder and the weights file that ``path`` means."""
    text = str(path)
    if text.startswith("hf-hub:"):
        repo = text.removeprefix("hf-hub:")
        fetch(repo, CONFIG)
        weights = Path(fetch(repo, WEIGHTS))
        return weights.parent, weights
    place = Path(text.removeprefix("local-dir:"))
    if not place.exists():
        raise ModelError(f"there is no file or folder {str(place)!r}", remedy="a run folder or its student/ folder")
    if place.is_file():
        if place.suffix.lower() in PICKLE_SUFFIXES:
            raise pickled(place)
        if place.suffix.lower() != ".safetensors":
            raise ModelError(f"{place.name} is no model", where=str(place), allowed="a folder, or .safetensors")
        folder, weights = place.parent, place
    else:
        folder = place
        if not (place / CONFIG).is_file() and (place / "student").is_dir():
            folder = place / "student"
        elif not (place / CONFIG).is_file() and not (place / WEIGHTS).is_file() and (place / "config.yaml").is_file():
            raise ModelError(
                "this run has no student yet" + (why := _stop_of(place)),
                where=str(place),
                remedy=f"sapling report {quote(str(place))} says how to go on" if why else "the same command goes on",
            )
        weights = folder / WEIGHTS
    if several := ensemble_folders(folder):
        raise ModelError(
            f"this folder holds {len(several)} networks that answer as one teacher",
            where=str(folder),
            allowed="one of them, such as " + str(several[0]),
            remedy="sapling distill --teacher and sapling evaluate take them together; all else takes one",
        )
    if not weights.is_file():
        for other in sorted(folder.iterdir()):
            if other.suffix.lower() in PICKLE_SUFFIXES:
                raise pickled(other)
        raise ModelError(f"{WEIGHTS} is missing", where=str(folder), allowed=f"a folder with {WEIGHTS} and {CONFIG}")
    if not (folder / CONFIG).is_file():
        raise ModelError(
            f"{CONFIG} is missing: weights alone do not say which network they belong to",
            where=str(folder),
            remedy=f"copy {CONFIG} (and {CLASSES}) from where the weights came from",
        )
    return folder, weights


def _stop_of(run: Path) -> str:
    """What ended a run without a student, where it was an error."""
    try:
        stop = json.loads((run / "stopped.json").read_text(encoding="utf-8"))
        what, kind = str(stop["what"]).splitlines()[0][:200], stop["kind"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ""
    return "" if kind == what else f": it was stopped, because {ascii(what)[1:-1]}"


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ModelError(f"{CONFIG} cannot be read: {error}", where=str(path)) from error
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise ModelError(f"{CONFIG} names no architecture", where=str(path), allowed="timm's layout")
    # Older folders of timm keep everything at the top level.
    config.setdefault("pretrained_cfg", {key: value for key, value in config.items() if key != "model_args"})
    if not isinstance(config["pretrained_cfg"], dict) or not isinstance(config.get("sapling", {}), dict):
        raise ModelError(f"{CONFIG} is damaged: pretrained_cfg is no mapping", where=str(path))
    return config


def _settings(config: dict[str, Any], where: Path) -> tuple[str, int, Preprocess, dict[str, Any]]:
    """Architecture, number of classes, preprocessing and arguments, each checked."""
    architecture, published = config["architecture"], config["pretrained_cfg"]
    if not timm.is_model(architecture):
        raise ModelError(
            f"timm knows no network {architecture!r}",
            where=str(where),
            allowed=nearest(architecture, list_models()),
            remedy="a newer timm, if the name is of a newer one",
        )
    counts = [n for n in (config.get("num_classes"), published.get("num_classes")) if n is not None]
    if not counts or any(n != counts[0] for n in counts):
        raise ModelError(f"{CONFIG} gives {sorted(map(str, counts)) or 'no'} numbers of classes", where=str(where))
    num_classes = counts[0]
    arguments = config.get("model_args") or {}
    try:
        channels, height, width = (int(value) for value in published["input_size"])
        store_size = int(config.get("sapling", {}).get("store_size") or height / float(published.get("crop_pct") or 1))
        mean, std = tuple(map(float, published["mean"])), tuple(map(float, published["std"]))
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ModelError(
            f"{CONFIG} does not say how images are prepared ({type(error).__name__}: {error})",
            where=str(where),
            allowed="pretrained_cfg with input_size [C,S,S], mean and std",
        ) from error
    if not isinstance(num_classes, int) or not isinstance(arguments, dict) or height != width or channels != len(mean):
        raise ModelError(
            f"{CONFIG} does not fit together: num_classes {num_classes!r}, "
            f"input_size {published['input_size']}, {len(mean)} means",
            where=str(where),
        )
    arguments = check_arguments(arguments, where=str(where))
    arguments.pop("num_classes", None)
    if channels != 3:
        arguments.setdefault("in_chans", channels)
    preprocess = Preprocess(height, max(store_size, height), mean, std, _bands(config, where))
    return architecture, num_classes, preprocess, arguments


def _bands(config: Mapping[str, Any], where: Path) -> Bands | None:
    content = config.get("sapling", {}).get("bands")
    try:
        return None if content is None else bands_from(content)
    except ConfigError as error:
        raise ModelError(f"{CONFIG}: {error.what}", where=str(where), allowed=error.allowed) from error


def _read_weights(path: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    blob = path.read_bytes()
    # A zip or a pickle under another name: say so, instead of a parser's complaint about a header.
    if blob[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") and blob[8:9] != b"{":
        raise pickled(path)
    try:
        weights: dict[str, Tensor] = load_safetensors(blob)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path.name} is damaged or cut off ({len(blob):,} bytes): {error}",
            where=str(path),
            remedy="copy it again, or let the run write it again",
        ) from error
    expected = config.get("sapling", {}).get("weights_sha256")
    if expected and expected != hashlib.sha256(blob).hexdigest():
        raise ModelError(
            f"{path.name} is not the file that {CONFIG} was written for",
            where=str(path),
            remedy=f"save the model again (or, if that is on purpose, remove weights_sha256 from {CONFIG})",
        )
    return weights


def _fill(model: nn.Module, weights: Mapping[str, Tensor], path: Path, num_classes: int) -> None:
    """Load strictly, and say in the user's words what does not fit."""
    own = model.state_dict()
    for name in sorted(head_names(model) & weights.keys()):
        if weights[name].shape[0] != own[name].shape[0]:
            raise ModelError(
                f"the weights are of {weights[name].shape[0]} classes, but {CONFIG} says {num_classes}",
                where=str(path),
                remedy="weights and config.json of one and the same training",
            )
    problems = [f"{name} is missing" for name in own if name not in weights]
    problems += [f"{name} is unknown to the network" for name in weights if name not in own]
    problems += [
        f"{name} is {list(weights[name].shape)}, not {list(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise ModelError(f"the weights do not fit the network: {shown}", where=str(path))
    model.load_state_dict(dict(weights), strict=True)
