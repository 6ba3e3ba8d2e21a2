"""Finding methods: files beside this one, entry points of other packages, single files. No torch until one
is built.

A file of this folder that is not listed in ``NOT_METHODS`` is a method. ``catalogue.json`` holds what
``describe`` says of each, so that listing and checking need no torch; it is made by
``python -m sapling.methods.generate``. Other packages offer methods in the entry point group
``sapling.methods`` (``name = "package.module"`` or ``"package.module:Class"``); a path that ends in ``.py``
is a method, too. Names joined with ``+`` are a method made of these (see ``combination.py``).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sapling.errors import ConfigError, MethodError, nearest
from sapling.methods.combination import SIGN, check_parts, check_ships_nothing, describe_combination, key_of, split_name
from sapling.methods.own import OWN_FILES, explained, place_of

if TYPE_CHECKING:
    from sapling.methods.base import Method, MethodConfig, Requires
    from sapling.types import PairInfo, Taps

FOLDER = Path(__file__).parent
CATALOGUE = FOLDER / "catalogue.json"
GROUP = "sapling.methods"
NOT_METHODS = frozenset(
    {
        "__init__",
        "base",
        "combination",
        "combined",
        "denoising",
        "describe",
        "diffusion",
        "diffusion_settings",
        "generate",
        "head",
        "labelloss",
        "memory",
        "own",
        "registry",
        "validate",
        "weights",
    }
)


def names() -> list[str]:
    """Names of all methods that are installed, in alphabetical order."""
    return sorted({*built_in(), *_offered()})


def built_in() -> list[str]:
    """Names of the methods of this package: its files."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in NOT_METHODS)


def catalogue() -> dict[str, dict[str, Any]]:
    """Name to description of every method; the keys are those of ``describe``.

    A built-in method that is not yet in ``catalogue.json`` and one of another package are imported for it.
    """
    return {name: entry(name) for name in names()}


def entry(name: str) -> dict[str, Any]:
    """Describe one method, from the catalogue where it is there.

    Raises:
        MethodError: there is no such method, or it is incomplete, or its parts cannot stand together.
    """
    parts = split_name(name)
    if len(parts) > 1:
        check_parts(parts)
        found = {key_of(part): entry(part) for part in parts}
        for part, described in found.items():
            check_ships_nothing(part, ships=described["ships_own_parts"])
        return describe_combination(found)
    known = _stored().get(name)
    if known is not None and name in built_in():
        return dict(known)
    from sapling.methods.describe import describe

    return describe(load_class(name))


@explained()
def build(name: str, info: PairInfo, **config: Any) -> Method:
    """Make a method for a pair of models; the public way to get one.

    Args:
        name: of an installed method, or a path to a ``.py`` file.
        info: what may be known of the pair.
        **config: settings, checked against the method's ``Config``.

    Raises:
        MethodError: the method is unknown, or the models do not hand out the features it taps.
        ConfigError: with every wrong setting at once.
    """
    method, settings = _configure(name, config)
    wanted_taps = method.taps(settings)
    for side, wanted, shapes in (
        ("student", wanted_taps.student, info.student_shapes),
        ("teacher", wanted_taps.teacher, info.teacher_shapes),
    ):
        if missing := [tap for tap in wanted if tap not in shapes]:
            raise MethodError(
                f"method {name!r} needs the {side}'s {', '.join(missing)}, which is not tapped",
                allowed=", ".join(shapes) or "no features of this network are tapped",
            )
    return method(settings, info)


@explained()
def taps(name: str, **config: Any) -> Taps:
    """Features that both networks must hand out for a method with these settings; asked before it can be built.

    Raises:
        MethodError: the method is unknown.
        ConfigError: with every wrong setting at once.
    """
    method, settings = _configure(name, config)
    return method.taps(settings)


def latent_shapes(
    name: str, teacher_shapes: Mapping[str, tuple[int, ...]], **config: Any
) -> dict[str, tuple[int, ...]]:
    """Largest shapes of what a method can hear in place of the teacher's features; empty where it needs the features.

    Raises:
        MethodError: the method is unknown.
        ConfigError: with every wrong setting at once.
    """
    method, settings = _configure(name, config)
    shapes = getattr(method, "latent_shapes", None)
    return dict(shapes(settings, teacher_shapes)) if shapes is not None else {}


@explained()
def requires(name: str, **config: Any) -> Requires:
    """What a method needs of data and teacher with these settings; asked before it can be built.

    Raises:
        MethodError: the method is unknown.
        ConfigError: with every wrong setting at once.
    """
    method, settings = _configure(name, config)
    return method.requires_with(settings)


def parts(name: str, **config: Any) -> list[tuple[str, type[Method], MethodConfig]]:
    """The methods that a name joins: where in the ``method`` block their settings stand, class, settings.

    Returns:
        ``[("method", KD, ..)]`` for ``kd``; ``[("method.kd", KD, ..), ("method.at", AT, ..)]`` for ``kd+at``.

    Raises:
        MethodError: a method is unknown.
        ConfigError: with every wrong setting at once.
    """
    method, settings = _configure(name, config)
    joined = method.parts_with(settings)
    return [(f"method.{part}", own, one) for part, (own, one) in joined.items()] or [("method", method, settings)]


def load_class(name: str) -> type[Method]:
    """Import the class of a method, or make that of several.

    Raises:
        MethodError: it is unknown, cannot be imported, or its file does not define exactly one method.
    """
    joined = split_name(name)
    if len(joined) > 1:
        from sapling.methods.combined import combine

        return combine(joined)
    if name.endswith(".py"):
        return _class_in(_import_file(Path(name)))
    if name in built_in():
        return _class_in(importlib.import_module(f"{__package__}.{name}"))
    if point := _offered().get(name):
        try:
            found = point.load()
        except Exception as error:  # anything may go wrong in somebody else's package
            raise MethodError(f"method {name!r} cannot be imported: {error}", where=point.value) from error
        method = _class_in(found) if isinstance(found, ModuleType) else found
        if getattr(method, "name", None) != name:
            raise MethodError(f"method {name!r} calls itself {getattr(method, 'name', None)!r}", where=point.value)
        return method
    raise MethodError(
        unknown_method(name),
        allowed=", ".join(names()),
        remedy="give a name of that list, or a path to a .py file",
    )


def unknown_method(name: str) -> str:
    """Say that there is no such method, with the nearest name."""
    if "," in name:
        joined = SIGN.join(part.strip() for part in name.strip("[]").split(","))
        return f"unknown method {name!r}; several are joined with {SIGN}: {joined}"
    return f"unknown method {name!r}; {nearest(name, names())}".rstrip("; ")


def _configure(name: str, config: dict[str, Any]) -> tuple[type[Method], MethodConfig]:
    """Class and checked settings of a method."""
    from pydantic import ValidationError

    from sapling.methods.describe import describe
    from sapling.methods.validate import check_options

    method = load_class(name)
    problems = check_options(describe(method), config)
    if problems:
        raise ConfigError(f"settings of method {name!r}:\n" + "\n".join(f"  - {p}" for p in problems))
    try:
        return method, method.Config.model_validate(config)
    except ValidationError as error:  # a rule that no JSON schema can state
        several = describe(method).get("parts", {})
        problems = [
            "".join(f"{part}." for part in e["loc"][:1] if part in several) + e["msg"].removeprefix("Value error, ")
            for e in error.errors()
        ]
        raise ConfigError(f"settings of method {name!r}:\n" + "\n".join(f"  - {p}" for p in problems)) from None


@functools.cache
def _stored() -> dict[str, dict[str, Any]]:
    try:
        stored: dict[str, dict[str, Any]] = json.loads(CATALOGUE.read_text(encoding="utf-8"))
    except (
        OSError,
        ValueError,
    ):  # a fresh checkout, or half a merge: every entry is then made from its class
        return {}
    return stored


@functools.cache
def _offered() -> dict[str, EntryPoint]:
    """Entry points of other packages; a built-in name cannot be taken over."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in built_in()}


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise MethodError(f"there is no file {str(path)!r}", allowed="a .py file that defines one method")
    path = path.resolve()
    module_name = f"{OWN_FILES}.{path.stem}"
    known = sys.modules.get(module_name)
    if known is not None and known.__file__ == str(path):
        return known
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise MethodError(f"{str(path)!r} cannot be imported", allowed="a .py file that defines one method")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # pydantic looks annotations up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise MethodError(f"the method's file cannot be imported: {error!r}", where=place_of(error, path)) from error
    return module


def _class_in(module: ModuleType) -> type[Method]:
    from sapling.methods.base import Method

    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise MethodError(
            f"{len(found)} methods are defined in one file",
            where=module.__file__,
            allowed="exactly one subclass of sapling.methods.Method",
        )
    return found[0]
