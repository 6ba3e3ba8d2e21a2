"""What a training step costs with each method, beside the same step of the same student alone.

One pair, resnet18 -> cnn3 at 64 pixels, batch 64, 10 classes, default settings, float32, one thread, on noise. A step
with a method is a plain step (forward pass of the student, cross-entropy, backward, the optimiser's step) and the
method's own part: its terms, their gradients down to what the student handed out, and the step of its own parameters.
That part is timed by itself, less that of the control, since the difference of two whole steps drowns in the noise of
a shared machine (a first version had the control 8 % cheaper than itself). ``extra`` is the part as a share of a plain
step, with the teacher's outputs at hand as from a cache; ``live`` adds one forward pass of the teacher. All methods,
plain steps and the teacher are timed in turn, the median, the lowest and the highest of the repeats are kept after a
round to warm up. The clock counts processor seconds, because the machine may be shared. Phases before the students
(fdbd) are not in it: those are paid once. The same script counts each method's own parameters.

    python benchmarks/step_cost.py [--repeats 15] [--output benchmarks/results/step_cost.json]

Then ``python -m sapling.methods.generate`` takes the figures into the list of methods.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from sapling import methods
from sapling.engine.objective import weighted_sum
from sapling.engine.optim import OptimSettings, make_optimizer
from sapling.methods.registry import built_in
from sapling.models import Preprocess, TappedModel, create_model
from sapling.record import environment
from sapling.types import Batch, Outputs, PairInfo, Step

TEACHER, STUDENT, SIZE, BATCH, NUM_CLASSES, NUM_IMAGES = "resnet18", "cnn3", 64, 64, 10, 1000
CONTROL, PLAIN_EVERY = "none", 10
RESULT = Path(__file__).parent / "results" / "step_cost.json"


def network(name: str, taps: tuple[str, ...]) -> TappedModel:
    """A fresh network of the pair."""
    how = Preprocess(SIZE, SIZE, (0.5,) * 3, (0.5,) * 3)
    model = create_model(name, num_classes=NUM_CLASSES, img_size=SIZE, seed=0)
    return TappedModel(model, how, taps).to(memory_format=torch.channels_last)


def make(name: str, teacher: TappedModel) -> tuple[TappedModel, methods.Method]:
    """Student and method of the pair, with default settings."""
    student = network(STUDENT, methods.taps(name).student)
    wanted = methods.taps(name).teacher
    info = PairInfo(
        num_classes=NUM_CLASSES,
        num_samples=NUM_IMAGES,
        student_shapes=student.shapes,
        teacher_shapes={tap: shape for tap, shape in teacher.shapes.items() if tap in wanted},
        train_labels=torch.arange(NUM_IMAGES) % NUM_CLASSES,
        teacher_card=teacher.classifier_card,
        student_without_activation=student.taps_without_activation,
        teacher_without_activation=tuple(t for t in teacher.taps_without_activation if t in wanted),
        student_places=student.places,
    )
    torch.manual_seed(0)
    return student, methods.build(name, info)


def open_teacher() -> TappedModel:
    """The teacher, with every tap that any method asks for."""
    wanted = {tap for name in built_in() for tap in methods.taps(name).teacher}
    return network(TEACHER, tuple(sorted(wanted))).eval()


def plain_step(batch: Batch) -> Callable[[], None]:
    """A training step of the student alone."""
    student = network(STUDENT, ()).train()
    optimizer = make_optimizer([student], OptimSettings("sgd", 0.01, 5e-4, "constant", 0, 1))

    def run() -> None:
        loss = F.cross_entropy(student(batch.images).logits, batch.labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return run


def own_part(name: str, teacher: TappedModel, target: Outputs, batch: Batch) -> tuple[Callable[[], None], int]:
    """What a method does in a step, and how many parameters it has of its own."""
    student, method = make(name, teacher)
    phase = method.phases()[-1]
    method.begin_phase(phase)
    method.train()
    weights = method.weights_in(phase)
    step = Step(phase.name, 1, 0.5, tuple(weights))
    with torch.no_grad():
        given = student.train()(batch.images)
    leaves = Outputs(
        given.logits.requires_grad_(), {tap: feature.requires_grad_() for tap, feature in given.features.items()}
    )
    learns = any(parameter.requires_grad for parameter in method.parameters())
    settings = OptimSettings("sgd", 0.01, 5e-4, "constant", 0, 1)
    optimizer = make_optimizer([method], settings) if learns else None

    def run() -> None:
        for leaf in (leaves.logits, *leaves.features.values()):
            leaf.grad = None
        loss = weighted_sum(method(leaves, target, batch, step), weights)
        if optimizer is not None:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if optimizer is not None:
            optimizer.step()

    return run, sum(parameter.numel() for parameter in method.parameters())


def timed(call: Callable[[], Any]) -> float:
    """Processor seconds of one call."""
    begun = time.process_time()
    call()
    return time.process_time() - begun


def measure(repeats: int) -> dict[str, Any]:
    """Time all methods in turn, each beside a plain step."""
    torch.set_num_threads(1)
    teacher = open_teacher()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, 3, SIZE, SIZE, generator=generator).contiguous(memory_format=torch.channels_last)
    numbers = torch.arange(BATCH)
    batch = Batch(images, numbers % NUM_CLASSES, numbers, torch.zeros_like(numbers))

    def ask() -> Outputs:
        with torch.no_grad():
            return teacher(images)

    target = ask()
    plain = plain_step(batch)
    parts = {name: own_part(name, teacher, target, batch) for name in built_in()}
    seconds: dict[str, list[float]] = {name: [] for name in (*parts, "plain step", "teacher")}
    for repeat in range(repeats + 1):
        round_of = [(name, run) for name, (run, _) in parts.items()]
        for number, (name, run) in enumerate(round_of):
            taken = timed(run)
            if repeat:
                seconds[name].append(taken)
            if number % PLAIN_EVERY == 0:
                for other, call in (("plain step", plain), ("teacher", ask)):
                    taken = timed(call)
                    if repeat:
                        seconds[other].append(taken)
        print(f"round {repeat} of {repeats}", flush=True)
    alone, forward = (statistics.median(seconds[key]) for key in ("plain step", "teacher"))
    control = statistics.median(seconds[CONTROL])
    shares = {name: [(one - control) / alone for one in seconds[name]] for name in parts}
    needs = {name: methods.load_class(name).requires.teacher for name in parts}
    return {
        "seconds": {
            key: {
                "median": round(statistics.median(found), 4),
                "low": round(min(found), 4),
                "high": round(max(found), 4),
            }
            for key, found in seconds.items()
        },
        "methods": {
            name: {
                "own_parameters": parts[name][1],
                "extra": round(statistics.median(found), 4),
                "low": round(min(found), 4),
                "high": round(max(found), 4),
                "live": round(statistics.median(found) + needs[name] * forward / alone, 3),
            }
            for name, found in shares.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    about = environment()
    load = os.getloadavg()
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    torch_version = about["libraries"].get("torch", "?")
    note = (
        f"{today}, {TEACHER} -> {STUDENT} at {SIZE} px, batch {BATCH}, float32, one thread of {about['processor']} "
        f"(shared, load {load[0]:.0f} on {about['cores']} cores), torch {torch_version}, processor time, median of "
        f"{options.repeats}"
    )
    found = measure(options.repeats)
    record = {
        "note": note,
        "environment": {**about, "load_average": load, "load_average_after": os.getloadavg()},
        "repeats": options.repeats,
        "clock": "processor seconds",
        **found,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
