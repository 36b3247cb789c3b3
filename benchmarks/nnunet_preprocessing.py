"""Preprocessing of data sets: this project's stage and `nnUNetv2_preprocess` in turn, each in its own interpreter.

`python -m benchmarks.nnunet_preprocessing` prints CPU seconds and peak memory of the two commands with all their
processes (two of them work on cases), how far the prepared arrays agree, and the size of what is written; and writes
benchmarks/results/nnunet_preprocessing.json. Both sides read the same raw folder and prepare `3d_fullres` to the
spacing and with the intensities that nnU-Net planned. The real data sets are left out where the shared data are absent.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

from benchmarks.generated_cases import write_generated_cases
from benchmarks.nnunet_layout import chaos, hippocampus, link_raw
from benchmarks.nnunet_peer import peer_environment, peer_python
from benchmarks.process_tree import Measured, measure
from pipelines.atomic_files import write_text
from pipelines.cases.case import RawDataset
from pipelines.planning.plan import Preprocessing, as_tuples, read_plan, write_plan
from pipelines.preprocessing.shards import open_case
from pipelines.tracking.provenance import ROOT, git_commit, machine

ROUNDS = 3
SIDES = ("ours", "nnunetv2")
_SCHEMES = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
    "NoNormalization": "nonorm",
}
_ENTRY = "nnunet"
_TO_NPY = """
import sys, pathlib, blosc2, numpy
for path in pathlib.Path(sys.argv[1]).glob("*.b2nd"):
    numpy.save(pathlib.Path(sys.argv[2]) / path.stem, blosc2.open(str(path), mode="r")[:])
"""


class Comparison:
    """A data set in nnU-Net's layout, planned by both sides and ready to be prepared."""

    def __init__(self, dataset: RawDataset, number: int, folder: Path) -> None:
        self.name = dataset.info.name
        self._number = number
        self._folder = folder
        self._study = folder / self.name
        # Without a process for augmentation its planner asks torch for no thread, which torch refuses.
        self._environment = peer_environment(folder) | {"nnUNet_n_proc_DA": "1"}
        self.raw = link_raw(dataset, folder / "raw", number)
        self._run_peer("extract_fingerprint", "-np", "2", "--clean")
        self._run_peer("plan_experiment")
        plans = json.loads((self._peer_folder / "nnUNetPlans.json").read_text(encoding="utf-8"))
        self._plan_ours(_preprocessing_of(plans))

    def prepare(self, side: str, compression: str = "none") -> Measured:
        """Prepare all cases anew by one side's command."""
        if side == "nnunetv2":
            return self._measured(self._peer_command("preprocess", "-c", "3d_fullres", "-np", "2"), self._environment)
        self._write_params(compression)
        for name in ("work", "prepared"):
            shutil.rmtree(self._study / name, ignore_errors=True)
        places = ["--cases", "cases/D", "--plans", "plans/D", "--work", "work/preprocess", "--out", "prepared/D"]
        return self._measured([sys.executable, "-m", "stages.preprocess", *places], {})

    def num_bytes(self, side: str) -> int:
        """Of the prepared cases."""
        return sum(path.stat().st_size for path in self._prepared(side).iterdir())

    def differences(self) -> dict[str, float]:
        """How far the arrays of the sides agree, over all cases.

        `labels_equal` is the share of voxels; `image_difference` the largest 99th percentile over the cases of the
        absolute difference, in shares of the range of the peer's image.
        """
        arrays = self._folder / "arrays"
        arrays.mkdir()
        command = [str(peer_python()), "-c", _TO_NPY, str(self._prepared("nnunetv2")), str(arrays)]
        subprocess.run(command, check=True, capture_output=True)
        num_voxels, num_equal, largest = 0, 0, 0.0
        for path in sorted(self._prepared("ours").iterdir()):
            ours = open_case(path)
            theirs, their_label = (np.load(arrays / f"{path.stem}{ending}.npy") for ending in ("", "_seg"))
            axes = self._flipped_axes(path.stem)
            theirs, their_label = np.flip(theirs, [axis + 1 for axis in axes]), np.flip(their_label[0], axes)
            assert ours.image.shape == theirs.shape, f"{path.stem}: {ours.image.shape}, {theirs.shape}"
            difference = np.abs(np.asarray(ours.image, np.float32) - theirs)
            largest = max(largest, float(np.percentile(difference, 99) / np.ptp(theirs)))
            num_voxels += their_label.size
            num_equal += int((np.asarray(ours.label) == their_label).sum())
        shutil.rmtree(arrays)
        return {"labels_equal": num_equal / num_voxels, "image_difference": largest}

    @property
    def _peer_folder(self) -> Path:
        return self._folder / "preprocessed" / self.raw.name

    def _prepared(self, side: str) -> Path:
        if side == "nnunetv2":
            return self._peer_folder / "nnUNetPlans_3d_fullres"
        (folder,) = (path for path in (self._study / "prepared/D").iterdir() if path.name != "index")
        return folder

    def _flipped_axes(self, case_id: str) -> list[int]:
        """Axes (z, y, x) along which this project turns the files, to right-anterior-superior; the peer does not."""
        affine = nib.load(self.raw / "imagesTr" / f"{case_id}_0000.nii.gz").affine
        codes = nib.aff2axcodes(affine)
        assert all(code in ends for code, ends in zip(codes, ("LR", "PA", "IS"), strict=True)), f"{case_id}: {codes}"
        return [2 - axis for axis, code in enumerate(codes) if code in "LPI"]

    def _run_peer(self, command: str, *arguments: str) -> None:
        environment = {**os.environ, **self._environment}
        subprocess.run(self._peer_command(command, *arguments), check=True, capture_output=True, env=environment)

    def _peer_command(self, name: str, *arguments: str) -> list[str]:
        return [str(peer_python().with_name(f"nnUNetv2_{name}")), "-d", str(self._number), *arguments]

    def _measured(self, command: list[str], environment: dict[str, str]) -> Measured:
        # Two processors for either side: ours takes as many processes as it has processors.
        processors = ",".join(map(str, sorted(os.sched_getaffinity(0))[:2]))
        return measure(["taskset", "-c", processors, *command], self._study, self._folder / "log", environment)

    def _write_params(self, compression: str) -> None:
        params = {
            "family": "segmentation",
            "datasets": {"D": {"source": str(self.raw)}},
            "architectures": [_ENTRY],
            "entries": {_ENTRY: {"variant": "tiny", "configuration": "3d_fullres"}},
            "split": {"num_folds": 2},
            "budget": {"memory_gib": 0.05},
            "preprocessing": {"compression": compression},
            **{section: {} for section in ("training", "inference", "evaluation", "tuning")},
        }
        write_text(self._study / "params.yaml", yaml.safe_dump(params))

    def _plan_ours(self, preprocessing: Preprocessing) -> None:
        self._write_params("none")
        write_text(self._study / f"sources/{_ENTRY}.json", "{}")
        plan_path = f"plans/D/{_ENTRY}.json"
        planned_from = ["--cases", "cases/D", "--fingerprint", "fingerprints/D", "--sources", f"sources/{_ENTRY}.json"]
        for stage, *arguments in (
            ["cases", "--dataset", "D", "--out", "cases/D"],
            ["fingerprint", "--cases", "cases/D", "--out", "fingerprints/D"],
            ["plan", "--dataset", "D", "--entry", _ENTRY, *planned_from, "--out", plan_path],
        ):
            command = [sys.executable, "-m", f"stages.{stage}", *arguments]
            subprocess.run(command, check=True, capture_output=True, cwd=self._study)
        plan = read_plan(self._study / plan_path)
        # `_flipped_axes` knows no transposition.
        assert plan.preprocessing.transpose_forward == preprocessing.transpose_forward == (0, 1, 2)
        assert plan.preprocessing.normalisation == preprocessing.normalisation
        write_plan(self._study / plan_path, dataclasses.replace(plan, preprocessing=preprocessing))


def _preprocessing_of(plans: dict[str, Any]) -> Preprocessing:
    """What nnU-Net's plans say of `3d_fullres`."""
    planned = plans["configurations"]["3d_fullres"]
    schemes = [_SCHEMES[name] for name in planned["normalization_schemes"]]
    intensities = plans["foreground_intensity_properties_per_channel"]
    return Preprocessing(
        configuration="3d_fullres",
        transpose_forward=as_tuples(plans["transpose_forward"]),
        spacing_mm=as_tuples(planned["spacing"]),
        normalisation=tuple(schemes),
        uses_nonzero_mask=as_tuples(planned["use_mask_for_norm"]),
        intensity=tuple(intensities[str(index)] if name == "ct" else {} for index, name in enumerate(schemes)),
    )


def _compared(comparison: Comparison, rounds: int) -> dict[str, Any]:
    runs: dict[str, list[Measured]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, measured in runs.items():
            measured.append(comparison.prepare(side))
    figures: dict[str, Any] = {}
    for side, measured in runs.items():
        figures[side] = {
            "cpu_s": statistics.median(run.cpu_s for run in measured),
            "wall_s": statistics.median(run.wall_s for run in measured),
            "peak_gib": statistics.median(run.peak_gib for run in measured),
            "bytes": comparison.num_bytes(side),
        }
    ours, theirs = (figures[side] for side in SIDES)
    figures["ours_over_nnunetv2"] = {key: ours[key] / theirs[key] for key in ours}
    figures |= {"rounds": rounds, "cases": len(list(comparison.raw.glob("labelsTr/*")))}
    return figures | comparison.differences()


def main() -> None:
    """Run both sides in turn on every data set, compare, print, write."""
    tables: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sources = {
            "generated": (write_generated_cases(folder / "generated"), ROUNDS),
            "chaos": (chaos(), ROUNDS),
            "hippocampus": (hippocampus(), 1),
        }
        for number, (name, (dataset, rounds)) in enumerate(sources.items(), 1):
            if dataset is None:
                print(f"{name}: no shared data, left out")
                continue
            comparison = Comparison(dataset, number, folder)
            tables[name] = _compared(comparison, rounds)
            if name == "hippocampus":
                for compression in ("lz4", "zstd"):
                    comparison.prepare("ours", compression)
                    ratio = comparison.num_bytes("ours") / tables[name]["nnunetv2"]["bytes"]
                    tables[name]["ours_over_nnunetv2"][f"bytes_{compression}"] = ratio
            print(f"{name}: {json.dumps(tables[name], indent=2)}", flush=True)
    result = {
        "command": "python -m benchmarks.nnunet_preprocessing",
        "commit": git_commit(),
        "machine": machine() | {"nnunetv2": version_of_peer()},
        "processes": 2,
        "datasets": tables,
    }
    write_text(ROOT / "benchmarks/results/nnunet_preprocessing.json", json.dumps(result, indent=2) + "\n")
    _print_table(tables)


def version_of_peer() -> str:
    """Of nnunetv2."""
    code = "import importlib.metadata as m; print(m.version('nnunetv2'))"
    return subprocess.run([str(peer_python()), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def _print_table(tables: dict[str, Any]) -> None:
    print(f"{'data set':<12} {'CPU s':>7} {'peer':>7} {'ratio':>6} {'MiB':>6} {'peer':>6} {'ratio':>6} {'bytes':>6}")
    for name, table in tables.items():
        (ours, theirs), ratio = (table[side] for side in SIDES), table["ours_over_nnunetv2"]
        print(
            f"{name:<12} {ours['cpu_s']:>7.2f} {theirs['cpu_s']:>7.2f} {ratio['cpu_s']:>6.2f} "
            f"{ours['peak_gib'] * 1024:>6.0f} {theirs['peak_gib'] * 1024:>6.0f} {ratio['peak_gib']:>6.2f} "
            f"{ratio['bytes']:>6.2f}"
        )


if __name__ == "__main__":
    main()
