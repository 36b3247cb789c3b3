"""A copy of the project with a study so small that `dvc repro` takes seconds, for tests and CI."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]

PARAMS: dict[str, Any] = {
    "family": "segmentation",
    "datasets": {"blobs": {"source": "data/blobs"}},
    "architectures": ["nnunet_tiny"],
    "entries": {
        "nnunet_tiny": {"architecture": "nnunet", "variant": "tiny"},
        "unet_3d_tiny": {"architecture": "unet_3d", "variant": "tiny"},
        "nnunet_2d_tiny": {"architecture": "nnunet", "variant": "tiny", "configuration": "2d"},
    },
    "split": {"num_folds": 2},
    "preprocessing": {},
    "budget": {"steps": 6, "steps_per_epoch": 2, "validation_steps": 1, "memory_gib": 0.05},
    "training": {"max_batch_size": 2},
    "inference": {},
    "evaluation": {"num_bootstrap": 50},
    "tuning": {},
    "tracking": {"uri": "none"},
}


def copy_project(folder: Path, **changes: Any) -> Path:
    """Copy what git would land (and what is not committed yet) to `folder`, with the tiny study as params.yaml."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/", "dvc.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "s"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    write_params(folder, **changes)
    make_blobs(folder / "data" / "blobs", num_cases=6)
    return folder


def write_params(folder: Path, **changes: Any) -> None:
    """Write params.yaml: the tiny study, its top-level keys replaced by `changes`."""
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS | changes, sort_keys=False), encoding="utf-8")


def make_blobs(folder: Path, num_cases: int) -> None:
    """Write a Decathlon folder of 16^3 volumes, each with a bright cube to find."""
    training = []
    for number in range(num_cases):
        rng = np.random.default_rng(number)
        image, label = rng.normal(100, 5, (16, 16, 16)), np.zeros((16, 16, 16), np.uint8)
        corner = rng.integers(2, 8, 3)
        inside = tuple(slice(start, start + 6) for start in corner)
        image[inside] += 50
        label[inside] = 1
        for kind, array in (("imagesTr", image.astype(np.int16)), ("labelsTr", label)):
            path = folder / kind / f"blob_{number:02d}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                nib.save(nib.Nifti1Image(array, np.eye(4)), path)
        name = f"blob_{number:02d}.nii.gz"
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    description = {
        "name": "Blobs", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "cube"},
        "numTraining": num_cases, "training": training, "test": [],
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")


# Of what the stages find Ray by: its address, its token, the dispatcher.
_HEAD_PREFIXES = ("RAY_", "REPRO_DISPATCHER")
_TELL_AND_WAIT = "import json, os, sys; print(json.dumps(dict(os.environ)), flush=True); sys.stdin.read()"
_head: dict[str, str] = {}


def environment(**more: str) -> dict[str, str]:
    """What a stage needs: this interpreter first on the path, the copy's own modules, one thread, no user's cluster."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith((*_HEAD_PREFIXES, "PYTHONPATH"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
    return {**kept, "PATH": path, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1", **_head, **more}


@contextmanager
def ray_head(folder: Path, **more: str) -> Iterator[None]:
    """Keep a head and warm workers for all that is run in `folder` within the block, as `make repro` does for one run.

    Stages then need not start Ray and import torch each; a test that looks at graphs, not at starts, saves minutes.
    """
    command = [sys.executable, "-m", "pipelines.ray_session.head", sys.executable, "-c", _TELL_AND_WAIT]
    with subprocess.Popen(
        command, cwd=folder, env=environment(**more), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        told = json.loads(next(line for line in process.stdout if line.startswith("{")))
        with pytest.MonkeyPatch.context() as patch:
            for key, value in told.items():
                if key.startswith(_HEAD_PREFIXES):
                    patch.setitem(_head, key, value)
            yield


def repro(folder: Path, *arguments: str, **more: str) -> list[str]:
    """Run `dvc repro` in `folder`; give the stages that ran, in order."""
    process = subprocess.run(
        ["dvc", "repro", *arguments], cwd=folder, env=environment(**more), capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return re.findall(r"Running stage '([^']+)'", process.stdout)


def weights(folder: Path, entry: str = "nnunet_tiny") -> dict[str, dict[str, np.ndarray]]:
    """Weights of every training of an entry, by file name."""
    from safetensors.numpy import load_file

    return {path.name: load_file(path) for path in sorted((folder / "models" / "blobs" / entry).glob("*.safetensors"))}
