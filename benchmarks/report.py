"""How long the report of 20 entries, 200 cases and 4 classes takes to build, and how large its page is.

`python -m benchmarks.report` prints seconds and megabytes and writes benchmarks/results/report.json. The scores, the
histories and the pictures are drawn at random: what is measured is ranking and drawing, not reading a study.
`--entries 4 --out FOLDER` keeps a smaller report to look at.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.evaluation.gallery import OverlayCase
from pipelines.evaluation.measures import DatasetFacts
from pipelines.evaluation.ranking import ranking_rows
from pipelines.reporting.comparison import Comparison
from pipelines.reporting.report import write_report
from pipelines.tasks.lookup import task_of

NUM_ENTRIES, NUM_CASES, NUM_FOLDS, NUM_EPOCHS = 20, 200, 5, 1000
LABELS = {"background": 0, "csf": 1, "left_grey_matter": 2, "right_grey_matter": 3, "white_matter": 4}
NAMES = ("nnunet", "unet_3d", "unetr", "swin_unetr", "nnunet_residual", "nnunet_2d", "unet_3d_instance_norm")


def score_rows(rng: np.random.Generator, level: float) -> list[dict[str, Any]]:
    """A row a case and class; harder cases are harder for everyone."""
    hardness = np.random.default_rng(0).beta(2, 8, NUM_CASES)
    rows = []
    for case in range(NUM_CASES):
        for offset, name in enumerate(list(LABELS)[1:]):
            dice = float(np.clip(level - 0.03 * offset - 0.6 * hardness[case] + rng.normal(0, 0.02), 0, 1))
            rows.append(
                {
                    "case_id": f"case_{case:03d}",
                    "patient": f"patient_{case // 2:03d}",
                    "class_name": name,
                    "split": "validation",
                    "fold": case % NUM_FOLDS,
                    "seed": 0,
                    "dice": dice,
                    "iou": dice / (2 - dice),
                    "hd95_mm": float(12 * (1 - dice) + rng.exponential(0.5)),
                    "assd_mm": float(3 * (1 - dice)),
                    "nsd": min(1.0, dice + 0.05),
                }
            )
    return rows


def history(rng: np.random.Generator, level: float, speed: float) -> list[dict[str, Any]]:
    """A row an epoch."""
    progress = 1 - np.exp(-speed * np.arange(NUM_EPOCHS) / NUM_EPOCHS)
    noise = rng.normal(0, 0.015, (2, NUM_EPOCHS))
    return [
        {
            "epoch": epoch,
            "step": 250 * (epoch + 1),
            "train_loss": float(1.2 - 1.9 * level * progress[epoch] + noise[0, epoch]),
            "val_pseudo_dice": float(level * progress[epoch] + noise[1, epoch]),
        }
        for epoch in range(NUM_EPOCHS)
    ]


def overlay_case(rng: np.random.Generator, caption: str) -> OverlayCase:
    """Four nested half shells in noise, the prediction moved by two voxels."""
    grid = np.indices((64, 160, 160))
    distance = np.sqrt(sum(((axis / side - 0.5) * 2) ** 2 for axis, side in zip(grid, (64, 160, 160), strict=True)))
    is_left = grid[2] < 80
    label = np.select([distance < 0.3, distance < 0.5, distance < 0.6], [4, np.where(is_left, 2, 3), 1], 0)
    image = (label * 20 + rng.normal(40, 12, label.shape)).astype(np.float32)
    scores = dict.fromkeys(list(LABELS)[1:], 0.8)
    return OverlayCase(
        f"case_{caption}", image[None], label, np.roll(label, 2, axis=(1, 2)), (3.0, 1.0, 1.0), 0.8, scores, caption
    )


def build(out_dir: Path, num_entries: int) -> None:
    """Rank and write a report of made-up results."""
    rng = np.random.default_rng(1)
    comparison = Comparison.of_task(task_of("segmentation"))
    names = [NAMES[index] if index < len(NAMES) else f"architecture_{index:02d}" for index in range(num_entries)]
    levels = {name: 0.95 - 0.012 * index for index, name in enumerate(names)}
    scores = {name: score_rows(rng, level) for name, level in levels.items()}
    info: dict[str, dict[str, Any]] = {
        name: {
            "is_reference": False,
            "architecture": f"segmentation/{name}",
            "configuration": "3d_fullres",
            "num_parameters": int(rng.integers(1e6, 9e7)),
            "train_seconds": float(rng.integers(3e3, 9e4)),
            "tuning": None,
        }
        for name in names
    }
    scores[comparison.reference] = score_rows(rng, 0.55)
    info[comparison.reference] = {"is_reference": True}
    reasons = ["patch: 64x160x160 because the budget of memory ends there", "batch: 2 because two patches fit 8 GiB"]
    write_report(
        out_dir,
        comparison=comparison,
        dataset=DatasetFacts("Made-up brains", LABELS, ["200 training cases of 100 patients", "channels: MRI"]),
        fingerprint=["200 training cases were measured.", "All have a spacing of 3 × 1 × 1 mm (z, y, x)."],
        ranking=ranking_rows(scores, info, comparison.measures, comparison.ranked_split),
        scores=scores,
        histories={
            name: {f"fold{fold}_seed0": history(rng, level, 4 + fold / 4) for fold in range(NUM_FOLDS)}
            for name, level in levels.items()
        },
        overlays=[overlay_case(rng, caption) for caption in ("best", "median", "worst")],
        plans={
            name: info[name] | {"patch_size": [64, 160, 160], "batch_size": 2, "reasons": reasons} for name in names
        },
        searches={},
        settings="family: segmentation\n",
        provenance={"code (git commit)": "made up", "num_cores": 2},
        command="python -m benchmarks.report",
    )


def main() -> None:
    """Build, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=NUM_ENTRIES)
    parser.add_argument("--out", type=Path, help="keep the report here and write no result")
    arguments = parser.parse_args()
    if arguments.out:
        build(arguments.out, arguments.entries)
        return
    from pipelines.atomic_files import write_text
    from pipelines.tracking.provenance import ROOT, git_commit, machine

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        build(Path(folder), arguments.entries)
        seconds = time.perf_counter() - started
        size = (Path(folder) / "index.html").stat().st_size
    result = {
        "command": "python -m benchmarks.report",
        "commit": git_commit(),
        "machine": machine(),
        "num_entries": arguments.entries,
        "num_cases": NUM_CASES,
        "num_classes": len(LABELS) - 1,
        "seconds": round(seconds, 2),
        "page_megabytes": round(size / 1e6, 2),
    }
    write_text(ROOT / "benchmarks/results/report.json", json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
