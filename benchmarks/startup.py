"""How long a command takes until it says something: `sapling --help`, and the lines of `sapling distill`.

Each command runs in a process of its own, commands in turn. `distill` runs on a folder of small pictures; the seconds
from its start until each line on stderr are kept, it is ended when the first epoch's work begins. Processor seconds of
the process beside those of the wall, because the machine may be shared.

    python benchmarks/startup.py [--repeats 9]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sapling.record import environment, write_json

COMMANDS = {
    "python": ["-c", "pass"],
    "--version": ["-m", "sapling.cli", "--version"],
    "--help": ["-m", "sapling.cli", "--help"],
    "distill --help": ["-m", "sapling.cli", "distill", "--help"],
    "methods": ["-m", "sapling.cli", "methods"],
}
LAST_LINE = "teacher: training"
CALL = "import sys; from sapling.cli import main; sys.exit(main(sys.argv[1:]))"


def command_of(words: list[str]) -> list[str]:
    return [sys.executable, *(["-c", CALL, *words[2:]] if words[:1] == ["-m"] else words)]


def spent() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(words: list[str]) -> dict[str, float]:
    before, started = spent(), time.perf_counter()
    subprocess.run(command_of(words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return {"processor": spent() - before, "wall": time.perf_counter() - started}


def lines_of(data: Path, output: Path) -> dict[str, dict[str, float]]:
    """Seconds until each line of ``distill``, by how it begins."""
    words = ["-m", "sapling", "distill", str(data), "--output", str(output), "--seeds", "1", "--epochs", "1"]
    started = time.perf_counter()
    found: dict[str, dict[str, float]] = {}
    with subprocess.Popen(command_of(words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr or ():
            wall = time.perf_counter() - started
            clock = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            used = (int(clock[11]) + int(clock[12])) / os.sysconf("SC_CLK_TCK")
            found.setdefault(" ".join(line.split()[:2]), {"processor": used, "wall": wall})
            if line.startswith(LAST_LINE):
                break
        process.kill()
    return found


def pictures(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("ash", "oak"):
        (folder / name).mkdir(parents=True)
        for k in range(100):
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / name / f"{k}.png")
    return folder


def spread(rows: list[dict[str, float]]) -> dict[str, Any]:
    return {
        f"{key}_seconds": {
            "median": round(statistics.median(values), 3),
            "lowest": round(min(values), 3),
            "highest": round(max(values), 3),
        }
        for key in rows[0]
        if (values := [row[key] for row in rows])
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/startup.json"))
    options = parser.parse_args()
    commands: dict[str, list[dict[str, float]]] = {name: [] for name in COMMANDS}
    lines: dict[str, list[dict[str, float]]] = {}
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["SAPLING_CACHE"] = f"{temporary}/cache"
        data = pictures(Path(temporary, "photos"))
        for number in range(options.repeats):
            for name, words in COMMANDS.items():
                commands[name].append(timed(words))
            for line, seconds in lines_of(data, Path(temporary, str(number))).items():
                lines.setdefault(line.replace(temporary, ""), []).append(seconds)
    found = {
        "environment": {**environment(), "load_before_and_after": [*load, *os.getloadavg()]},
        "repeats": options.repeats,
        "commands": {name: spread(rows) for name, rows in commands.items()},
        "lines_of_distill": {line: spread(rows) for line, rows in lines.items()},
    }
    write_json(options.output, found)
    for kind in ("commands", "lines_of_distill"):
        for name, figures in found[kind].items():
            print(f"{name:22}", {k: v["median"] for k, v in figures.items()})


if __name__ == "__main__":
    main()
