"""A run's networks: settings that would not be used, sizes that cannot be read, a teacher that is given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sapling import methods
from sapling.config import AUTO, RunConfig, TeacherConfig
from sapling.data.loader import Dataset
from sapling.data.viewspec import ViewSpec, preset
from sapling.errors import UsageError
from sapling.methods.combination import WEIGHT, heard_twice
from sapling.methods.weights import given_weights
from sapling.models.create import origin_of, resolve_name
from sapling.models.licence import NOT_STATED
from sapling.models.load import LoadedModel, ensemble_folders, is_model_path, load_model, weights_alone
from sapling.models.sizes import check_size
from sapling.record import CHOSEN, Run, read_json, write_json
from sapling.teachers.ensemble import PLAIN, Symmetry, symmetries_of
from sapling.workflows.choose import chosen_teacher, note_of_choice
from sapling.workflows.conflicts import Needs, check_method_fits, mixed_by

TRAINED_HERE = ("epochs", "lr", "weight_decay", "pretrained", "freeze_backbone", "layer_decay")
OF_TRAINING = ("recipe", "views", "mixup", "cutmix", "ema_decay")

WEIGHTS_ALONE = ("img_size", "mean", "std")


def parts_of(model: str) -> tuple[str, ...]:
    """The networks that a teacher's name means: itself, those in the folder of an ensemble, several with commas.

    ``runs/x/teacher`` of a run with ``teacher.num_teachers`` of 3 means ``runs/x/teacher/0``, ``/1`` and ``/2``.
    """
    place = Path(model.removeprefix("local-dir:"))
    if place.exists() or "," not in model:
        return tuple(map(str, ensemble_folders(place))) or (model,)
    return tuple(part for name in model.split(",") if name.strip() for part in parts_of(name.strip()))


def is_given(model: str) -> bool:
    """Whether ``model`` means trained networks (paths) rather than a name to train here."""
    parts = parts_of(model)
    return model != AUTO and bool(parts) and all(is_model_path(part) for part in parts)


def check_settings_are_used(config: RunConfig) -> None:
    """Refuse a teacher that is not there, and settings that would silently change nothing.

    Raises:
        UsageError: see above.
        ModelError: the teacher's name is unknown, or its file is not there.
    """
    teacher = config.teacher
    check_method_fits(config, needs_of(config))
    if teacher.symmetrise and config.data.views != "auto":
        symmetries_for(config, preset(config.data.views, config.data.view_options))
    parts = parts_of(teacher.model)
    if not is_given(teacher.model):
        for part in parts if len(parts) > 1 else ():
            if not is_model_path(part):
                raise UsageError(
                    f"{part!r} in {teacher.model!r} is a name, and several teachers with commas are trained ones",
                    allowed="paths with commas between them, or one name",
                    remedy="--teachers N trains N of one name; other names: sapling train DATA --model NAME for each",
                )
        if teacher.model != AUTO:
            resolve_name(teacher.model)
        _refuse(config, WEIGHTS_ALONE, "is trained here", "leave it away; data.img_size holds for it too")
        return
    alone = [weights_alone(part) is not None for part in parts]
    for part, is_alone in zip(parts, alone, strict=True):
        if not is_alone and not (part.startswith("hf-hub:") or Path(part.removeprefix("local-dir:")).exists()):
            raise UsageError(
                f"there is no teacher at {part!r}",
                allowed="a run folder, its teacher/ folder, a .safetensors, NAME=weights.pth, several of them with "
                "commas between them, or the name of a network to train here",
            )
    _refuse(
        config, (*TRAINED_HERE, *OF_TRAINING), "is given", "leave it away, or give the name of a network to train here"
    )
    if teacher.cross_fit:
        raise UsageError(
            f"the teacher {teacher.model!r} is given, and teacher.cross_fit is for teachers that are trained here",
            remedy="leave teacher.cross_fit and --teachers away: a cross-fitted teacher brings its folds",
        )
    if teacher.num_teachers > 1:
        raise UsageError(
            f"the teacher {teacher.model!r} is given, so teacher.num_teachers would not be used",
            remedy="leave --teachers away; several that are given have commas between them: --teacher A,B",
        )
    if not any(alone):
        _refuse(config, WEIGHTS_ALONE, "says itself how its images are prepared", "leave it away")


def needs_of(config: RunConfig) -> Needs:
    """What the method needs with its settings; it is imported for that.

    Raises:
        MethodError: there is no such method.
        ConfigError: its settings are wrong.
    """
    name, options = config.method.name, config.method.options
    requires, taps = methods.requires(name, **options), methods.taps(name, **options)
    return Needs(requires.labels, requires.min_batch, taps.student, taps.teacher)


def hears_logits(config: RunConfig) -> bool:
    """Whether the method compares the teacher's logits, not only its features; that of somebody else may always."""
    return any(
        not method.__module__.startswith("sapling.methods.") or method.asks_logits(own)
        for _, method, own in methods.parts(config.method.name, **config.method.options)
    )


def without_gain(config: RunConfig) -> list[str]:
    """Settings that cost time and change nothing for this method, one sentence each."""
    if not config.teacher.symmetrise or hears_logits(config):
        return []
    sentence = (
        f"Method {config.method.name} learns from features only, and those are of the plain image: teacher.symmetrise "
        "makes the teacher answer several times and changes nothing for the student. Do without it, or take a method "
        "on logits, such as kd."
    )
    return [sentence]


def method_notes(config: RunConfig, epochs: int) -> list[str]:
    """What the method says of these settings before it is trained."""
    parts = methods.parts(config.method.name, **config.method.options)
    notes = [n for _, method, own in parts for n in method.notes(own, mixes=bool(mixed_by(config)), epochs=epochs)]
    more = [_heard_twice(config) if len(parts) > 1 else None, _flattened_twice(config)]
    return [*notes, *(note for note in more if note)]


def _flattened_twice(config: RunConfig) -> str | None:
    """Say that kd learns badly from a teacher trained here with mixed images where the labels lose weight to it."""
    teacher = config.teacher.by_recipe()
    mixup = config.data.mixup if teacher.mixup is None else teacher.mixup
    cutmix = config.data.cutmix if teacher.cutmix is None else teacher.cutmix
    if is_given(teacher.model) or not (mixup or cutmix):
        return None
    parts = list(methods.parts(config.method.name, **config.method.options))
    flatten = ("kd", "ctkd") if len(parts) > 1 else ("kd", "ctkd", "nuclear")  # beside others nuclear brings no kd
    for _, method, own in parts:
        if method.name not in flatten:
            continue
        weights = given_weights(method.terms, method.default_alpha, method.scales, own.weights, own.alpha)
        if not weights["kd"] or getattr(own, "temperature", 4.0) < 2:
            continue
        if weights["ce"] < 1 or weights["kd"] > weights["ce"]:
            return (
                f"the teacher is trained with mixed images, whose answers are soft already, and {method.name} gives "
                f"the labels {weights['ce']:g} and the teacher {weights['kd']:g}: students of kd with such weights "
                "were 2 to 10 points below the control on AID (docs/methods/measured.md). With 1 and 1, kd's own "
                "weights, they were not, nor is --method dist."
            )
    return None


def _heard_twice(config: RunConfig) -> str | None:
    options, weights = config.method.options, {}
    for place, method, own in methods.parts(config.method.name, **options):
        part, hears = place.removeprefix("method."), method.requires_with(own).teacher
        factor = float((options.get(part) or {}).get(WEIGHT, 1.0)) if hears else 0.0
        terms = given_weights(method.terms, method.default_alpha, method.scales, own.weights, own.alpha)
        weights[part] = {term: factor * weight for term, weight in terms.items()}
    return heard_twice(weights, options.get("weights") or {})


def log_notes(run: Run, epochs: int) -> None:
    """The same into the log of a run."""
    for note in method_notes(run.config, epochs):
        run.log(f"note: {note}")


def symmetries_for(config: RunConfig, spec: ViewSpec) -> tuple[Symmetry, ...]:
    """The symmetries over which the teacher answers: those of the views if ``teacher.symmetrise``, else none.

    Raises:
        UsageError: the views have none.
    """
    if not config.teacher.symmetrise:
        return (PLAIN,)
    found = symmetries_of(flip=spec.flip, dihedral=spec.dihedral)
    if len(found) == 1:
        raise UsageError(
            f"teacher.symmetrise finds no symmetry in views {config.data.views}: they neither mirror nor turn images",
            allowed="views that mirror (light, photo, strong) or turn by quarters (aerial, aerial_strong)",
            remedy="--views light, if a mirrored image has the same label; or do without teacher.symmetrise",
        )
    return found


def check_sizes(config: RunConfig, task: str, img_size: int) -> None:
    """Refuse images that a network of the run cannot read; called before any of them is decoded.

    Args:
        config: all settings.
        task: ``train`` or ``distill``.
        img_size: side of the views.

    Raises:
        ModelError: with the reason, and the nearest sizes that work.
    """
    check_size(config.student.model, img_size)
    if task == "distill" and not is_given(config.teacher.model):
        check_size(chosen_teacher(config, img_size).teacher.model, img_size)


def settle_teacher(run: Run, data: Dataset) -> RunConfig:
    """The run's settings, from now on with a name for the teacher that they leave open.

    The name is kept in the run folder: a run that goes on keeps its teacher, whatever would be chosen now.
    """
    kept = run.path(CHOSEN)
    if run.config.teacher.model == AUTO:
        before = read_json(kept).get("teacher") if kept.exists() else None
        run.config = chosen_teacher(run.config, data.img_size, before=before)
        if before is None:
            write_json(kept, {"teacher": run.config.teacher.model})
            run.log(f"teacher: {note_of_choice(run.config, data.img_size)}")
    return run.config


def load_given(settings: TeacherConfig, data: Dataset) -> LoadedModel:
    """The trained teacher that the settings name.

    Weights alone say neither how images are prepared nor what their classes are called: the first is as set or as for
    the students, the second is taken from the data if the number of classes is theirs. ``notes`` says so.
    """
    if weights_alone(settings.model) is None:
        loaded = load_model(settings.model)
    else:
        size = settings.img_size or data.img_size
        loaded = load_model(settings.model, img_size=size, mean=settings.mean, std=settings.std)
    if (Path(settings.model) / "teacher" / "card.json").is_file():
        note = f"this is the student of that run; its teacher is {Path(settings.model) / 'teacher'}"
        loaded = replace(loaded, notes=(*loaded.notes, note))
    if loaded.names_are_known or len(loaded.classes) != data.num_classes:
        return loaded
    note = "its classes have no names; they are taken in the order of the data's, which the gate checks"
    return replace(loaded, classes=data.classes, notes=(*loaded.notes, note))


def provenance(loaded: LoadedModel) -> dict[str, str | None]:
    """Where the weights began (``started_from``), and their ``licence``: for cards."""
    origin = origin_of(loaded.model)
    return {
        "licence": (origin.licence if origin else None) or NOT_STATED,
        "started_from": origin.started_from if origin else None,
    }


def _refuse(config: RunConfig, keys: tuple[str, ...], why: str, remedy: str) -> None:
    fields = type(config.teacher).model_fields
    unused = [key for key in keys if getattr(config.teacher, key) != fields[key].default]
    if unused:
        named = "the teacher" + (f" {config.teacher.model!r}" if config.teacher.model != AUTO else "")
        raise UsageError(f"{named} {why}, so teacher.{unused[0]} would not be used", remedy=remedy)
