"""What a trained model needs to predict: `model.json`, its weights, and a prepared case."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from pipelines.inference.export import to_scan_grid, to_scan_grid_with_probabilities
from pipelines.inference.model_files import read_model_plan, read_training_plan
from pipelines.inference.placement import Placement
from pipelines.inference.sliding_window import predict_blocks
from pipelines.planning.network import build_network
from pipelines.planning.plan import Plan
from pipelines.planning.precision import place
from pipelines.preprocessing.shards import open_case

_MAX_BATCH_SIZE = 16
_MAX_BATCH_SIZE_CPU = 2


def load_network(weights_path: Path) -> nn.Module:
    """The trained network, in evaluation mode, at first on the CPU. Kept for the next case of this process."""
    # A process may outlive a model: the same path can hold other weights later, or be relative to another folder.
    path = weights_path.absolute()
    versions = tuple(
        (status.st_ino, status.st_mtime_ns, status.st_size)
        for status in (path.stat(), path.with_name("model.json").stat())
    )
    return _load_network(path, versions)


@functools.lru_cache(maxsize=8)
def _load_network(weights_path: Path, versions: tuple[tuple[int, ...], ...]) -> nn.Module:
    network = build_network(read_training_plan(weights_path))
    network.load_state_dict(load_file(weights_path))
    return place(network, torch.device("cpu")).eval()


@dataclass(frozen=True)
class Prediction:
    """What is predicted of a case.

    Attributes:
        label: (Z, Y, X) unsigned integers on the grid of the scan.
        fallbacks: what was given up for want of memory, a sentence a step; usually empty.
        probabilities: (K, Z, Y, X) of each class in 16 bits, where they were asked for.
    """

    label: np.ndarray
    fallbacks: tuple[str, ...] = ()
    probabilities: np.ndarray | None = None


def first_placement(device: str, plan: Plan, case_id: str) -> Placement:
    """All on one device, as many patches at once as training took, up to 2 on the CPU and up to 16 on a GPU."""
    # What training did at once fits prediction, which keeps nothing for a backward pass. A single small patch torch
    # convolves on the CPU by a kernel that takes up to four times as long.
    most = _MAX_BATCH_SIZE_CPU if device == "cpu" else _MAX_BATCH_SIZE
    return Placement(
        device=torch.device(device),
        sums_device=torch.device(device),
        batch_size=min(plan.batch_size, most),
        subject=f"prediction of {case_id}",
    )


def predict_case(
    prepared_path: Path, weights: Sequence[Path], device: str, keeps_probabilities: bool = False
) -> Prediction:
    """Predict a prepared case on the grid of its scan.

    Several networks vote by the mean of their logits (nnU-Net's ensemble of folds).

    Args:
        prepared_path: the case's Arrow file.
        weights: weight files in a model folder.
        device: `cpu` or `cuda`, where to begin; without memory it goes on elsewhere, or begins anew where logits were
            lost.
        keeps_probabilities: whether they are asked for beside the label map.

    Raises:
        MemoryError: nothing was left to give up, or torch's error that says so.
    """
    plan = read_model_plan(weights[0].parent)
    case = open_case(prepared_path)
    placement = first_placement(device, plan, prepared_path.stem)
    networks = [load_network(path) for path in weights]

    def prediction() -> Prediction:
        blocks = predict_blocks(
            networks,
            torch.from_numpy(np.array(case.image)),
            patch_size=plan.patch_size,
            num_classes=plan.problem["num_classes"],
            overlap=plan.inference["overlap"],
            mirror_axes=plan.mirror_axes if plan.inference["is_mirrored"] else (),
            placement=placement,
        )
        if keeps_probabilities:
            label, probabilities = to_scan_grid_with_probabilities(blocks, case.properties)
        else:
            label, probabilities = to_scan_grid(blocks, case.properties), None
        return Prediction(label, tuple(placement.fallbacks), probabilities)

    try:
        return prediction()
    except (RuntimeError, MemoryError) as error:
        placement.export_on_cpu(error)
        return prediction()
