"""The fingerprint of a data set: this project's stage and nnU-Net's command in turn, each a process of its own.

`python -m benchmarks.nnunet_fingerprint` prints a table and writes benchmarks/results/nnunet_fingerprint.json. Measured
are the whole commands with all their processes: `python -m stages.fingerprint` as dvc.yaml has it, and
`nnUNetv2_extract_fingerprint -np 2`. Both read the same files: four generated cases, and 201 of Hippocampus where the
shared data are. The figures of both are compared: spacings and shapes must be equal, intensities differ by the peer's
drawing.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.generated_cases import write_generated_cases
from benchmarks.nnunet_layout import hippocampus, link_raw
from benchmarks.nnunet_peer import peer_environment, peer_python
from benchmarks.process_tree import Measured, measure
from pipelines.atomic_files import write_text
from pipelines.cases.case import RawDataset
from pipelines.cases.collect import collect_cases
from pipelines.tracking.provenance import ROOT, git_commit, machine

ROUNDS = 3
GOALS = {"generated": {"cpu_s": 1 / 10, "peak_gib": 1 / 5}, "hippocampus": {"cpu_s": 1 / 5, "peak_gib": 1 / 3}}
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_SECTIONS = ("entries", "split", "preprocessing", "budget", "training", "inference", "evaluation", "tuning")
_NUM_FOLDS = 2


def main() -> None:
    """Measure both sides on each data set, compare, print, write."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        datasets: dict[str, RawDataset | None] = {
            "generated": write_generated_cases(folder / "files"),
            "hippocampus": hippocampus(),
        }
        found = {
            name: _compare(folder / name, name, number, dataset)
            for number, (name, dataset) in enumerate(datasets.items(), start=901)
            if dataset
        }
    result = {
        "command": "python -m benchmarks.nnunet_fingerprint",
        "commit": git_commit(),
        "machine": machine(),
        "median_of": ROUNDS,
        "datasets": found,
    }
    write_text(ROOT / "benchmarks/results/nnunet_fingerprint.json", json.dumps(result, indent=2) + "\n")
    _print(found)


def _compare(folder: Path, name: str, number: int, dataset: RawDataset) -> dict[str, Any]:
    source = link_raw(dataset, folder / "raw", number)
    collect_cases(str(source), name, folder / "cases" / name, _NUM_FOLDS)
    study = {"family": "segmentation", "datasets": {name: {"source": str(source)}}, "architectures": ["nnunet"]}
    write_text(folder / "params.yaml", yaml.safe_dump(study | {section: {} for section in _SECTIONS}))
    ours = [sys.executable, "-m", "stages.fingerprint", "--cases", f"cases/{name}", "--out", f"fingerprints/{name}"]
    peer = [str(peer_python().parent / "nnUNetv2_extract_fingerprint"), "-d", str(number), "-np", "2", "--clean"]
    runs: dict[str, list[Measured]] = {"ours": [], "nnunetv2": []}
    for _ in range(ROUNDS):
        runs["ours"].append(measure(ours, folder, folder / "ours.log", _ONE_THREAD))
        runs["nnunetv2"].append(measure(peer, folder, folder / "peer.log", peer_environment(folder)))
    figures = {
        side: {key: statistics.median(getattr(run, key) for run in measured) for key in ("wall_s", "cpu_s", "peak_gib")}
        for side, measured in runs.items()
    }
    ratios = {key: figures["ours"][key] / figures["nnunetv2"][key] for key in figures["ours"]}
    our_json = json.loads((folder / "fingerprints" / name / "fingerprint.json").read_text(encoding="utf-8"))
    peer_json = json.loads((folder / "preprocessed" / source.name / "dataset_fingerprint.json").read_text("utf-8"))
    return {
        "num_cases": len(our_json["case_ids"]),
        **figures,
        "ours_over_nnunetv2": ratios,
        "goal": GOALS[name],
        "intensity_ours": our_json["intensity"],
        "intensity_nnunetv2": _check_equal(our_json, peer_json),
    }


def _check_equal(ours: dict[str, Any], peer: dict[str, Any]) -> list[dict[str, float]]:
    """Compare what both must find alike, cases in any order, and give the peer's intensities."""
    for key in ("spacings_mm", "shapes_after_crop"):
        theirs = peer[key.removesuffix("_mm")]
        assert sorted(ours[key]) == sorted(theirs), f"{key}: {ours[key]} by this project, {theirs} by nnU-Net"
    return list(peer["foreground_intensity_properties_per_channel"].values())


def _print(found: dict[str, Any]) -> None:
    print(f"{'data':12} {'side':9} {'CPU s':>7} {'wall s':>7} {'MiB':>6}")
    for name, figures in found.items():
        for side in ("ours", "nnunetv2"):
            row = figures[side]
            print(f"{name:12} {side:9} {row['cpu_s']:7.2f} {row['wall_s']:7.2f} {1024 * row['peak_gib']:6.0f}")
        ratios, goals = figures["ours_over_nnunetv2"], figures["goal"]
        told = [f"{key} 1/{1 / ratios[key]:.1f} (goal 1/{1 / goals[key]:.0f})" for key in goals]
        print(f"{name:12} {', '.join(told)}")


if __name__ == "__main__":
    main()
