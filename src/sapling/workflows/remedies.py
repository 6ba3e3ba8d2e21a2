"""What to try next for each cause that a diagnosis finds: one change, as settings, and the command of that run."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sapling import methods
from sapling.config import RunConfig
from sapling.evaluation.diagnosis import Finding, fits_validation_only
from sapling.evaluation.measured import Measured
from sapling.methods.combination import split_name
from sapling.methods.diffusion_settings import DiffusionConfig
from sapling.models.build import list_models, public_name
from sapling.workflows.choose import can_read, larger_network, plain_name, small_teacher, teacher_for
from sapling.workflows.conflicts import mixed_by
from sapling.workflows.networks import OF_TRAINING, TRAINED_HERE, is_given, parts_of
from sapling.workflows.next_run import changed, command_of, flags_of
from sapling.workflows.passes import AUTO_STEPS, MAX_EPOCHS, MIN_EPOCHS

SHRINKING = ("resnet18", "resnet34", "resnet50", "resnet101")
FITS = 0.95  # a teacher that has this share of its training images right has had epochs enough
USUAL_PULL = 3.0  # of a term that is neither too strong nor too weak, against that of the labels
USUAL_TEMPERATURE = 4.0
MOST_TEST = 0.4  # of all images; the rest has to teach
MIXUP = 0.2


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to try.

    Attributes:
        text: what the next run does, in one sentence.
        changes: settings of the next run that differ from this one's; None removes one of the method.
        keeps_teacher: whether the teacher that was trained here serves again, so that only the change differs.
        command: a command in place of another run, such as one that looks at the data; empty where none would help.
    """

    text: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    keeps_teacher: bool = True
    command: str | None = None


def remedy_for(finding: Finding, m: Measured, config: RunConfig) -> Remedy:
    """The remedy of one finding."""
    return _REMEDIES[finding.name](m, config)


def without_finding(m: Measured, config: RunConfig) -> Remedy:
    """What to try where nothing wrong was found."""
    if m.outcome == "no difference shown":
        return _more_seeds(m, config)
    return _other_method(m, config)


def next_command(remedy: Remedy, config: RunConfig, folder: Path, suffix: str) -> str:
    """The command of the next run; it repeats this one but for the changes.

    Args:
        remedy: what is changed.
        config: of this run.
        folder: of this run: its teacher is used again where it was trained here and is not the trouble.
        suffix: of the next folder's name, where this run was given one; else the folder numbers itself.
    """
    if remedy.command is not None:
        return remedy.command
    changes = dict(remedy.changes)
    if remedy.keeps_teacher and not is_given(config.teacher.model):
        # how it was trained no longer counts; several are there as they are, and so are their folds
        unused = (*TRAINED_HERE, *OF_TRAINING, "num_teachers", "cross_fit")
        changes |= {f"teacher.{k}": type(config.teacher).model_fields[k].default for k in unused}
        changes["teacher.model"] = str(folder / "teacher")
    if config.output.folder is not None:
        changes["output.folder"] = f"{config.output.folder.rstrip('/')}-{suffix}"
    return command_of(changed(config, changes))


def teacher_anew(config: RunConfig, img_size: int, architecture: str | None) -> list[str]:
    """The flags that train a teacher: that of this run, or in place of a given one another of its ``architecture``."""
    if is_given(config.teacher.model):
        # of several networks, or of one that only its file describes, there is no name
        name = public_name(architecture if isinstance(architecture, str) else "")
        if name not in list_models(name) or not can_read(name, img_size):
            name = _new_teacher(config, img_size)
        config = changed(config, {**_no_given_teacher(), "teacher.model": name})
    return flags_of(config, "teacher.")


def _labels(m: Measured, config: RunConfig) -> Remedy:
    if is_given(config.teacher.model) and not fits_validation_only(m):
        return Remedy(
            f"Train a teacher on these labels instead: {_new_teacher(config, m.img_size)}.",
            {**_no_given_teacher(), "teacher.model": _new_teacher(config, m.img_size)},
            keeps_teacher=False,
        )
    command = shlex.join(["sapling", "inspect", config.data.source])
    return Remedy(
        "Look at the labels first: copies of a picture with two labels, classes that were mixed up.", command=command
    )


def _more_steps(m: Measured, config: RunConfig) -> Remedy:
    usual = max(MIN_EPOCHS, min(MAX_EPOCHS, round(AUTO_STEPS * m.epochs / m.steps)))
    epochs = usual if usual > m.epochs else 2 * m.epochs
    is_weak = m.gap <= 0 and config.teacher.epochs is not None and config.teacher.epochs < epochs
    with_teacher = (config.teacher.epochs is None or is_weak) and not is_given(config.teacher.model)
    if is_given(config.teacher.model) and m.gap < -2 * (m.gap_error or 0.0):  # more epochs with it would be lost
        better = _better_teacher(m, config)
        text = f"{better.text.rstrip('.')}, and the students for {epochs} epochs."
        return Remedy(text, {**better.changes, "train.epochs": epochs}, keeps_teacher=False)
    who = "students and teacher" if with_teacher else "students"
    changes: dict[str, Any] = {"train.epochs": epochs, **({"teacher.epochs": None} if with_teacher and is_weak else {})}
    if m.acceptance is not None and m.acceptance.get("passed") is False and (phase := _usual_first_phase(config)):
        changes |= phase  # else the same useless denoiser would come from the cache
        who = f"denoiser for as long as usual, and the {who}"
    return Remedy(f"Train the {who} for {epochs} epochs.", changes, keeps_teacher=not with_teacher)


def _better_teacher(m: Measured, config: RunConfig) -> Remedy:
    teacher = config.teacher
    if is_given(teacher.model):
        name = _new_teacher(config, m.img_size)
        return Remedy(
            f"Train a teacher on these images: {name}.",
            {**_no_given_teacher(), "teacher.model": name},
            keeps_teacher=False,
        )
    if (small := small_teacher(config, m.img_size)) and teacher.model in SHRINKING and not teacher.pretrained:
        return Remedy(
            f"A teacher that does not shrink small images at once: {small}.",
            {"teacher.model": small},
            keeps_teacher=False,
        )
    larger = larger_network(teacher.model, m.img_size)
    if larger in SHRINKING and small and not teacher.pretrained:
        larger = small if small != plain_name(teacher.model) else None
    if small and small.startswith("resnet") and plain_name(larger or "").startswith("wrn"):
        larger = None  # the method asks for what comes before an activation, and a Wide ResNet has none there
    if m.teacher_train.right >= FITS and larger:
        return Remedy(f"A larger teacher: {larger}.", {"teacher.model": larger}, keeps_teacher=False)
    epochs = max(2 * MIN_EPOCHS, 2 * (teacher.epochs or teacher.epoch_factor * m.epochs))
    return Remedy(f"Train the teacher for {epochs} epochs.", {"teacher.epochs": epochs}, keeps_teacher=False)


def _other_denoiser(m: Measured, config: RunConfig) -> Remedy:
    if phase := _usual_first_phase(config):
        return Remedy("Train the first phase for as long as usual.", phase)
    others = [
        name
        for name in split_name(config.method.name)
        if not issubclass(methods.load_class(name).Config, DiffusionConfig)
    ]
    if others:
        return Remedy(f"Leave the denoiser away: {'+'.join(others)} alone.", _method("+".join(others), config))
    return _other_method(m, config)


def _usual_first_phase(config: RunConfig) -> dict[str, Any]:
    """What takes back epochs that were given for a first phase; empty where none were."""
    parts = methods.parts(config.method.name, **config.method.options)
    given = [place for place, _, own in parts if getattr(own, "phase1_epochs", None) is not None]
    return {f"{place}.phase1_epochs": None for place in given}


def _rescaled(m: Measured, config: RunConfig) -> Remedy:
    pulls = {name: v for name, v in m.pulls.items() if name not in (m.label_term, "total")}
    strongest = max(pulls.values())
    factor = USUAL_PULL / strongest if strongest > 0 else 1.0
    kept = (m.label_term, *methods.load_class(config.method.name).own_terms)  # these do not pull at the student
    weights = {
        "ce" if name == m.label_term else name: float(f"{w if name in kept else w * factor:.2g}")
        for name, w in m.weights.items()
    }
    shown = ", ".join(f"{name} {w:g}" for name, w in weights.items())
    return Remedy(
        f"Bring the teacher's terms to about {USUAL_PULL:g} times the pull of the labels: {shown}.",
        {**_no_weights(config), "method.weights": weights},
    )


def _usual_temperature(m: Measured, config: RunConfig) -> Remedy:
    now, setting = m.temperature or 1.0, _temperature(config)
    if 1 < now <= USUAL_TEMPERATURE:  # too high already
        lower = max(1.0, now / 2)
        return Remedy(f"Half the temperature: {lower:g}.", {setting: lower})
    return Remedy(f"Temperature {USUAL_TEMPERATURE:g}, as most papers have it.", {setting: USUAL_TEMPERATURE})


def _usual_alpha(m: Measured, config: RunConfig) -> Remedy:
    default = methods.load_class(config.method.name).default_alpha
    share = default or 0.5
    return Remedy(
        f"Give the labels {100 * share:.0f} % of the weight and the teacher the rest.",
        {**_no_weights(config), "method.alpha": share},
    )


def _softer(m: Measured, config: RunConfig) -> Remedy:
    requires = methods.requires(config.method.name, **config.method.options)
    if not requires.labels and not config.data.mixup and not config.teacher.cross_fit:
        changes: dict[str, Any] = {"data.mixup": MIXUP}
        if config.teacher.cache == "on":
            changes["teacher.cache"] = "auto"  # kept answers are mixed, not asked for anew, and of features none
        if config.teacher.by_recipe().mixup is None and not is_given(config.teacher.model):
            changes["teacher.mixup"] = 0.0  # the same teacher as before; it only serves again
        return Remedy("Ask the teacher about mixed images (mixup), which it has not learned by heart.", changes)
    temperature = 2 * (m.temperature or USUAL_TEMPERATURE / 2)
    if m.temperature is not None:
        return Remedy(f"Soften its answers: temperature {temperature:g}.", {_temperature(config): temperature})
    return _other_method(m, config)


def _other_method(m: Measured, config: RunConfig) -> Remedy:
    other = "dist"
    if config.train.batch_size < methods.load_class("dist").requires.min_batch:
        other = config.method.name
    if other == config.method.name:  # features would lead back here
        return Remedy("The labels and the teacher in equal parts.", {**_no_weights(config), "method.alpha": 0.5})
    why = "which compares how answers are ordered, not how large they are"
    return Remedy(f"Another method: {other}, {why}.", _method(other, config))


def _features_too(config: RunConfig) -> Remedy | None:
    """Better than dist alone in short trainings, on two of three sets (docs/methods/measured.md).

    None for another method, and where features cannot be taught: out-of-fold answers, a frozen backbone, kept answers
    to mixed images, images of half the side.
    """
    teacher = config.teacher
    folds = teacher.cross_fit or (is_given(teacher.model) and len(parts_of(teacher.model)) > 1)
    kept_mixed = teacher.cache == "on" and mixed_by(config)
    frozen, small = config.student.freeze_backbone, config.train.half_size_share > 0
    if config.method.name != "dist" or folds or kept_mixed or frozen or small:
        return None
    own = {f"method.dist.{name}": value for name, value in config.method.options.items()}
    return Remedy("Add the teacher's last map to its answers: dist+mimic.", {**_method("dist+mimic", config), **own})


def _larger_student(m: Measured, config: RunConfig) -> Remedy:
    if config.method.name in ("kd", "dkd") and m.num_classes >= 3:
        return _other_method(m, config)
    if (more := _features_too(config)) is not None:
        return more
    larger = larger_network(config.student.model, m.img_size)
    if larger is None:
        return _more_steps(m, config)
    return Remedy(f"A larger student: {larger}.", {"student.model": larger})


def _more_views(m: Measured, config: RunConfig) -> Remedy:
    return _more_steps(m, config) if config.data.mixup or config.teacher.cross_fit else _softer(m, config)


def _more_seeds(m: Measured, config: RunConfig) -> Remedy:
    if m.lacks_test_images:
        return _more_test_images(m, config)
    seeds, first = max(5, 2 * m.num_seeds), config.train.seed + m.num_seeds
    return Remedy(
        f"Repeat it with {seeds} fresh seeds, {first} to {first + seeds - 1}. Those of this run made us repeat it; "
        "counted again, their luck would count twice.",
        {"train.num_seeds": seeds, "train.seed": first},
    )


def _more_test_images(m: Measured, config: RunConfig) -> Remedy:
    """A larger test part, where that is a matter of settings and would be enough; else what would help, in words."""
    now = config.data.test_share
    # errors shrink with the root of the number of images; a tenth more, so that the next run is not just below
    enough = math.ceil(110 * now * (m.endless_seeds or 0.0) ** 2 / m.gap**2) / 100
    # one that was given may know the images that are drawn
    if m.is_cut and not is_given(config.teacher.model) and enough <= min(MOST_TEST, (1 - config.data.val_share) / 2):
        text = f"Test on {100 * enough:.0f} % of all images: with {100 * now:.0f} % "
        text += "no number of seeds could show the teacher's lead."
        return Remedy(text, {"data.test_share": enough}, keeps_teacher=False)
    return Remedy(
        "More test images, or a teacher with a larger lead: no number of seeds could show this one on these images.",
        command="",
    )


_REMEDIES: dict[str, Callable[[Measured, RunConfig], Remedy]] = {
    "labels": _labels,
    "steps": _more_steps,
    "weak_teacher": _better_teacher,
    "denoiser": _other_denoiser,
    "scale": _rescaled,
    "temperature": _usual_temperature,
    "alpha": _usual_alpha,
    "memorised": _softer,
    "hesitant": _other_method,
    "capacity": _larger_student,
    "carry_over": _more_views,
    "seeds": _more_seeds,
}


def softening_part(config: RunConfig) -> tuple[str, type[methods.Method], methods.MethodConfig]:
    """Where its settings stand, class and settings: of the part that softens the teacher's logits, or of the first.

    Of several such the one with the term ``kd``, whose values the temperature flattens.
    """
    parts = methods.parts(config.method.name, **config.method.options)
    found = [part for part in parts if part[1].softens_logits(part[2])]
    return next((part for part in found if "kd" in part[1].terms), (found or parts)[0])


def _temperature(config: RunConfig) -> str:
    return f"{softening_part(config)[0]}.temperature"


def _no_weights(config: RunConfig) -> dict[str, Any]:
    """Neither weights nor alpha, nor those of the parts of a combination."""
    places = {"method", *(place for place, _, _ in methods.parts(config.method.name, **config.method.options))}
    return {f"{place}.{name}": None for place in sorted(places) for name in ("alpha", "weights")}


def _method(name: str, config: RunConfig) -> dict[str, Any]:
    """Another method with its own defaults."""
    return {**{f"method.{k}": None for k in config.method.options}, "method.name": name}


def _no_given_teacher() -> dict[str, Any]:
    """Settings that only a given teacher has, or needed."""
    return {**dict.fromkeys(("teacher.img_size", "teacher.mean", "teacher.std")), "teacher.accept_weak": False}


def _new_teacher(config: RunConfig, img_size: int | None) -> str:
    """A network to train here, from scratch."""
    return teacher_for(config, img_size) or "resnet34"


def from_elsewhere(card: Mapping[str, Any]) -> bool:
    """Whether a teacher learned nobody knows what: one that was given, and of no run on these images."""
    return card.get("origin") == "given" and not card.get("trained_on")
