"""What a trained model needs to predict: `model.json`, its weights, and a prepared case."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipelines.inference.export import to_scan_grid
from pipelines.inference.model_files import read_model_plan, read_training_plan
from pipelines.inference.sliding_window import predict_logits
from pipelines.planning.network import build_network
from pipelines.preprocessing.shards import open_case

_TILES_AT_ONCE = {"cpu": 1, "cuda": 4}


def load_network(weights_path: Path, device: str) -> nn.Module:
    """The trained network, in evaluation mode. Kept for the next case of this process."""
    # A process may outlive a model: the same path can hold other weights later, or be relative to another folder.
    path = weights_path.absolute()
    versions = tuple(
        (status.st_ino, status.st_mtime_ns, status.st_size)
        for status in (path.stat(), path.with_name("model.json").stat())
    )
    return _load_network(path, versions, device)


@functools.lru_cache(maxsize=8)
def _load_network(weights_path: Path, versions: tuple[tuple[int, ...], ...], device: str) -> nn.Module:
    network = build_network(read_training_plan(weights_path))
    network.load_state_dict(load_file(weights_path))
    return network.eval().to(device)


def predict_case(prepared_path: Path, weights: Sequence[Path], device: str) -> np.ndarray:
    """Label map of a prepared case on the grid of its scan.

    Several networks vote by the mean of their logits (nnU-Net's ensemble of folds).

    Args:
        prepared_path: the case's Arrow file.
        weights: weight files in a model folder.
        device: `cpu` or `cuda`.

    Returns:
        (Z, Y, X) unsigned integers.
    """
    plan = read_model_plan(weights[0].parent)
    case = open_case(prepared_path)
    image = torch.from_numpy(np.array(case.image, dtype=np.float32)).to(device)
    total: Tensor | None = None
    for path in weights:
        logits = predict_logits(
            load_network(path, device),
            image,
            patch_size=plan.patch_size,
            num_classes=plan.problem["num_classes"],
            overlap=plan.inference["overlap"],
            mirror_axes=plan.mirror_axes if plan.inference["is_mirrored"] else (),
            batch_tiles=_TILES_AT_ONCE[torch.device(device).type],
        )
        total = logits if total is None else total + logits
    assert total is not None
    return to_scan_grid((total / len(weights)).cpu().numpy(), case.properties)
