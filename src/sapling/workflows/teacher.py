"""The teacher of a run: trained here or given, one or several, always through the gate, always kept in ``teacher/``.

One network lies in ``teacher/`` itself. Several lie in ``teacher/0``, ``teacher/1``, .., each a folder of its own that
loads alone, and ``teacher/card.json`` says what they answer together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save as serialize

from sapling.bands import Bands
from sapling.data.folds import FOLDS_FILE, read_folds
from sapling.data.loader import Dataset
from sapling.evaluation.metrics import classification_metrics
from sapling.models.create import count_macs, count_parameters, origin_of
from sapling.models.load import LoadedModel, ensemble_folders, load_model, save_model
from sapling.models.tapped import TappedModel
from sapling.record import Run, atomic_file, read_json, write_json
from sapling.run_folders import same_teacher
from sapling.screen import Screen, duration
from sapling.teachers.ensemble import PLAIN, Ensemble, Symmetrised, Symmetry
from sapling.teachers.live import LiveTeacher
from sapling.types import Teacher
from sapling.workflows.gate import Judgement, answers_of, files_of, judge, judge_together, warnings_about
from sapling.workflows.networks import is_given, load_given, parts_of, provenance, symmetries_for
from sapling.workflows.pair import check_given
from sapling.workflows.passes import Machine, load_trained, measure_test
from sapling.workflows.scores import shown
from sapling.workflows.several import keep_folds, teacher_names, train_teacher
from sapling.workflows.teacher_split import check_teacher_splits, keep_split, split_of

Folds = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CheckedTeacher:
    """A teacher that passed the gate (or was accepted all the same).

    Attributes:
        members: network, classes and preprocessing of each; an ensemble has several.
        card: what is written to ``teacher/card.json`` and ``results.json``.
        bands: of the images that it is asked about.
        symmetries: over which it answers.
        folds: ``[images in the store]``, of a cross-fitted ensemble: the member that answers an image alone, or -1.
    """

    members: tuple[LoadedModel, ...]
    card: dict[str, Any]
    bands: Bands | None = None
    symmetries: tuple[Symmetry, ...] = (PLAIN,)
    folds: Folds | None = None

    @property
    def identity(self) -> dict[str, str]:
        """What its answers depend on."""
        return {"sha256": str(self.card["sha256"]), **self.way_of_answering}

    @property
    def way_of_answering(self) -> dict[str, str]:
        """What its answers depend on beside its weights."""
        return {
            "architecture": ", ".join(f"{m.architecture} {_arguments(m)}".strip() for m in self.members),
            "preprocess": ", ".join(str(m.preprocess) for m in self.members),
            "bands": str(self.bands),
            "symmetries": str(self.symmetries),
            "folds": "" if self.folds is None else hashlib.sha256(self.folds.tobytes()).hexdigest(),
        }

    def live(self, machine: Machine, taps: Sequence[str]) -> LiveTeacher:
        """The teacher, ready to answer batches."""
        networks: list[TappedModel | Symmetrised] = []
        for loaded in self.members:
            tapped = TappedModel(loaded.model, loaded.preprocess, taps, bands=self.bands)
            networks.append(Symmetrised(tapped, self.symmetries) if len(self.symmetries) > 1 else tapped)
        return LiveTeacher(
            networks[0] if len(networks) == 1 else Ensemble(networks),
            device=machine.device,
            bf16=machine.bf16,
            channels_last=True,
            folds=None if self.folds is None else torch.from_numpy(self.folds),
        )

    @property
    def is_one_network(self) -> bool:
        """Whether it answers with what one network says of the plain image."""
        return len(self.members) == 1 and len(self.symmetries) == 1


def _arguments(loaded: LoadedModel) -> str:
    """What shaped the network beside its name, as text: it may change answers and no weight."""
    origin = origin_of(loaded.model)
    return json.dumps(dict(origin.model_args), sort_keys=True, default=str) if origin and origin.model_args else ""


def get_teacher(run: Run, data: Dataset, machine: Machine, screen: Screen) -> CheckedTeacher:
    """Train or load the teacher of the settings, check it, record it.

    Raises:
        DataError: it was trained on validation or test images of this run, and ``data.allow_leaks`` is not set.
        GateError: it (or one of several) did not pass and ``teacher.accept_weak`` is not set.
    """
    settings, folder = run.config.teacher, run.path("teacher")
    symmetries = symmetries_for(run.config, data.spec)
    if (folder / "card.json").exists():
        return _kept(run, data, symmetries)
    given, parts = is_given(settings.model), parts_of(settings.model)
    splits = [split_of(part, data) for part in parts] if given else []
    trained_on = check_teacher_splits(splits, data, run.config)
    names = teacher_names(len(parts) if given else settings.num_teachers)
    folds = keep_folds(run, data, names, given=given)
    if not given and (known := same_teacher(run.folder, run.config)):
        run.log(f"teacher: {known}")
    members: list[LoadedModel] = []
    judged: dict[str, Judgement] = {}
    cards: list[dict[str, Any]] = []
    for k, name in enumerate(names):
        seconds, seed = 0.0, None
        if given:
            loaded = _load_given(run, data, parts[k])
        else:
            run.log(f"{name}: training {settings.model} here")
            place, seconds, seed = train_teacher(run, data, machine, screen, number=k, name=name, folds=folds)
            loaded, _ = load_trained(place)
        # Each by itself, at once: what is no good is said before the next one is trained.
        judgement = judge(loaded, data, run.config, machine, given=given, name=name if len(names) > 1 else "")
        home = folder if len(names) == 1 else folder / str(k)
        save_model(
            home,
            loaded.model,
            architecture=loaded.architecture,
            classes=loaded.classes,
            preprocess=loaded.preprocess,
            multi_label=data.multi_label,
        )
        if given:
            keep_split(home, splits[k])
        members.append(load_model(home))
        judged[name] = judgement
        card = _card(loaded, home, judgement, seconds)
        model = parts[k] if given else settings.model
        cards.append({"name": name, "model": model, **({"seed": seed} if seed is not None else {}), **card})
        _say(run, name, model, card, judgement)
    checked = CheckedTeacher(tuple(members), {}, data.store.bands, symmetries, folds)
    origin = {"origin": "given" if given else "trained here", "files": files_of(settings.model) if given else {}}
    if checked.is_one_network:
        whole = {**{k: v for k, v in cards[0].items() if k not in ("name", "model", "seed")}, **origin}
    else:
        together = judge_together(checked.live(machine, ()), judged, data, run.config, machine)
        whole = {**_whole(checked, cards), **origin, **together.as_dict()}
        who = f"all {len(names)} together" if len(names) > 1 else "symmetrised, it"
        _say(run, "teacher", who, whole, together)
        run.log(f"teacher: what students hear: {whole['answers']}")
        if folds is not None:
            whole["folds"] = {
                "num": len(names),
                "data": data.store.fingerprint,
                "sha256": hashlib.sha256((folder / FOLDS_FILE).read_bytes()).hexdigest(),
            }
    card = {"model": settings.model, "folder": "teacher", **whole, **({"trained_on": trained_on} if trained_on else {})}
    write_json(folder / "card.json", card)
    for warning in warnings_about(card, run.config, data.spec):
        run.log(f"teacher: {warning}")
    return replace(checked, card=card)


def measure_teacher(
    run: Run, teacher: CheckedTeacher, data: Dataset, machine: Machine
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Open the test split for the teacher: its logits as students would hear them, and its card with ``test``.

    Each of several is measured by itself too.
    """
    if teacher.is_one_network:
        logits, _, test = measure_test(run, run.path("teacher"), data, machine)
        return logits, {**teacher.card, "test": test}
    members = [dict(member) for member in teacher.card["members"]]
    for k, member in enumerate(members):
        home = run.path("teacher", str(k)) if len(members) > 1 else run.path("teacher")
        member["test"] = measure_test(run, home, data, machine)[2]
    live: Teacher = teacher.live(replace(machine, precision="fp32"), ())
    logits, labels = answers_of(live, data, "test", run.config, machine)
    with atomic_file(run.path("teacher", "test_logits.safetensors"), "wb") as file:
        file.write(serialize({"logits": logits, "labels": labels}))
    test = classification_metrics(logits, labels, data.num_classes)
    return logits, {**teacher.card, "test": test, "members": members}


def _kept(run: Run, data: Dataset, symmetries: tuple[Symmetry, ...]) -> CheckedTeacher:
    """The teacher that an earlier process of this run checked."""
    folder = run.path("teacher")
    card = read_json(folder / "card.json")
    num = max(len(card.get("members") or ()), 1)
    homes = [folder / str(k) for k in range(num)] if num > 1 else [folder]
    folds = read_folds(folder / FOLDS_FILE, data.source, data.split.train, num) if card.get("folds") else None
    return CheckedTeacher(tuple(map(load_model, homes)), card, data.store.bands, symmetries, folds)


def _load_given(run: Run, data: Dataset, part: str) -> LoadedModel:
    """One teacher that is given, after the checks that need no image."""
    settings = run.config.teacher
    loaded = load_given(settings.model_copy(update={"model": part}), data)
    if ensemble_folders(Path(part) / "teacher"):
        run.log(f"teacher: {part} means the student of that run; its own teachers are {Path(part) / 'teacher'}")
    for note in loaded.notes:
        run.log(f"teacher: {note}")
    check_given(loaded, data, where=part)
    return loaded


def _card(loaded: LoadedModel, home: Path, judgement: Judgement, seconds: float) -> dict[str, Any]:
    """What is to be known of one network."""
    size = loaded.preprocess
    return {
        "architecture": loaded.architecture,
        **provenance(loaded),
        "parameters": count_parameters(loaded.model),
        "macs": count_macs(loaded.model, (size.num_channels, size.img_size, size.img_size)),
        "seconds": round(seconds, 3),
        "sha256": hashlib.sha256((home / "model.safetensors").read_bytes()).hexdigest(),
        **judgement.as_dict(),
    }


def _whole(teacher: CheckedTeacher, cards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is to be known of all of them: sums, and what is said of each that is not the same of all."""

    def joined(key: str) -> str | None:
        return ", ".join(dict.fromkeys(str(card[key]) for card in cards if card[key] is not None)) or None

    sides = len(teacher.symmetries)
    return {
        **{key: joined(key) for key in ("architecture", "licence", "started_from")},
        "parameters": sum(card["parameters"] for card in cards),
        "macs": sides * sum(card["macs"] for card in cards),
        "seconds": round(sum(card["seconds"] for card in cards), 3),
        # Of all weights, in their order; one network keeps its own.
        "sha256": cards[0]["sha256"]
        if len(cards) == 1
        else hashlib.sha256("\n".join(card["sha256"] for card in cards).encode()).hexdigest(),
        "answers_sha256": hashlib.sha256(json.dumps(teacher.way_of_answering, sort_keys=True).encode()).hexdigest(),
        "answers": answers_in_words(len(cards), sides, cross_fit=teacher.folds is not None),
        "symmetries": sides,
        "cross_fit": teacher.folds is not None,
        "members": [dict(card) for card in cards],
    }


def answers_in_words(num_teachers: int, num_symmetries: int, *, cross_fit: bool) -> str:
    """How the answers to an image come about."""
    words = [f"mean logits of {num_teachers} teachers"] if num_teachers > 1 else []
    if num_symmetries > 1:
        words.append(f"mean logits over {num_symmetries} symmetries of the image")
    if cross_fit:
        words.append("a training image is answered by the one teacher that never trained on it")
    return "; ".join(words)


def _say(run: Run, name: str, what: str, card: Mapping[str, Any], judgement: Judgement) -> None:
    """Log what the gate found."""
    word = "passed the gate" if judgement.gate.passed else "DID NOT PASS THE GATE (accepted all the same)"
    took = f", {duration(card['seconds'])}" if card["seconds"] else ""
    run.log(f"{name}: {what} {word}: {shown(judgement.metrics)} on validation{took}")
    for check in judgement.gate.checks:
        run.note(f"{name}: {check.name}: {check.detail}")
    unseen = " (out of fold)" if card.get("cross_fit") else ""
    run.log(
        f"{name}: on validation ECE {100 * judgement.val.ece:.1f} %, entropy {judgement.val.entropy:.3f} nats; on "
        f"{judgement.train.num_images} training images{unseen} {shown(judgement.train.as_dict())}, "
        f"ECE {100 * judgement.train.ece:.1f} %, "
        f"entropy {judgement.train.entropy:.3f} nats; weights sha256 {card['sha256'][:12]}"
    )
