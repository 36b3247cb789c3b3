"""HD95, ASSD and NSD of one label map: this project and MONAI in turn, each in its own interpreter.

`python -m benchmarks.surface_metrics` prints seconds (import apart) and ratios, and writes
benchmarks/results/surface_metrics.json. Both sides score the same two classes of the same volumes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

import numpy as np

SPACING_MM = (3.0, 1.0, 1.0)
TOLERANCE_MM = 2.0
SIZES = ((24, 64, 64), (48, 128, 128))
ROUNDS = 3


def masks(size: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Two label maps (Z, Y, X) with two ellipsoids each, the second map moved by a voxel."""
    grid = np.indices(size)

    def ellipsoid(centre: tuple[float, ...], radius: float) -> np.ndarray:
        parts = [((axis / side - middle) / radius) ** 2 for axis, side, middle in zip(grid, size, centre, strict=True)]
        return np.sum(parts, axis=0) <= 1

    label = ellipsoid((0.5, 0.35, 0.5), 0.15) + 2 * ellipsoid((0.5, 0.7, 0.5), 0.12)
    return label, np.roll(label, 1, axis=(1, 2))


def score_ours(prediction: np.ndarray, reference: np.ndarray) -> list[float]:
    """Scores of both classes."""
    from pipelines.metrics.surface import surface_scores

    scores = [surface_scores(prediction == value, reference == value, SPACING_MM, TOLERANCE_MM) for value in (1, 2)]
    return [figure for item in scores for figure in (item.hd95_mm, item.assd_mm, item.nsd)]


def score_monai(prediction: np.ndarray, reference: np.ndarray) -> list[float]:
    """Scores of both classes."""
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    one_hot = [
        torch.from_numpy(np.stack([label == value for value in (1, 2)])[None]) for label in (prediction, reference)
    ]
    kept = {"include_background": True, "spacing": SPACING_MM}
    hd95 = compute_hausdorff_distance(*one_hot, percentile=95, **kept)[0].tolist()
    assd = compute_average_surface_distance(*one_hot, symmetric=True, **kept)[0].tolist()
    nsd = compute_surface_dice(*one_hot, class_thresholds=[TOLERANCE_MM] * 2, **kept)[0].tolist()
    return [figure for item in zip(hd95, assd, nsd, strict=True) for figure in item]


def _run_side(side: str) -> None:
    score = {"ours": score_ours, "monai": score_monai}[side]
    score(*masks((8, 16, 16)))  # imports and first-call costs are not what is compared
    rounds = {}
    for size in SIZES:
        started = time.perf_counter()
        figures = score(*masks(size))
        rounds["x".join(map(str, size))] = {"seconds": time.perf_counter() - started, "scores": figures}
    print(json.dumps(rounds))


def main() -> None:
    """Run both sides in turn, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=("ours", "monai"))
    side = parser.parse_args().side
    if side:
        _run_side(side)
        return
    from importlib.metadata import version

    from pipelines.atomic_files import write_text
    from pipelines.tracking.provenance import ROOT, git_commit, machine

    runs: dict[str, list[dict]] = {"ours": [], "monai": []}
    for _ in range(ROUNDS):
        for name, results in runs.items():
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.surface_metrics", "--side", name]
            output = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
            results.append(json.loads(output.splitlines()[-1]))
    table = {}
    for size in runs["ours"][0]:
        np.testing.assert_allclose(runs["ours"][0][size]["scores"], runs["monai"][0][size]["scores"], atol=1e-4)
        seconds = {name: statistics.median(run[size]["seconds"] for run in results) for name, results in runs.items()}
        table[size] = seconds | {"monai_over_ours": seconds["monai"] / seconds["ours"]}
    result = {
        "command": "python -m benchmarks.surface_metrics",
        "commit": git_commit(),
        "machine": machine() | {"monai": version("monai")},
        "median_of": ROUNDS,
        "sizes": table,
    }
    write_text(ROOT / "benchmarks/results/surface_metrics.json", json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
