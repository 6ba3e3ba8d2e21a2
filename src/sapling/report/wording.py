"""How the page says things: numbers, durations, names. Plain words, one place."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable

MISSING = "–"
MEASURES = {
    "top1": "top-1 accuracy",
    "macro_recall": "mean recall over classes",
    "map": "mean average precision",
}
ROWS = (  # key, name, note, kind, whether more is better
    ("map", "Mean average precision", "are images with a label ranked before those without it", "share", True),
    ("auc", "Area under the ROC", "share of pairs of yes and no that are ranked rightly", "share", True),
    ("top1", "Top-1 accuracy", "share of images it gets right", "share", True),
    ("top5", "Top-5 accuracy", "the right class is among its first five", "share", True),
    ("macro_recall", "Macro recall", "every class counts the same", "share", True),
    ("macro_precision", "Macro precision", "how often a named class is true", "share", True),
    ("macro_f1", "Macro F1", "recall and precision in one figure", "share", True),
    ("micro_f1", "Micro F1", "as macro F1, but every label given counts the same", "share", True),
    ("same_labels", "All labels right", "share of images with exactly the right labels", "share", True),
    ("bce", "BCE", "binary cross-entropy per label; lower is better", "plain", False),
    ("nll", "NLL", "surprise at the true class; lower is better", "plain", False),
    ("ece", "ECE", "how far its stated certainty is off; lower is better", "share", False),
    ("worst_class_recall", "Worst class", "recall of the class it knows least", "share", True),
    ("agreement", "Answers as the teacher", "share of images with the same answer", "share", True),
    ("kl", "KL to the teacher", "nats between its probabilities and the teacher's; lower is closer", "plain", False),
    ("cka", "CKA with the teacher", "likeness of the embeddings; 1 is the same up to rotation", "plain", True),
)
GLOSSARY = (
    ("Teacher", "the large classifier that the small one learns from."),
    ("Student", "the small classifier that is meant for use."),
    ("Control", "the same student, trained in the same way, but without a teacher. It shows what the teacher adds."),
    ("Distilled student", "the student that learned from the labels and from the teacher's answers."),
    ("Seed", "one complete repetition. It fixes the first weights and the order of the images."),
    (
        "Interval",
        "the range in which the true difference plausibly lies. Where it includes zero, no difference was shown.",
    ),
    (
        "Validation and test",
        "validation images steer the training and every choice; test images are looked at once, at the end.",
    ),
    ("Recall of a class", "of all test images of this class, the share that was recognised."),
    ("Precision of a class", "of all images that were given this class, the share that really are of it."),
    (
        "Average precision",
        "of several labels per image: the mean, over the images with a label, of how many ranked up to there have it.",
    ),
    ("Macro", "the mean over classes, so that a rare class counts as much as a common one."),
    ("NLL", "negative log-likelihood: how surprised the model is, on average, by the true class."),
    ("ECE", "expected calibration error: how far “90 % sure” is from being right 9 times in 10."),
    ("KL", "Kullback-Leibler divergence: what is lost, in nats, when the student stands in for the teacher's answers."),
    (
        "CKA",
        "centred kernel alignment: do two networks place images alike? 0 to 1, without bias, on up to 512 test images.",
    ),
    ("Calibration", "whether stated certainty comes true: of the answers that are 90 % sure, 90 % should be right."),
    ("MACs", "multiply-accumulate operations for one image: the amount of arithmetic."),
    ("Agreement", "share of test images on which the student gives the teacher's answer, right or wrong."),
)


def share(value: float | None, digits: int = 1) -> str:
    """0.9132 -> ``91.3 %`` (with a narrow no-break space)."""
    return MISSING if value is None else f"{100 * value:.{digits}f}\u202f%"


def plain(value: float | None, digits: int = 3) -> str:
    """0.28314 -> ``0.283``."""
    return MISSING if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 1, factor: float = 100.0) -> str:
    """0.021 -> ``+2.1``; -0.004 -> ``−0.4``; what rounds to nothing is ``0.0``."""
    if value is None:
        return MISSING
    text = f"{abs(factor * value):.{digits}f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else "\u2212") + text


def between(low: float | None, high: float | None, digits: int = 1, factor: float = 100.0) -> str:
    """``+0.9 to +3.3``; nothing where both are one: that no draw differs proves no certainty."""
    if low is None or high is None or low == high:
        return ""
    return f"{signed(low, digits, factor)} to {signed(high, digits, factor)}"


def points(value: float | None) -> str:
    """0.0213 -> ``2.1 points``; small ones keep a second digit."""
    if value is None:
        return MISSING
    digits = 2 if 0 < abs(value) < 0.00095 else 1
    return f"{100 * value:.{digits}f} points"


def limit(value: float | None) -> str:
    """0.16334 -> ``16.4 points``: what can be shown is rounded up, or the sentence would promise too much."""
    return MISSING if value is None else points(math.ceil(round(1000 * value, 6)) / 1000)


def count(value: float | None) -> str:
    """12345 -> ``12,345``."""
    return MISSING if value is None else f"{round(value):,}"


def amount(value: float | None) -> str:
    """11,190,000 -> ``11.2 million``, for parameters and MACs."""
    if value is None:
        return MISSING
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(value) >= 0.9995 * size:
            return f"{_three(value / size)} {name}"
    return f"{round(value):,}"


def times(value: float) -> str:
    """4.26 -> ``4.3 times``."""
    return f"{_three(value)} times" if value < 9.95 else f"{value:,.0f} times"


def size(value: float | None) -> str:
    """Bytes -> ``4.2 MB``."""
    if value is None:
        return MISSING
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= 0.9995 * unit:
            return f"{_three(value / unit)}\u00a0{name}"
    return f"{value:.0f} bytes"


def duration(seconds: float | None) -> str:
    """3725 -> ``1 h 2 min``."""
    if seconds is None:
        return MISSING
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 10:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def milliseconds(value: float | None) -> str:
    """3.1416 -> ``3.1 ms``."""
    return MISSING if value is None else f"{_three(value)}\u00a0ms"


def plural(number: int, one: str, many: str | None = None) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def sentence(text: object) -> str:
    """``clean(text)`` with real minus signs before numbers, and numbers that stay with their per cent."""
    text = re.sub(r"(?<![\w.,\-])-(?=\d)", "\u2212", clean(text))
    return re.sub(r"(?<=\d) %", "\u202f%", text)


def model_name(name: object) -> str:
    """``sapling_cnn3`` is called ``cnn3``, as on the command line."""
    return clean(name).removeprefix("sapling_")


def arm_name(arm: str) -> str:
    """What the page calls an arm of the comparison."""
    return {"control": "Control", "model": "Model", "teacher": "Teacher"}.get(arm, f"Distilled ({arm})")


def clean(text: object) -> str:
    """``text`` on one line, without control characters and marks that turn the writing direction."""
    kept = (" " if c.isspace() else "" if unicodedata.category(c)[0] == "C" else c for c in str(text))
    return " ".join("".join(kept).split()) or "(no name)"


def width(text: str) -> int:
    """How many Latin letters wide ``text`` is; Chinese signs count as two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


def shorten(text: object, letters: int) -> str:
    """``clean(text)`` cut to the width of ``letters`` Latin letters."""
    text = clean(text)
    if width(text) <= letters:
        return text
    kept = ""
    for letter in text:
        if width(kept + letter) > letters - 1:  # room for the ellipsis
            break
        kept += letter
    return kept.rstrip() + "…"


def short_names(names: Iterable[object], letters: int) -> dict[str, str]:
    """Each name, cleaned, to what there is room for: cut at the end; where some would be alike, before they differ."""
    cut = {name: shorten(name, letters) for name in map(clean, names)}
    for short in set(cut.values()):
        alike = [name for name, shown in cut.items() if shown == short]
        begin = next((i for i, at in enumerate(zip(*alike, strict=False)) if len(set(at)) > 1), 0)
        for name in alike if begin else ():
            tail = name[begin:][: letters // 3].rstrip()
            cut[name] = shorten(name, letters - width(tail)) + tail
    return cut


def file_stem(text: object) -> str:
    """``text`` as part of a file name."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in str(text))[:40] or "_"


def _three(value: float) -> str:
    """Three digits that count: 0.123, 4.26, 42.6, 426."""
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2 if value >= 0.9995 else 3
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
