"""One training iteration, and one batch: this project and nnunetv2 in turn, each in its own interpreter.

`python -m benchmarks.nnunet_training` prints CPU seconds with one torch thread, peak memory and ratios, and writes
benchmarks/results/nnunet_training.json. Both sides fingerprint, plan and prepare the same cases of MSD Hippocampus and
train nnU-Net's network for it in `3d_fullres` and `2d`; the benchmark stops where parameters or shapes differ. Nothing
is measured where the shared data are absent.

An iteration is forward, deep supervision losses, backward, clipping and the update, of one batch again and again. In
bfloat16 the forward pass runs under CPU autocast, which neither side does by itself; that is one cold iteration, and of
`2d` alone, because where the processor has no such instructions `3d_fullres` took more than four CPU minutes. A batch
is made by what training calls: choice of case and place, reading, augmentation, and the targets of deep supervision.
What happens to a sample is drawn, so a figure is the mean over many batches, other ones each round.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NUM_CASES, NUM_FOLDS = 20, 5
ROUNDS = 3
SIDES = ("ours", "nnunetv2")
DATASET = "Hippocampus"
_NUMBER = 4
# Kernels are chosen and pages read before the clock starts.
_STEPS_BEFORE, _BATCHES_BEFORE = 1, 10


@dataclass(frozen=True)
class Setting:
    """A configuration and how much of it is measured.

    Attributes:
        batch_size: of both sides, whatever they planned.
        num_steps: iterations a round.
        num_batches: batches loaded a round.
    """

    batch_size: int
    num_steps: int
    num_batches: int


@dataclass(frozen=True)
class Row:
    """A line of the table; `goal` is the largest ratio of CPU seconds, ours to the peer's."""

    configuration: str
    what: str
    goal: float | None


SETTINGS = {"3d_fullres": Setting(2, 3, 200), "2d": Setting(32, 3, 60)}
ROWS = [
    Row("3d_fullres", "iteration", 1.0),
    Row("2d", "iteration", 1.0),
    Row("3d_fullres", "loading", 0.7),
    Row("2d", "loading", 0.7),
    Row("2d", "iteration_bf16", None),
]


class OurTraining:
    """A fold of this project's training.

    Args:
        folder: what `prepare_ours` wrote.
        configuration: `3d_fullres` or `2d`.
        seed: of weights and samples.
    """

    def __init__(self, folder: Path, configuration: str, seed: int) -> None:
        import torch

        from pipelines.planning.plan import read_plan
        from pipelines.planning.precision import place
        from pipelines.tasks.segmentation_training import SegmentationTraining
        from pipelines.training.folds import read_index
        from pipelines.training.optimizer import build_optimizer

        plan = read_plan(folder / f"plans/{configuration}.json")
        cases, _ = read_index(folder / f"prepared/index/{configuration}.json")
        torch.manual_seed(seed)
        self._task = SegmentationTraining(plan, cases, fold=0, seed=seed, folder=folder)
        self.network = place(self._task.build_network(), torch.device("cpu")).train()
        self._optimizer = build_optimizer(self.network.named_parameters(), **plan.optimizer)
        self._next_step = 0
        self._target_sizes = [plan.patch_size]
        for stride in plan.network["strides"][1:-1]:
            finer = self._target_sizes[-1]
            self._target_sizes.append(tuple(side // step for side, step in zip(finer, stride, strict=True)))

    def load(self) -> dict[str, Any]:
        """Make the next batch."""
        import torch

        from repro_models.losses.deep_supervision import downsample_target

        batch = self._task.batch(self._next_step, range(self._task.batch_size), torch.device("cpu"))
        self._next_step += 1
        # The loss does this again, so it is paid for twice.
        targets = [downsample_target(batch["target"], size) for size in self._target_sizes]
        return {**batch, "targets": targets}

    def shapes(self, batch: dict[str, Any]) -> list[list[int]]:
        """Of the image and the targets."""
        return [list(tensor.shape) for tensor in (batch["image"], *batch["targets"])]

    def step(self, batch: dict[str, Any], is_bf16: bool) -> None:
        """One iteration of the training loop."""
        from unittest import mock

        import torch

        from pipelines.training import loop
        from pipelines.training.world import World

        half: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if is_bf16:
            half = mock.patch.object(loop, "autocast", lambda device: torch.autocast(device.type, torch.bfloat16))
        plan, device = self._task.plan, torch.device("cpu")
        tensors = {name: batch[name] for name in ("image", "target")}
        with half:
            loop.take_step(
                self._task, self.network, tensors, plan.batch_size, self._optimizer, plan.clip_norm, device, World()
            )


class TheirTraining:
    """A fold of nnunetv2's training; arguments as in `OurTraining`."""

    def __init__(self, folder: Path, configuration: str, seed: int) -> None:
        import random

        import numpy as np
        import torch
        from nnunetv2.run.run_training import get_trainer_from_args

        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        # `peer_environment` has told it where the folders are.
        del folder
        self._trainer = get_trainer_from_args(str(_NUMBER), configuration, 0, device=torch.device("cpu"))
        self._trainer.initialize()
        self._trainer.dataloader_train, self._trainer.dataloader_val = self._trainer.get_dataloaders()
        self.network = self._trainer.network.train()

    def load(self) -> dict[str, Any]:
        """Make the next batch."""
        return next(self._trainer.dataloader_train)

    def shapes(self, batch: dict[str, Any]) -> list[list[int]]:
        """Of the image and the targets, without their axis of one channel."""
        return [list(batch["data"].shape), *([len(target), *target.shape[2:]] for target in batch["target"])]

    def step(self, batch: dict[str, Any], is_bf16: bool) -> None:
        """One iteration of the training loop."""
        import torch

        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            self._trainer.train_step(batch)


def measure_side(side: str, folder: Path, row: Row, seed: int) -> dict[str, Any]:
    """CPU seconds, peak memory, parameters and shapes of one side in this process."""
    import torch

    torch.set_num_threads(1)
    training = (OurTraining if side == "ours" else TheirTraining)(folder, row.configuration, seed)
    setting, batch = SETTINGS[row.configuration], training.load()
    if row.what == "loading":
        seconds = statistics.fmean(_cpu_seconds(training.load, _BATCHES_BEFORE, setting.num_batches))
    else:
        is_bf16 = row.what == "iteration_bf16"
        num_before, num = (0, 1) if is_bf16 else (_STEPS_BEFORE, setting.num_steps)
        seconds = statistics.median(_cpu_seconds(lambda: training.step(batch, is_bf16), num_before, num))
    return {
        "cpu_s": seconds,
        "peak_gib": _peak_gib(),
        "num_parameters": sum(parameter.numel() for parameter in training.network.parameters()),
        "shapes": training.shapes(batch),
    }


def _cpu_seconds(call: Callable[[], Any], num_before: int, num: int) -> list[float]:
    for _ in range(num_before):
        call()
    seconds = []
    for _ in range(num):
        started = time.process_time()
        call()
        seconds.append(time.process_time() - started)
    return seconds


def _peak_gib() -> float:
    """Most memory this process ever held; `ru_maxrss` would count the parent's, too."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**20


def prepare_ours(source: Path, folder: Path) -> None:
    """Write `plans/` and `prepared/` of both configurations to `folder`."""
    import yaml

    from pipelines.atomic_files import write_text
    from pipelines.cases.collect import collect_cases
    from pipelines.params import read_params
    from pipelines.planning.plan import write_plan
    from pipelines.tasks import segmentation

    entries = {
        name: {
            "architecture": "nnunet",
            "configuration": name,
            "overrides": {"planner": "nnunet", "batch_size": setting.batch_size},
        }
        for name, setting in SETTINGS.items()
    }
    sections = ("budget", "preprocessing", "training", "inference", "evaluation", "tuning")
    study = {
        "family": "segmentation",
        "datasets": {DATASET: {"source": str(source)}},
        "architectures": list(entries),
        "entries": entries,
        "split": {"num_folds": NUM_FOLDS},
        **{section: {} for section in sections},
    }
    write_text(folder / "params.yaml", yaml.safe_dump(study))
    params = read_params(folder / "params.yaml")
    cases, fingerprint = folder / "cases", folder / "fingerprint"
    collect_cases(str(source), DATASET, cases, NUM_FOLDS)
    segmentation.fingerprint(cases, fingerprint)
    paths = [folder / f"plans/{name}.json" for name in entries]
    for name, path in zip(entries, paths, strict=True):
        write_plan(path, segmentation.plan(params, DATASET, name, cases, fingerprint, {}))
    segmentation.prepare(cases, paths, folder / "prepared", folder / "work")


def prepare_theirs(source: Path, folder: Path, environment: dict[str, str]) -> None:
    """Have nnunetv2 plan and preprocess, and write the smaller batches into its plan."""
    from benchmarks.nnunet_peer import peer_python

    for name, *arguments in (
        ["extract_fingerprint", "-np", "2"],
        ["plan_experiment"],
        ["preprocess", "-c", *SETTINGS, "-np", *("2" for _ in SETTINGS)],
    ):
        command = [str(peer_python().with_name(f"nnUNetv2_{name}")), "-d", str(_NUMBER), *arguments]
        # Its planner takes no 0 for the number of augmenting processes.
        one_process = {"nnUNet_n_proc_DA": "1"}
        subprocess.run(command, check=True, capture_output=True, env=os.environ | environment | one_process)
    path = folder / "preprocessed" / source.name / "nnUNetPlans.json"
    plans = json.loads(path.read_text(encoding="utf-8"))
    for name, setting in SETTINGS.items():
        plans["configurations"][name]["batch_size"] = setting.batch_size
    path.write_text(json.dumps(plans, indent=2), encoding="utf-8")
    _check_equal_plans(folder, plans["configurations"])


def _check_equal_plans(folder: Path, theirs: dict[str, Any]) -> None:
    """What parameters and shapes would not tell."""
    from pipelines.planning.plan import read_plan

    for name in SETTINGS:
        plan = read_plan(folder / f"plans/{name}.json")
        ours = (list(plan.patch_size), plan.batch_size, plan.is_batch_dice, len(plan.mirror_axes))
        peer = theirs[name]
        wanted = (peer["patch_size"], peer["batch_size"], peer["batch_dice"], len(peer["patch_size"]))
        assert ours == wanted, f"{name}: planned {ours} by this project, {wanted} by nnU-Net"


def compare(row: Row, folder: Path, environment: dict[str, str], rounds: int) -> dict[str, Any]:
    """A row of the table: medians of both sides over the rounds."""
    from benchmarks.nnunet_peer import peer_python
    from pipelines.tracking.provenance import ROOT

    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for seed in range(rounds if row.goal else 1):
        for side, results in runs.items():
            python = sys.executable if side == "ours" else str(peer_python())
            what = ["--configuration", row.configuration, "--what", row.what]
            where = ["--side", side, "--folder", str(folder), "--seed", str(seed)]
            command = [python, "-W", "ignore", "-m", "benchmarks.nnunet_training", *where, *what]
            output = subprocess.run(
                command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, check=True, text=True
            ).stdout
            results.append(json.loads(output.splitlines()[-1]))
    ours, theirs = (runs[side][0] for side in SIDES)
    for key in ("num_parameters", "shapes"):
        assert ours[key] == theirs[key], f"{row}: {key} {ours[key]} here, {theirs[key]} in nnU-Net"
    medians = {
        key: {side: statistics.median(run[key] for run in results) for side, results in runs.items()}
        for key in ("cpu_s", "peak_gib")
    }
    ratios = {key: medians[key]["ours"] / medians[key]["nnunetv2"] for key in medians}
    pairs = zip(runs["ours"], runs["nnunetv2"], strict=True)
    return {
        **dataclasses.asdict(row),
        "num_parameters": ours["num_parameters"],
        "shapes": ours["shapes"],
        **medians,
        "ours_over_nnunetv2": ratios,
        "cpu_s_ratio_by_round": [here["cpu_s"] / there["cpu_s"] for here, there in pairs],
    }


def main() -> None:
    """Prepare, run both sides in turn, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--side", choices=SIDES, help="run one side only; the benchmark says this to itself")
    parser.add_argument("--folder", type=Path, help="keep, and use again, what is prepared")
    parser.add_argument("--configuration", choices=list(SETTINGS), help="only this one")
    parser.add_argument("--what", choices=sorted({row.what for row in ROWS}), help="only this")
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    if options.side:
        row = Row(options.configuration, options.what, None)
        # The peer prints much, and the last line is what counts.
        print(json.dumps(measure_side(options.side, options.folder, row, options.seed)))
        return
    from benchmarks.nnunet_layout import HIPPOCAMPUS, hippocampus, link_raw
    from benchmarks.nnunet_peer import peer_environment
    from benchmarks.nnunet_preprocessing import version_of_peer
    from pipelines.atomic_files import write_text
    from pipelines.tracking.provenance import ROOT, git_commit, machine

    dataset = hippocampus(NUM_CASES)
    if dataset is None:
        print(f"no data in {HIPPOCAMPUS}: nothing measured")
        return
    rows = [
        row for row in ROWS if options.configuration in (None, row.configuration) and options.what in (None, row.what)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        environment = peer_environment(folder)
        if not (folder / "ready").exists():
            source = link_raw(dataset, folder / "raw", _NUMBER)
            prepare_ours(source, folder)
            prepare_theirs(source, folder, environment)
            (folder / "ready").touch()
        table = []
        for row in rows:
            table.append(compare(row, folder, environment, options.rounds))
            _print(table[-1])
    if rows == ROWS:
        result = {
            "command": "python -m benchmarks.nnunet_training",
            "commit": git_commit(),
            "machine": machine() | {"nnunetv2": version_of_peer()},
            "cases": NUM_CASES,
            "median_of": options.rounds,
            "rows": table,
        }
        write_text(ROOT / "benchmarks/results/nnunet_training.json", json.dumps(result, indent=2) + "\n")


def _print(row: dict[str, Any]) -> None:
    seconds, memory, ratios = row["cpu_s"], row["peak_gib"], row["ours_over_nnunetv2"]
    goal = "" if row["goal"] is None else f" (goal {row['goal']:g})"
    print(
        f"{row['what']:<14} {row['configuration']:<10} {seconds['ours']:>7.3f} CPU s, "
        f"peer {seconds['nnunetv2']:>7.3f}, ratio {ratios['cpu_s']:.2f}{goal}; "
        f"{memory['ours']:.2f} GiB, peer {memory['nnunetv2']:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
