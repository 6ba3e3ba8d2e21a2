"""What is measured beside the verdict once the test split is open: levels, classes, fidelity, efficiency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sapling.data.loader import Dataset
from sapling.errors import ModelError
from sapling.evaluation.classes import class_gains
from sapling.evaluation.efficiency import measure_network
from sapling.evaluation.fidelity import linear_cka
from sapling.evaluation.levels import measure_levels
from sapling.models.load import ensemble_folders, load_model
from sapling.models.tapped import TappedModel
from sapling.record import Run
from sapling.screen import duration
from sapling.teachers.ensemble import Ensemble
from sapling.workflows.passes import Machine, load_trained, member_record
from sapling.workflows.several import teacher_names
from sapling.workflows.ship import first_images, threads_of

CKA_IMAGES = 512
Logits = NDArray[np.float32]


def figures(
    teacher: Logits,
    control: tuple[str, Logits],
    method: tuple[str, Logits],
    truth: NDArray[np.int64],
    *,
    groups: list[str] | None,
    confidence: float,
    measure: str,
) -> dict[str, Any]:
    """Intervals of the differences, levels of all arms, and gains of the classes: parts of ``comparison``.

    Args:
        teacher: logits ``[n,K]``.
        control: its name and logits ``[S,n,K]``.
        method: the same of the distilled students.
        truth: ``[n]`` or ``[n,K]``.
        groups: of the images, or None.
        confidence: of each interval.
        measure: that of the verdict, which has an interval of its own.
    """
    arms = {"teacher": teacher[None], control[0]: control[1], method[0]: method[1]}
    found = measure_levels(arms, truth, compared=(control[0], method[0]), groups=groups, confidence=confidence)
    gains = class_gains(control[1], method[1], truth, groups=groups, confidence=confidence)
    return {
        "intervals": {name: gain.as_dict() for name, gain in found.differences.items() if name != measure},
        "levels": {arm: {k: level.as_dict() for k, level in levels.items()} for arm, levels in found.arms.items()},
        "classes": [gain.as_dict() for gain in gains],
    }


def embeddings_of(folder: Path, data: Dataset, machine: Machine, batch_size: int) -> NDArray[np.float32] | None:
    """Embeddings ``[m,D]`` of up to 512 test images, always the same ones; None where the network has none.

    Of several teachers they stand side by side, as a method sees them.
    """
    if parts := ensemble_folders(folder):
        found = [embeddings_of(part, data, machine, batch_size) for part in parts]
        known = [one for one in found if one is not None]
        return np.concatenate(known, 1) if len(known) == len(found) else None
    loaded = load_model(folder)
    chosen = data.split.test
    if len(chosen) > CKA_IMAGES:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, CKA_IMAGES, replace=False))
    few = replace(data, split=replace(data.split, test=chosen))
    try:
        model = TappedModel(loaded.model, loaded.preprocess, ("embedding",), bands=data.store.bands)
        model = model.to(machine.device).to(memory_format=torch.channels_last).eval()
        with torch.no_grad():
            batches = [
                model(batch.images).features["embedding"].flatten(1).cpu().numpy()
                for batch in few.eval_batches("test", batch_size=batch_size, device=machine.device)
            ]
    except ModelError:  # a network may have no embedding that can be tapped; a finished training must not fail for it
        return None
    return np.concatenate(batches)


def add_alignment(run: Run, members: Sequence[dict[str, Any]], data: Dataset, machine: Machine) -> None:
    """Add ``cka`` and ``cka_images`` to the ``fidelity`` of each member."""
    size = run.config.evaluate.batch_size
    teacher = embeddings_of(run.path("teacher"), data, machine, size)
    if teacher is None:
        return
    for member in members:
        own = embeddings_of(run.path("members", member["name"]), data, machine, size)
        found = None if own is None else linear_cka(own, teacher)
        member["fidelity"] |= {"cka": found, "cka_images": len(teacher)}


def efficiency(run: Run, data: Dataset, results: Mapping[str, Any]) -> dict[str, Any]:
    """Size, arithmetic, memory and time of the teacher, the shipped student and its ONNX file, on the CPU in float32.

    Control and distilled student are one network as a rule, measured once. Where they are not (a method may ship parts
    of its own), the one that does not ship is measured too, as ``control`` or ``distilled``.
    With ``deploy.latency_seconds`` 0 the networks are neither timed nor run; nor is a teacher that answers over several
    symmetries, which nobody deploys.
    """
    seconds = run.config.deploy.latency_seconds
    threads, networks = threads_of(run), []
    shipped = next(m for m in results["members"] if m["name"] == results["shipped"]["member"])
    others = [m for m in results["members"] if any(m[k] != shipped[k] for k in ("parameters", "macs"))]
    wanted = [
        ("teacher", ("teacher",), results.get("teacher")),
        *(("control" if m["arm"] == "control" else "distilled", ("members", m["name"]), m) for m in others[:1]),
        ("student", ("student",), shipped),
    ]
    for role, folder, known in wanted:
        if not known:
            continue
        parts = ensemble_folders(run.path(*folder)) or (run.path(*folder),)
        entry = {
            "role": role,
            "format": "torch",
            "parameters": known["parameters"],
            "macs": known["macs"],
            "bytes": sum((part / "model.safetensors").stat().st_size for part in parts),
        }
        if seconds and known.get("symmetries", 1) == 1:
            run.log(f"efficiency: timing the {role}")
            networks_of = [load_trained(part, data.store.bands)[1] for part in parts]
            network: nn.Module = Ensemble(networks_of) if len(networks_of) > 1 else networks_of[0]
            network = network.to("cpu", torch.float32)
            try:
                entry |= measure_network(network, first_images(data, 32), seconds=seconds, threads=threads)
            except RuntimeError as error:  # such as no memory: the training before it was not in vain
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                run.log(f"efficiency: the {role} cannot be timed on this machine: {reason}")
        networks.append(entry)
    onnx = results.get("deploy", {}).get("onnx")
    if onnx:
        networks.append(
            {"role": "student", "format": "onnx", **{k: onnx[k] for k in ("bytes", "threads", "latency_ms")}}
        )
    return {"device": "cpu", "precision": "fp32", "threads": threads, "networks": networks}


def cost(results: Mapping[str, Any], run: Run) -> dict[str, float]:
    """Seconds of training, the teacher's part apart."""
    config = run.config.teacher
    students = sum(float(m["seconds"]) for m in results["members"])
    heard = results["teacher"].get("heard", {})
    # once for each pass, whose members share them
    records = [(member_record(run, m["name"]) or {}, m["seed"]) for m in results["members"]]
    shared = list({r.get("pass", f"seed{seed}"): r.get("pass_seconds", {}) for r, seed in records}.values())
    forward = sum(float(s.get("teacher", 0)) for s in shared) + float(heard.get("seconds", 0))
    names = teacher_names(config.num_teachers)
    shared += [(member_record(run, name) or {}).get("pass_seconds", {}) for name in names]
    other = sum(float(s.get("data", 0)) + float(s.get("evaluation", 0)) for s in shared)
    teacher = float(results["teacher"]["seconds"])
    phases = {k: float(v["seconds"]) for k, v in results.get("phases", {}).items()}
    total = teacher + students + forward + other + sum(phases.values())
    before = f"before the students {duration(sum(phases.values()))}, " if phases else ""
    run.log(
        f"cost: teacher {duration(teacher)}, its answers {duration(forward)}, {before}students {duration(students)}"
    )
    return {
        "teacher_seconds": round(teacher, 3),
        "teacher_forward_seconds": round(forward, 3),
        "student_seconds": round(students, 3),
        "other_seconds": round(other, 3),
        **({"phase_seconds": round(sum(phases.values()), 3)} if phases else {}),
        "total_seconds": round(total, 3),
    }
