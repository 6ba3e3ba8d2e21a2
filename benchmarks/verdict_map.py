"""How often does the verdict on mean average precision see a difference between two equal methods?

Simulates logits of images with several labels for two arms that are drawn alike:

    logit[arm, s, i, k] = strength[arm, s, k] * has_label[i, k] + easiness[i, k] + image[arm, i, k]
                          + noise[arm, s, i, k]

``strength`` differs from seed to seed (what another seed does to mAP), ``image`` is what one *method* does to one
image, whatever the seed. Labels are drawn on their own, from frequent to rare. Then the code that users run
(``sapling.evaluation.ranked``) gives parts and interval; 95 % intervals should miss 0 in 5 % of the comparisons. With a
planted gain of strength it is counted how often it is found, and how often the interval holds the true difference.

    OMP_NUM_THREADS=1 python benchmarks/verdict_map.py [--comparisons 300]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sapling.evaluation.crossed import read
from sapling.evaluation.ranked import take_rankings_apart

ERROR_LIMIT = 0.07
SEEDS = (1, 2, 3, 5)
IMAGES = (100, 400)
PREVALENCE = (0.5, 0.3, 0.2, 0.1, 0.05)


@dataclass(frozen=True)
class Noise:
    """Standard deviations, where ``noise`` has 1; ``shared`` is its share that both arms have in common."""

    strength: float = 2.0
    seed: float = 0.1
    easiness: float = 1.0
    image: float = 0.4
    shared: float = 0.2


SCENARIOS = {
    "typical": Noise(),
    "no seed effect": Noise(seed=0.0),
    "strong seed effects": Noise(seed=0.4, shared=0.0),
    "methods differ much by image": Noise(seed=0.05, image=1.2),
    "weak networks": Noise(strength=0.7),
    "strong networks": Noise(strength=4.0),
}


def draw(
    rng: np.random.Generator, num_seeds: int, num_images: int, noise: Noise, gain: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Logits ``[S,n,K]`` of control and method, and targets ``[n,K]``; every label occurs."""
    size = (num_images, len(PREVALENCE))
    while True:
        targets = (rng.random(size) < PREVALENCE).astype(np.int64)
        if targets.any(0).all():
            break
    easiness = noise.easiness * rng.standard_normal(size)
    common = np.sqrt(noise.shared) * rng.standard_normal((num_seeds, *size))
    arms = []
    for arm in range(2):
        strength = noise.strength + gain * arm + noise.seed * rng.standard_normal((num_seeds, 1, size[1]))
        own = np.sqrt(1 - noise.shared) * rng.standard_normal((num_seeds, *size))
        arms.append(strength * targets + easiness + noise.image * rng.standard_normal(size) + common + own)
    return arms[0], arms[1], targets


def rates(
    rng: np.random.Generator, num: int, num_seeds: int, num_images: int, noise: Noise, gain: float = 0.0
) -> dict[str, float]:
    """Shares of comparisons that come out "better" and "worse", and what noise there was."""
    found, spread = [], []
    for _ in range(num):
        parts = take_rankings_apart(*draw(rng, num_seeds, num_images, noise, gain))
        half, difference = float(read(parts, 0.95).half_width), float(parts.difference)
        found.append((difference > half, difference < -half))
        spread.append((difference, half))
    better, worse = np.mean(found, axis=0)
    differences, halves = np.array(spread).T
    return {
        "better": round(float(better), 4),
        "worse": round(float(worse), 4),
        "mean_difference": round(float(differences.mean()), 5),
        "sd_of_difference": round(float(differences.std()), 5),
        "mean_half_width": round(float(halves.mean()), 5),
    }


def main() -> None:
    """Run all scenarios and write ``results/verdict_map.json``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--comparisons", type=int, default=300)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "verdict_map.json")
    given = parser.parse_args()
    started, rng = time.time(), np.random.default_rng(0)
    rows = []
    for name, noise in SCENARIOS.items():
        for num_seeds in SEEDS:
            if num_seeds == 1 and noise.seed > 0:
                continue  # one seed says nothing of others, and does not promise to
            for num_images in IMAGES:
                row = rates(rng, given.comparisons, num_seeds, num_images, noise)
                rows.append({"scenario": name, "seeds": num_seeds, "images": num_images, "gain": 0.0, **row})
                rows[-1]["error"] = round(row["better"] + row["worse"], 4)
                print(rows[-1], flush=True)
    planted = []
    for num_seeds in SEEDS[1:]:
        for num_images in IMAGES:
            row = rates(rng, given.comparisons, num_seeds, num_images, Noise(), 0.3)
            planted.append({"seeds": num_seeds, "images": num_images, "gain": 0.3, **row})
    errors = [row["error"] for row in rows]
    result = {
        "comparisons": given.comparisons,
        "prevalence": PREVALENCE,
        "scenarios": {name: asdict(noise) for name, noise in SCENARIOS.items()},
        "largest_error": max(errors),
        "mean_error": round(float(np.mean(errors)), 4),
        "limit": ERROR_LIMIT,
        "rows": rows,
        "planted": planted,
        "seconds": round(time.time() - started, 1),
        "machine": {"processor": platform.processor(), "python": platform.python_version(), "numpy": np.__version__},
    }
    given.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"error at 95 %: mean {result['mean_error']:.1%}, largest {result['largest_error']:.1%}")


if __name__ == "__main__":
    main()
