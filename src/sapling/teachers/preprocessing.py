"""Are images prepared for the teacher as in its training? Other ways are tried on a few of them.

A card with the wrong mean, standard deviation, range, order of colours or size is a common mistake: nothing crashes,
the teacher only answers worse. It shows when another way of the field is *clearly* better.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from sapling.bands import Bands
from sapling.errors import ModelError
from sapling.models.load import Preprocess
from sapling.models.tapped import TappedModel
from sapling.teachers.gate import Check

NUM_IMAGES, NUM_FIRST = 512, 64
"""Images for a judgement, and images on which a way must be better to come that far."""
SIGNIFICANCE, SMALLEST_GAIN, SMALLEST_SHARE = 1e-4, 0.05, 0.2
"""Of the paired test, of accuracy, of the errors that disappear: benchmarks/gate.py shows what they rest on."""
TIE = 0.02
"""Ways whose gains differ by less are equally good."""
LARGEST_SIZE = 448
CAFFE_MEAN = (104 / 255, 117 / 255, 123 / 255)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to prepare images.

    Attributes:
        name: for messages.
        preprocess: size, mean and standard deviation.
        reversed_colours: blue comes first.
    """

    name: str
    preprocess: Preprocess
    reversed_colours: bool = False


@dataclass(frozen=True, slots=True)
class Trial:
    """How another way did against the declared one, on the same images.

    Attributes:
        name: of the way.
        accuracy: with it.
        declared: as declared.
        gain: in accuracy beyond what the same answers would score in random order; always naming the largest class
            gains nothing.
        num_images: on how many.
        p_value: one-sided exact sign test over the images that only one of the two gets right.
        input_shift: as in `PreprocessingResult`, with this way.
    """

    name: str
    accuracy: float
    declared: float
    gain: float
    num_images: int
    p_value: float
    input_shift: float | None = None

    @property
    def is_clearly_better(self) -> bool:
        """Whether it is beyond chance and large, and mends enough of the errors.

        (Of a random head's answers any way may be a few points better.)
        """
        is_large = self.gain >= max(SMALLEST_GAIN, SMALLEST_SHARE * (1 - self.declared))
        return self.p_value < SIGNIFICANCE and is_large


@dataclass(frozen=True, slots=True)
class PreprocessingResult:
    """What was tried.

    Attributes:
        declared: accuracy as declared.
        num_images: on how many images.
        trials: best first.
        input_shift: how far the inputs of the first batch norm are from those it was trained on, in nats per
            channel (0: alike, above 1: other images); None where there is none.
        seconds: that it took.
    """

    declared: float
    num_images: int
    trials: tuple[Trial, ...]
    input_shift: float | None
    seconds: float

    @property
    def check(self) -> Check:
        """The check ``preprocessing`` of the gate."""
        wrong = [trial for trial in self.trials if trial.is_clearly_better]
        took = f"{len(self.trials)} other ways tried, {self.seconds:.1f} s"
        if wrong:
            best = wrong[0]
            text = f"{100 * best.declared:.1f} % as declared, {100 * best.accuracy:.1f} % with {best.name}; "
            text += f"{best.num_images} images"
            return Check("preprocessing", False, text, best.accuracy)
        better = f"{100 * self.declared:.1f} % of {self.num_images} images as declared, "
        better += "and no other way is clearly better"
        return Check("preprocessing", True, f"{better} ({took})")


def other_ways(declared: Preprocess, images: Tensor) -> list[Way]:
    """The ways of the field that differ from ``declared``.

    Args:
        declared: what the teacher's card says.
        images: ``[n,C,H,W]`` in [0,1]; their own mean, deviation and size are ways, too.
    """
    channels = len(declared.mean)

    def scaled(name: str, mean: Sequence[float], std: Sequence[float]) -> Way:
        return Way(name, replace(declared, mean=tuple(map(float, mean)), std=tuple(map(float, std))))

    ways = [
        scaled("mean and std 0.5", (0.5,) * channels, (0.5,) * channels),
        scaled("no mean and std (mean 0, std 1)", (0.0,) * channels, (1.0,) * channels),
        scaled("values from 0 to 255 (mean 0, std 1/255)", (0.0,) * channels, (1 / 255,) * channels),
    ]
    if images.shape[1] == channels:
        own = images.mean((0, 2, 3)).tolist(), images.std((0, 2, 3)).clamp_min(1e-3).tolist()
        ways.append(scaled("the images' own mean and std", *own))
    if channels == 3:
        ways.append(scaled("ImageNet's mean and std", IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        caffe = scaled("Caffe's way (blue first, 0 to 255, mean 104, 117, 123)", CAFFE_MEAN, (1 / 255,) * 3)
        if images.shape[1] == 3:
            ways += [Way("blue first (BGR)", declared, True), replace(caffe, reversed_colours=True)]
    declared_size = declared.img_size
    for size in sorted({declared_size // 2, declared_size * 2, images.shape[2]} - {declared_size}):
        if 16 <= size <= LARGEST_SIZE:
            store_size = max(size, round(declared.store_size * size / declared_size))
            ways.append(Way(f"{size} px", replace(declared, img_size=size, store_size=store_size)))
    return [way for way in ways if way.reversed_colours or not _is_alike(way.preprocess, declared)]


def check_preprocessing(
    model: nn.Module,
    declared: Preprocess,
    images: Tensor,
    labels: NDArray[np.int64],
    *,
    bands: Bands | None = None,
    batch_size: int = 64,
    bf16: bool = False,
) -> PreprocessingResult:
    """Compare the declared way with the others.

    Every way answers the first `NUM_FIRST` images, and all of them only where it does better there, so that a good
    teacher costs about 1,300 forward passes of one image.

    Args:
        model: the teacher's network, on the device of the images; its mode is left as it is.
        declared: its preprocessing.
        images: ``[n,C,H,W]`` in [0,1], in random order.
        labels: ``[n]``.
        bands: what the channels of the images are, where the network reads some of them only.
        batch_size: images per forward.
        bf16: run under autocast.
    """
    started = time.perf_counter()

    def named(way: Way, start: int, stop: int) -> NDArray[np.int64]:
        tapped = TappedModel(model, way.preprocess, bands=bands).eval()
        chosen = images[start:stop].flip(1) if way.reversed_colours else images[start:stop]
        with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            answers = [tapped(part).logits.argmax(1).cpu() for part in torch.split(chosen, batch_size)]
        return np.asarray(torch.cat(answers).numpy(), dtype=np.int64)

    modes = {module: module.training for module in model.modules()}
    num, first = len(labels), min(NUM_FIRST, len(labels))
    trials: list[Trial] = []
    try:
        with _first_norm(model) as shifts:
            base = named(Way("as declared", declared), 0, num)
            declared_shift = _mean(shifts)
            for way in other_ways(declared, images):
                shifts.clear()
                with suppress(ModelError):  # a size that the network cannot read
                    found = named(way, 0, first)
                    if num > first and (found == labels[:first]).sum() > (base[:first] == labels[:first]).sum():
                        found = np.concatenate([found, named(way, first, num)])
                    trial = _trial(way.name, found, base[: len(found)], labels[: len(found)])
                    trials.append(replace(trial, input_shift=_mean(shifts)))
    finally:
        for module, training in modes.items():
            module.training = training
    best = max((trial.gain for trial in trials if trial.is_clearly_better), default=0.0)

    def rank(trial: Trial) -> tuple[bool, bool, float, float]:
        # Several ways may do equally well (only the range differs): then the first batch norm knows its own.
        as_good = trial.is_clearly_better and trial.gain >= best - TIE and trial.input_shift is not None
        return not trial.is_clearly_better, not as_good, (trial.input_shift or 0.0) if as_good else 0.0, -trial.gain

    trials.sort(key=rank)
    seconds = time.perf_counter() - started
    return PreprocessingResult(float((base == labels).mean()), num, tuple(trials), declared_shift, seconds)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _trial(name: str, found: NDArray[np.int64], base: NDArray[np.int64], labels: NDArray[np.int64]) -> Trial:
    hits, before = found == labels, base == labels
    gained, lost = int((hits & ~before).sum()), int((before & ~hits).sum())
    p_value = float(binomtest(gained, gained + lost, alternative="greater").pvalue) if gained + lost else 1.0
    gain = _skill(found, labels) - _skill(base, labels)
    return Trial(name, float(hits.mean()), float(before.mean()), gain, len(labels), p_value)


def _skill(found: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Accuracy less what the same answers would score in random order."""
    num_classes = int(max(found.max(), labels.max())) + 1
    shares = [np.bincount(values, minlength=num_classes) / len(labels) for values in (found, labels)]
    return float((found == labels).mean() - shares[0] @ shares[1])


def _is_alike(one: Preprocess, two: Preprocess) -> bool:
    """Whether no network would notice the difference."""
    if one.img_size != two.img_size or len(one.mean) != len(two.mean):
        return False
    means = max(abs(a - b) / c for a, b, c in zip(one.mean, two.mean, two.std, strict=True))
    return means < 0.1 and max(abs(a / b - 1) for a, b in zip(one.std, two.std, strict=True)) < 0.1


@contextmanager
def _first_norm(model: nn.Module) -> Iterator[list[float]]:
    """Measure what the first batch norm gets against what it remembers: Kullback-Leibler of two normal laws."""
    shifts: list[float] = []
    norm = next((m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats), None)

    def measure(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        known_mean, known_var = module.running_mean, module.running_var
        if len(inputs[0]) < 2 or known_mean is None or known_var is None:
            return
        values = inputs[0].float()
        mean, var = values.mean((0, 2, 3)), values.var((0, 2, 3)).clamp_min(1e-12)
        known_var = known_var.float().clamp_min(1e-12)
        nats = 0.5 * (var / known_var + (mean - known_mean) ** 2 / known_var - 1 - (var / known_var).log())
        shifts.append(float(nats.median()))

    handle = norm.register_forward_pre_hook(measure) if norm is not None else None
    try:
        yield shifts
    finally:
        if handle is not None:
            handle.remove()
