"""Plans of random data sets: nnU-Net's planners and `planner: nnunet`, number for number.

`python -m benchmarks.nnunet_plans` prints how many plans are equal and which are not, and writes
benchmarks/results/nnunet_plans.json. Compared are spacing, median shape, patch, batch, strides, kernels, batch Dice,
normalisation, order of axes, and which configurations there are. nnU-Net gets a minute a plan: it does not end on some
data; those have no low resolution here.

The peer's networks are built without weights, which saves hours and changes no plan, so nothing here is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

NUM_DATA_SETS = 120
SEED = 20261121
PRESETS = ("plain", "M", "L", "XL")
SECONDS_PER_PLAN = 60
_NORMALISATION = {
    "CTNormalization": "ct",
    "NoNormalization": "nonorm",
    "ZScoreNormalization": "zscore",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
}
_STATISTICS = ("mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5")


def random_data_set(rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any], str, float]:
    """Fingerprint, dataset.json, preset, and GB asked for; from small 2D images to whole-body scans."""
    num_cases = int(rng.integers(1, 12))
    spacing = np.exp(rng.uniform(np.log(0.3), np.log(6), 3))
    shape = np.exp(rng.uniform(np.log(8), np.log(600), 3))
    kind = rng.random()
    if kind < 0.5:  # as scanners do it: a plane, and slices across
        axis, thickness = int(rng.integers(3)), float(rng.choice([1, 1.5, 2.5, 4, 6]))
        spacing[:] = spacing[0]
        spacing[axis] *= thickness
        shape = np.full(3, shape[0] if shape[0] > 64 else 256.0)
        shape[axis] /= thickness
    elif kind < 0.65:
        spacing[:] = spacing[0]
    elif kind < 0.75:  # slices
        spacing[0], shape[0] = 999, 1
    jitter = np.exp(rng.normal(0, 0.15, (2, num_cases, 3)))
    if kind >= 0.65 and kind < 0.75:
        jitter[:, :, 0] = 1
    spacings = (spacing * jitter[0]).round(int(rng.integers(2, 7))).clip(0.01)
    shapes = (shape * jitter[1]).round().astype(int).clip(1)
    channels = [str(name) for name in rng.choice(["CT", "MRI", "nonorm", "rgb_to_0_1"], int(rng.integers(1, 5)))]
    labels = {"background": 0} | {f"class {value}": value for value in range(1, int(rng.integers(2, 30)))}
    if rng.random() < 0.3:
        labels["ignore"] = len(labels)
    fingerprint = {
        "spacings": spacings.tolist(),
        "shapes_after_crop": shapes.tolist(),
        "foreground_intensity_properties_per_channel": {
            str(index): dict.fromkeys(_STATISTICS, 1.0) for index in range(len(channels))
        },
        "median_relative_size_after_cropping": float(rng.uniform(0.5, 1)),
    }
    dataset = {
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": labels,
        "numTraining": num_cases * int(rng.integers(1, 40)),
        "file_ending": ".nii.gz",
        "dataset": {"a": {"images": ["a_0000.nii.gz"], "label": "a.nii.gz"}},
    }
    preset = str(rng.choice(PRESETS, p=[0.55, 0.2, 0.15, 0.1]))
    memory_gib = {"plain": float(rng.choice([4, 8, 11, 24])), "M": float(rng.choice([8, 80]))}.get(preset, 0.0)
    return fingerprint, dataset, preset, memory_gib or {"L": 24.0, "XL": 40.0}[preset]


def our_plan(folder: Path, preset: str, memory_gib: float) -> dict[str, Any]:
    """What `repro plan` plans of a folder, in the terms compared."""
    from pipelines.tasks.plan_preview import previews

    (preview,) = previews(str(folder), "nnunet", "nnunet", preset, memory_gib)
    values = preview.values()
    kept = ("spacing", "median_shape", "patch_size", "batch_size", "strides", "kernel_sizes", "batch_dice")
    configurations = {
        name: {key: plan[key] for key in kept}
        | {"normalisation": plan["normalisation"], "uses_nonzero_mask": plan["uses_nonzero_mask"]}
        for name, plan in values["configurations"].items()
    }
    plan = {"transpose_forward": values["transpose_forward"], "configurations": configurations}
    if "does not end" in values["refused"].get("3d_lowres", ""):
        return {"does_not_end": True}
    return json.loads(json.dumps(plan))


def peer_plans(root: Path) -> None:
    """Plan every folder by nnU-Net and write `peer.json` into it; runs in the peer's interpreter."""
    import torch
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners as res

    planners = {
        "plain": ExperimentPlanner,
        "M": res.nnUNetPlannerResEncM,
        "L": res.nnUNetPlannerResEncL,
        "XL": res.nnUNetPlannerResEncXL,
    }
    torch.set_default_device("meta")

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    for folder in sorted((root / "preprocessed").iterdir()):
        settings = json.loads((folder / "settings.json").read_text())
        signal.alarm(SECONDS_PER_PLAN)
        try:
            with contextlib.redirect_stdout(None):
                planner = planners[settings["preset"]](folder.name, settings["memory_gib"])
                # It would open an image.
                planner.determine_reader_writer = lambda: ExperimentPlanner
                plan = planner.plan_experiment()
        except TimeoutError:
            result: dict[str, Any] = {"does_not_end": True}
        else:
            configurations = {}
            for name, values in plan["configurations"].items():
                if name == "3d_cascade_fullres":
                    continue
                network = values["architecture"]["arch_kwargs"]
                configurations[name] = {
                    "spacing": values["spacing"],
                    "median_shape": values["median_image_size_in_voxels"],
                    "patch_size": values["patch_size"],
                    "batch_size": values["batch_size"],
                    "strides": network["strides"],
                    "kernel_sizes": network["kernel_sizes"],
                    "batch_dice": values["batch_dice"],
                    "normalisation": [_NORMALISATION[scheme] for scheme in values["normalization_schemes"]],
                    "uses_nonzero_mask": values["use_mask_for_norm"],
                }
            result = {"transpose_forward": plan["transpose_forward"], "configurations": configurations}
        finally:
            signal.alarm(0)
        (folder / "peer.json").write_text(json.dumps(result))


def differences(ours: Any, peer: Any, where: str = "") -> list[str]:
    """Where two plans differ; numbers may differ by rounding of the last digit."""
    if isinstance(ours, dict) and isinstance(peer, dict):
        keys = sorted(ours.keys() | peer.keys())
        return [line for key in keys for line in differences(ours.get(key), peer.get(key), f"{where}/{key}")]
    if isinstance(ours, list) and isinstance(peer, list) and len(ours) == len(peer):
        pairs = enumerate(zip(ours, peer, strict=True))
        return [line for index, (a, b) in pairs for line in differences(a, b, f"{where}/{index}")]
    is_near = isinstance(ours, float) and isinstance(peer, (int, float)) and abs(ours - peer) <= 1e-12 * abs(peer)
    return [] if ours == peer or is_near else [f"{where}: ours {ours}, nnU-Net {peer}"]


def main() -> None:
    """Plan on both sides, compare, print, write."""
    from benchmarks.nnunet_peer import peer_environment, peer_python
    from pipelines.atomic_files import write_text
    from pipelines.tracking.provenance import ROOT, git_commit, machine

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--num", type=int, default=NUM_DATA_SETS, help="data sets")
    options = parser.parse_args()
    if options.peer:
        peer_plans(options.peer)
        return
    rng = np.random.default_rng(SEED)
    counts = {"data_sets": options.num, "plans": 0, "equal": 0, "without_end_in_nnunet": 0}
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        environment = peer_environment(root)
        for number in range(options.num):
            fingerprint, dataset, preset, memory_gib = random_data_set(rng)
            settings = {"preset": preset, "memory_gib": memory_gib}
            name = f"Dataset{number + 1:03d}_{preset}"
            for kind in ("raw", "preprocessed"):
                (root / kind / name).mkdir()
                (root / kind / name / "dataset.json").write_text(json.dumps(dataset))
            folder = root / "preprocessed" / name
            (folder / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
            (folder / "settings.json").write_text(json.dumps(settings))
        command = [str(peer_python()), "-m", "benchmarks.nnunet_plans", "--peer", str(root)]
        subprocess.run(command, cwd=ROOT, env={**environment, "nnUNet_n_proc_DA": "1"}, check=True)
        for folder in sorted((root / "preprocessed").iterdir()):
            settings = json.loads((folder / "settings.json").read_text())
            peer = json.loads((folder / "peer.json").read_text())
            ours = our_plan(folder, settings["preset"], settings["memory_gib"])
            lines = differences(ours, peer)
            counts["plans"] += len(peer.get("configurations", ()))
            counts["equal"] += 0 if lines else len(peer.get("configurations", ()))
            counts["without_end_in_nnunet"] += "does_not_end" in peer
            if lines:
                found[folder.name] = lines
                fingerprint = json.loads((folder / "dataset_fingerprint.json").read_text())
                print(folder.name, settings, fingerprint["spacings"][:3], fingerprint["shapes_after_crop"][:3])
                print("\n".join(f"  {line}" for line in lines))
    result = {
        "command": "python -m benchmarks.nnunet_plans",
        "commit": git_commit(),
        "machine": machine(),
        "peer": "nnunetv2 2.8.1",
        **counts,
        "differences": found,
    }
    write_text(ROOT / "benchmarks/results/nnunet_plans.json", json.dumps(result, indent=2) + "\n")
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
