"""``gallery.json``: the test images that the report shows, small, with what everyone answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapling.data.loader import Dataset
from sapling.data.pictures import data_uris
from sapling.evaluation.examples import Answers, answers_of, choose_examples
from sapling.record import Run, write_json

SIDE = 96


def write_gallery(run: Run, data: Dataset, arms: Mapping[str, NDArray[np.floating]], truth: NDArray[np.int64]) -> None:
    """Choose test images and write them; none where ``output.pictures`` is 0.

    Args:
        run: gets ``gallery.json``.
        data: whose test split is open.
        arms: ``student``, and ``control`` and ``teacher`` where there are any, to logits ``[S,n,K]``.
        truth: ``[n]`` class numbers, or ``[n,K]`` 0 and 1.
    """
    path, most = run.path("gallery.json"), run.config.output.pictures
    if not most:
        path.unlink(missing_ok=True)
        return
    answers = {name: answers_of(logits, truth) for name, logits in arms.items()}
    chosen = choose_examples(
        answers["student"], truth, control=answers.get("control"), teacher=answers.get("teacher"), most=most
    )
    keys = [data.source.items[i].key for i in data.split.test]  # bytes that are no UTF-8 stand in them as surrogates
    kinds = {
        kind: [_entry(keys[k], k, answers, truth, data.classes) for k in positions]
        for kind, positions in chosen.items()
    }
    found = data_uris(data.store, [e["image"] for entries in kinds.values() for e in entries], side=SIDE)
    pictures = {_shown(key): picture for key, picture in found.items()}
    for entry in (e for entries in kinds.values() for e in entries):
        entry["image"] = _shown(entry["image"])
    num_seeds = len(answers["student"].right)
    write_json(path, {"format": 1, "side": SIDE, "num_seeds": num_seeds, "kinds": kinds, "pictures": pictures})


def _shown(key: str) -> str:
    return key.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _entry(
    key: str, position: int, answers: Mapping[str, Answers], truth: NDArray[np.int64], classes: tuple[str, ...]
) -> dict[str, Any]:
    own = truth[position]
    labels = [int(own)] if truth.ndim == 1 else np.flatnonzero(own).tolist()
    return {
        "image": key,
        "truth": [classes[k] for k in labels],
        "answers": {name: _answer(a, position, own, classes) for name, a in answers.items()},
    }


def _answer(answers: Answers, position: int, truth: Any, classes: tuple[str, ...]) -> dict[str, Any]:
    """Names, how sure, and under how many seeds it was right."""
    chosen, certainty = answers.chosen[position], answers.certainty[position]
    if answers.multi_label:
        wrong = chosen != (truth > 0)
        sure = float(certainty[wrong].max()) if wrong.any() else None
        right = not wrong.any()
    else:
        sure, right = float(certainty.max()), bool(chosen[truth])
    return {
        "names": [classes[k] for k in np.flatnonzero(chosen)],
        "certainty": sure,
        "right": right,
        "seeds_right": int((answers.right[:, position] == 1).sum()),
    }
