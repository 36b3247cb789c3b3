"""Tiny data sets in the three layouts, written where a test asks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from pipelines.ray_session import map_cases

SIDE = 8


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0]) if affine is None else affine).to_filename(path)
    return path


def scan(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 10, (SIDE, SIDE, SIDE)).astype(np.float32)


def label_map(seed: int) -> np.ndarray:
    label = np.zeros((SIDE, SIDE, SIDE), np.uint8)
    label[1 : 2 + seed % 5, 2:4, 2:4] = 1
    label[1 : 2 + seed % 5, 4:6, 2 + seed % 3 : 7] = 2
    return label


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    # A pool of processes takes longer to start than these cases to check.
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(map_cases, "num_local_cpus", lambda: 1)


@pytest.fixture
def decathlon(tmp_path: Path) -> Callable[..., Path]:
    """Write a sound Decathlon folder of four training cases and a test case; keywords replace keys of dataset.json."""

    def write(**changes: Any) -> Path:
        folder = tmp_path / "data"
        names = [f"case_{number}" for number in range(4)]
        for seed, name in enumerate(names):
            save(folder / "imagesTr" / f"{name}.nii.gz", scan(seed))
            save(folder / "labelsTr" / f"{name}.nii.gz", label_map(seed))
        save(folder / "imagesTs" / "case_9.nii.gz", scan(9))
        content = {
            "name": "tiny",
            "modality": {"0": "MRI"},
            "labels": {"0": "background", "1": "near", "2": "far"},
            "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
            "test": ["./imagesTs/case_9.nii.gz"],
        }
        (folder / "dataset.json").write_text(json.dumps(content | changes))
        return folder

    return write
