"""Final: pages of real images, each with five seeds: AID, EuroSAT and the street trees, on their test images.

    python benchmarks/final_pages.py FOLDER [SET ..] [--threads N] [--seeds N]

Opens test (``results/test_openings.jsonl`` tells when). Splits are those of ``splits.json``; methods and budgets were
chosen on dev (``results/methods.json``), equal for the control, and are declared here before test is opened. Runs are
kept in FOLDER and go on where the last call stopped; ``results/final_pages.json`` collects their figures. The pages
show licensed images and stay in FOLDER.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import zipfile
from pathlib import Path
from typing import Any

from sets import SETS, note_opening, open_test, place_of, subset

import sapling
from sapling.data.loader import Dataset
from sapling.record import environment, write_json
from sapling.screen import Screen

HERE = Path(__file__).parent
REASON = "the page of several seeds, final_pages.py"
RUNS: dict[str, dict[str, Any]] = {
    "aid": {"method": "dist", "teacher_epochs": 60, "epochs": 40},
    "eurosat": {"method": "dist", "teacher_epochs": 20, "epochs": 15},
    "trees": {"method": "dist", "teacher_epochs": 20, "epochs": 20},
}


def listed(name: str, folder: Path) -> Path:
    """The images of a set as files, and its split as a CSV file beside them; the opening is written down."""
    table = folder / f"{name}.csv"
    if table.exists():
        if not (folder / f"page-{name}" / "results.json").exists():
            note_opening(name, REASON)
        return table
    data: Dataset = subset(name, open_test(name, reason=REASON))
    with zipfile.ZipFile(place_of(name)) as archive:
        archive.extractall(folder / name)
        top = next(n for n in archive.namelist() if n.endswith(data.source.items[0].key))
    top = f"{name}/{top.removesuffix(data.source.items[0].key)}"  # keys begin below what all images share
    rows = []
    for part in ("train", "val", "test"):
        for i in data.split.part(part):
            item = data.source.items[int(i)]
            label = data.classes[int(data.source.items[int(i)].label)]
            rows.append((top + item.key, label, part, item.group or ""))
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "label", "split", "group"))
        writer.writerows(rows)
    return table


def page(name: str, folder: Path, threads: int | None, seeds: int) -> dict[str, Any]:
    """The run of a set, and its figures."""
    run, how = folder / f"page-{name}", RUNS[name]
    results = sapling.distill(
        data={"source": str(listed(name, folder)), "img_size": 64, "views": SETS[name]["views"]},
        teacher={"model": "resnet18", "epochs": how["teacher_epochs"]},
        student="cnn3",
        method=how["method"],
        train={"num_seeds": seeds, "epochs": how["epochs"], "threads": threads},
        output=str(run),
        screen=Screen(),
    ).results
    arms: dict[str, list[float]] = {}
    for member in results["members"]:
        arms.setdefault(member["arm"], []).append(member["test"][results["comparison"]["measure"]])
    return {
        "manifest": {k: v for k, v in results["manifest"].items() if k != "data"},
        "measure": results["comparison"]["measure"],
        "teacher": {k: v for k, v in results["teacher"]["test"].items() if isinstance(v, float)},
        "per_seed": arms,
        "mean": {arm: statistics.mean(values) for arm, values in arms.items()},
        "verdict": results["comparison"]["verdict"],
        "diagnosis": [f["name"] for f in results["diagnosis"].get("findings", [])],
        "cost": results["cost"],
    }


def main() -> None:
    """Go on where the last call stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sets", nargs="*", default=list(RUNS))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    target = HERE / "results" / "final_pages.json"
    for name in given.sets:
        found = page(name, given.folder, given.threads, given.seeds)
        kept = json.loads(target.read_text(encoding="utf-8"))["sets"] if target.exists() else {}
        write_json(target, {"sets": {**kept, name: found}, "environment": environment()})
        print(f"{name}: {found['verdict']['statement']}", flush=True)


if __name__ == "__main__":
    main()
