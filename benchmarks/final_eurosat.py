"""Final: one command takes EuroSAT to a checked teacher, a distilled cnn3, its control and a verdict in 100 minutes.

    python benchmarks/final_eurosat.py [RUN_FOLDER]

Runs ``sapling distill eurosat_rgb.zip --teacher resnet18 --student cnn3 --method kd --seeds 3`` (a folder that holds
results already is only read), after it has written down that test is opened, and writes ``results/eurosat.json``. The
defaults are used as they are; nothing was tuned on these test images.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from pathlib import Path

from sets import note_opening

import sapling
from sapling.record import environment
from sapling.screen import Screen

HERE = Path(__file__).parent


def main() -> None:
    """Run or read, then collect."""
    root = os.environ.get("SAPLING_TEST_DATA")
    if not root:
        sys.exit("SAPLING_TEST_DATA does not name the folder of eurosat_rgb.zip")
    folder = sys.argv[1] if len(sys.argv) > 1 else str(Path.home() / ".cache" / "sapling-eurosat")
    kept = Path(folder) / "results.json"
    if kept.exists():
        results = json.loads(kept.read_text(encoding="utf-8"))
    else:
        note_opening("eurosat", "the run of one command, final_eurosat.py")
        results = sapling.distill(
            data=Path(root) / "eurosat_rgb.zip",
            teacher="resnet18",
            student="cnn3",
            method={"name": "kd", "alpha": 0.1},
            train={"num_seeds": 3},
            output=folder,
            screen=Screen(),
        ).results

    def arm(name: str) -> dict[str, object]:
        members = [m for m in results["members"] if m["arm"] == name]
        top1 = [m["test"]["top1"] for m in members]
        return {
            "top1_per_seed": top1,
            "top1_mean": statistics.mean(top1),
            "macro_f1_mean": statistics.mean(m["test"]["macro_f1"] for m in members),
            "nll_mean": statistics.mean(m["test"]["nll"] for m in members),
            "ece_mean": statistics.mean(m["test"]["ece"] for m in members),
        }

    collected = {
        "created": results["created"],
        "finished": results["finished"],
        "manifest": {k: v for k, v in results["manifest"].items() if k != "data"},
        "teacher": {
            "top1": results["teacher"]["test"]["top1"],
            "macro_f1": results["teacher"]["test"]["macro_f1"],
            "seconds": results["teacher"]["seconds"],
        },
        "control": arm("control"),
        "kd": arm("kd"),
        "verdict": results["comparison"]["verdict"],
        "intervals": results["comparison"]["intervals"],
        "onnx": results["deploy"]["onnx"],
        "cost": results["cost"],
        "environment": environment(),
    }
    text = json.dumps(collected, indent=1)
    (HERE / "results" / "eurosat.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
