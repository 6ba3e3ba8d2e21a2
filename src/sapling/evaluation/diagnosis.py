"""Why did the teacher add nothing? Causes read off measurements, the most likely one first. Numbers in, words out.

Each rule looks at one cause. A cause is *likely* where its measurement alone would explain the result, *possible*
where it may play a part. Likely causes come before possible ones; among equals the one further up the stream comes
first, because it brings about those below it: a teacher that contradicts the labels is also a weak teacher, and a
student trained for one epoch imitates nobody. Nothing here looks at test images, but for the size of the difference
that the verdict could have shown.

Limits were set on runs with one planted fault each and on healthy runs (tests/workflows/test_diagnosis.py); where a
limit is from elsewhere it says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from sapling.evaluation.imitation import Answers
from sapling.evaluation.measured import Measured

Level = Literal["likely", "possible"]

CONTRADICTS = 0.25  # how much more sure than right a teacher is on training images that contradicts their labels
RENAMED = 0.2  # what another order of classes must mend
UNFIT_TRAIN = 0.1  # how much worse a teacher may be on training images than on validation
FEW_STEPS, FEW_EPOCHS, FITTED = 300, 2, 0.95
STILL_RISING = 0.01
HARDLY_BETTER = 0.01
TOO_STRONG, TOO_WEAK = 30.0, 1 / 30  # pull of a term against that of the labels
FLAT, NOT_FLAT, ONE_HOT = 0.99, 0.9, 0.02  # of the largest entropy
EDGE_ALPHA = 0.95
HESITANT, TOO_SURE, NEARLY_ONE_HOT = 0.1, 0.1, 0.95
IMITATES, IMITATES_BADLY, CARRIES_OVER, GAINED = 0.9, 0.8, 0.2, 0.02


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause.

    Attributes:
        name: what it is called in ``results.json``; see ``CAUSES``.
        level: ``likely`` or ``possible``.
        title: the cause in a few words.
        measured: what was seen, with its numbers.
        why: why that matters.
    """

    name: str
    level: Level
    title: str
    measured: str
    why: str


def diagnose(m: Measured) -> list[Finding]:
    """All causes that the measurements speak for, the most likely first; empty where nothing is wrong."""
    found = [finding for rule in _RULES if (finding := rule(m)) is not None]
    return sorted(found, key=lambda f: f.level != "likely")  # stable: up the stream first


def not_looked_at(m: Measured) -> list[str]:
    """What the rules could not look at in this run, in words."""
    found = []
    if m.multi_label:
        found.append("whether classes were renamed (an image may have several labels)")
    elif m.teacher_train.renamed is None:
        found.append("whether classes were renamed (too few images for so many classes)")
    if not m.gradients and sum(w != 0 for w in m.weights.values()) > 1:
        found.append("how strongly the terms pull (the run did not record gradients)")
    if m.rising is None:
        found.append("whether curves still rise (too few epochs)")
    return found


def _labels(m: Measured) -> Finding | None:
    train, val = m.teacher_train, m.teacher_val
    seen = f"It is {_share(train.confidence)} sure of its answers to training images and right on {_share(train.right)}"
    chance = 3 * _error(train)  # three standard errors: a few images must not look like wrong labels
    if train.renamed is not None and train.renamed >= max(train.right + RENAMED, 0.5):
        seen += f"; with its classes in another order it would be right on {_share(train.renamed)}"
    elif not m.is_foreign or train.confidence - train.right < max(CONTRADICTS, chance):
        if not fits_validation_only(m):
            return None
        seen = (
            f"It is right on {_share(val.right)} of validation images but on {_share(train.right)} of training images"
        )
    return Finding(
        "labels",
        "likely",
        "The teacher contradicts the labels",
        f"{seen}.",
        "One term pulls the student to the labels and another one away from them. The teacher's classes may stand in "
        "another order, it may have learned other labels, or the labels of the training images are wrong.",
    )


def fits_validation_only(m: Measured) -> bool:
    """Whether a teacher that is right on validation is wrong on training images, so that their labels are in doubt."""
    train, val = m.teacher_train, m.teacher_val
    error = math.hypot(_error(train), _error(val))
    return val.right >= 0.5 and val.right - train.right >= max(UNFIT_TRAIN, 3 * error)


def is_too_short(fitted: float, epochs: int, steps: int) -> bool:
    """Whether a training was far too short: hardly begun, and the control has not learned its own images.

    Args:
        fitted: the measure of the control on training images.
        epochs: of a student.
        steps: of a student.
    """
    return (steps < FEW_STEPS or epochs <= FEW_EPOCHS) and fitted < FITTED


def _steps(m: Measured) -> Finding | None:
    score = m.students["control"]["train"].score
    few = is_too_short(score, m.epochs, m.steps)
    rising = m.rising is not None and m.rising > max(STILL_RISING, 2 / m.num_val)
    if not few and not rising:
        return None
    seen = f"The students were trained for {_plural(m.epochs, 'epoch')}, {_plural(m.steps, 'step')}"
    if few:
        found = "a mean average precision of only" if m.measure == "map" else "only"
        seen += f", and the control reaches {found} {_share(score)} on its own training images"
    if rising:
        seen += f"; over the last tenth of training validation still rose by {_points(m.rising or 0)}"
    return Finding(
        "steps",
        "likely" if few else "possible",
        "Training was too short",
        f"{seen}.",
        "A student that has not even learned the labels has not learned from its teacher either. What a teacher adds "
        "shows late in training.",
    )


def _weak_teacher(m: Measured) -> Finding | None:
    error = m.gap_error or 0.0
    if m.gap > max(HARDLY_BETTER, 2 * error):
        return None
    spread = f" (± {_points(2 * error)})" if m.gap_error is not None else ""
    title = f"The teacher is {'hardly' if m.gap > 0 else 'no'} better than the control"
    if abs(m.gap) < 5e-4:
        amount = f"as good as the student trained alone{spread}"
    else:
        amount = f"{_points(abs(m.gap))} {'better' if m.gap > 0 else 'worse'} than the student trained alone{spread}"
    return Finding(
        "weak_teacher",
        "likely" if m.gap <= 0 else "possible",
        title,
        f"On validation images the teacher is {amount}.",
        "What the control finds out by itself cannot be taught to it. The gap is about the most that there is to gain.",
    )


def _denoiser(m: Measured) -> Finding | None:
    if m.acceptance is None or m.acceptance.get("passed") is not False:
        return None
    figures = ", ".join(
        f"{str(name).replace('_', ' ')} {value:.3g}"
        for name, value in m.acceptance.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    )
    detail = str(m.acceptance.get("detail") or figures or "it recorded no figures")
    title, why = "The denoiser does not denoise", "The student's features pass through it before they are compared"
    why += " with the teacher's. One that does not bring them nearer only hides the difference."
    if "autoencoder of" in detail and "denoiser of" not in detail:
        title, why = "The autoencoder loses what the teacher says", "Students learn what it keeps of the features."
    return Finding("denoiser", "likely", title, f"The check at the end of the first phase failed: {detail}.", why)


def _scale(m: Measured) -> Finding | None:
    pulls = {name: v for name, v in m.pulls.items() if name not in (m.label_term, "total")}
    own = m.gradients.get("distilled", {}).get(m.label_term, 0.0)
    if not pulls:
        return None
    name, most = max(pulls.items(), key=lambda item: item[1])
    base = m.gradients["control"][m.label_term]
    if most > TOO_STRONG:
        return Finding(
            "scale",
            "likely",
            f"The term {name} is too strong",
            f"With its weight of {m.weights.get(name, 0):g} its gradient is {most:,.0f} times that of the labels on "
            "the control, which the learning rate suits.",
            "Steps become that much longer (or, with AdamW or clipping, the labels no longer count), and the network "
            "is thrown about instead of being taught.",
        )
    if own > 0 and sum(pulls.values()) * base < TOO_WEAK * own:
        return Finding(
            "scale",
            "likely",
            "The teacher's terms are too weak",
            f"All of them together have {100 * sum(pulls.values()) * base / own:.1f} % of the gradient of the labels "
            f"({', '.join(f'{n} {m.weights.get(n, 0):g}' for n in pulls)}).",
            "The student is trained as if there were no teacher.",
        )
    return None


def _temperature(m: Measured) -> Finding | None:
    t, seen = m.temperature, m.teacher_train
    if t is None:
        return None
    soft, plain = seen.entropy_at_temperature / m.most_entropy, seen.entropy / m.most_entropy
    facts = (
        f"At temperature {t:g} the soft targets have {100 * soft:.1f} % of the largest entropy there is "
        f"(at temperature 1: {100 * plain:.1f} %)."
    )
    if t > 1 and soft >= FLAT and plain <= NOT_FLAT:
        return Finding(
            "temperature",
            "likely",
            "The temperature is too high",
            facts,
            "Every class gets nearly the same share. The student is then made to copy raw logits, those of classes "
            "that the teacher rules out like any other (Hinton et al. 2015, section 2.1), and not its answers.",
        )
    if t <= 1 and soft <= ONE_HOT and not m.memorised:
        return Finding(
            "temperature",
            "possible",
            "The temperature is too low",
            facts,
            "Such answers are one-hot: they say what the labels say. A higher temperature shows what else the teacher "
            "finds alike.",
        )
    return None


def _alpha(m: Measured) -> Finding | None:
    label = m.weights.get(m.label_term, 0.0)
    others = sum(w for name, w in m.weights.items() if name not in (m.label_term, *m.own_terms))
    if others == 0 or (m.alpha is not None and m.alpha >= EDGE_ALPHA):
        share = f" (alpha {m.alpha:g})" if m.alpha is not None else ""
        return Finding(
            "alpha",
            "likely" if others == 0 else "possible",
            "The teacher was not used" if others == 0 else "The teacher hardly counts",
            f"The weight of the labels is {label:g}, of all other terms together {others:g}{share}.",
            "A student that follows the labels alone is the control.",
        )
    if label == 0 and m.teacher_train.right < FITTED:
        return Finding(
            "alpha",
            "possible",
            "The labels were not used",
            f"The weight of {m.label_term} is 0, and the teacher is right on {_share(m.teacher_train.right)} of the "
            "training images.",
            "Where the teacher errs, nothing tells the student so.",
        )
    return None


def _memorised(m: Measured) -> Finding | None:
    train, val = m.teacher_train, m.teacher_val
    too_sure = train.confidence >= NEARLY_ONE_HOT and val.confidence - val.right >= TOO_SURE
    if not m.memorised and not too_sure:
        return None
    seen = (
        f"It is right on {_share(train.right)} of training and {_share(val.right)} of validation images, and "
        f"{_share(train.confidence)} and {_share(val.confidence)} sure; the entropy of its answers is "
        f"{train.entropy:.3f} and {val.entropy:.3f} nats."
    )
    return Finding(
        "memorised",
        "likely" if m.memorised else "possible",
        "The teacher knows its training images by heart" if m.memorised else "The teacher is too sure of itself",
        seen,
        "On the very images that the student learns from its answers are nearly one-hot, and say little more than the "
        "labels do.",
    )


def _hesitant(m: Measured) -> Finding | None:
    train = m.teacher_train
    if (
        m.weights.get("kd", 0) <= 0
        or m.standardized
        or (m.temperature or 1) < 2
        or m.gap <= 0
        or train.right - train.confidence < HESITANT
    ):
        return None
    return Finding(
        "hesitant",
        "possible",
        "The teacher hesitates, and the temperature flattens it further",
        f"It is right on {_share(train.right)} of training images and {_share(train.confidence)} sure; its soft "
        f"targets have {100 * train.entropy / m.most_entropy:.0f} % of the largest entropy at temperature 1 and "
        f"{100 * train.entropy_at_temperature / m.most_entropy:.0f} % at temperature {m.temperature:g}.",
        "A better classifier can be the worse teacher: mixup, CutMix and label smoothing make its answers soft in all "
        "directions alike, and plain kd asks the student to copy that. A method that compares answers up to their "
        "scale (dist) does not.",
    )


def _capacity(m: Measured) -> Finding | None:
    own = m.students["distilled"]
    train, val, alone = own["train"], own["val"], m.students["control"]
    if m.gap <= 0:
        return None
    seen = (
        f"The distilled student gives the teacher's answer on {_share(train.agreement)} of training and "
        f"{_share(val.agreement)} of validation images (control: {_share(alone['train'].agreement)} and "
        f"{_share(alone['val'].agreement)}; divergence {train.kl:.3f} and {val.kl:.3f} nats)."
    )
    if train.agreement < IMITATES and train.agreement < m.teacher_train.right:
        return Finding(
            "capacity",
            "likely" if train.agreement < IMITATES_BADLY else "possible",
            "The student cannot follow the teacher",
            seen,
            "Not even on the images that it was trained on does it answer alike: the teacher is out of its reach.",
        )
    if train.agreement - val.agreement >= CARRIES_OVER and val.agreement <= alone["val"].agreement + GAINED:
        return Finding(
            "carry_over",
            "possible",
            "What the student copies does not carry over",
            seen,
            "It follows the teacher where it was trained, and beyond that no better than the control. More images, "
            "labelled or not, or stronger views give it more of the teacher's answers to learn from.",
        )
    return None


def _seeds(m: Measured) -> Finding | None:
    if m.outcome != "no difference shown" or m.detectable is None or m.gap <= 0 or m.detectable <= m.gap / 2:
        return None
    seen = (
        f"With {_plural(m.num_seeds, 'seed')} and these test images a run shows differences above about "
        f"{_limit(m.detectable)}; the teacher is {_points(m.gap)} above the control on validation."
    )
    if m.lacks_test_images:
        seen += f" No number of seeds would bring that below about {_limit(m.endless_seeds or 0.0)}."
    return Finding(
        "seeds",
        "likely" if m.detectable > m.gap else "possible",
        "The comparison could not have shown it",
        seen,
        "A student rarely gains more than half of that gap, so an effect of the usual size goes unseen.",
    )


_RULES: Sequence[Callable[[Measured], Finding | None]] = (
    _labels,
    _steps,
    _weak_teacher,
    _denoiser,
    _scale,
    _temperature,
    _alpha,
    _memorised,
    _hesitant,
    _capacity,
    _seeds,
)
CAUSES = (
    "labels",
    "steps",
    "weak_teacher",
    "denoiser",
    "scale",
    "temperature",
    "alpha",
    "memorised",
    "hesitant",
    "capacity",
    "carry_over",
    "seeds",
)
"""Names of all findings, up the stream first."""


def _error(seen: Answers) -> float:
    """Standard error of ``right``; of several labels too large, as images and not labels are counted."""
    return math.sqrt(seen.right * (1 - seen.right) / max(seen.num_images, 1))


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _limit(value: float) -> str:
    return _points(math.ceil(round(1000 * value, 6)) / 1000)  # rounded up, as the verdict says it


def _points(value: float) -> str:
    return f"{100 * value:.1f} points"


def _plural(number: int, one: str) -> str:
    return f"{number:,} {one if number == 1 else one + 's'}"
