"""The losses of twenty steps of a tiny training, as they were when they were stored.

They move with everything between the files of a case and the weights: preprocessing, sampling, augmentation, loss,
optimiser, schedule. A change that is meant to move them stores them anew and says so in the changelog.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipelines.training.single import run_training
from tests.tiny_plan import TinyStudy

# fmt: off
TRACES = {
    "nnunet_tiny": [
        0.420127, 0.365950, 0.304240, 0.339619, 0.250869, 0.204162, 0.157264, 0.120279, 0.097665, 0.023236,
        -0.011501, 0.032240, -0.100191, -0.037297, -0.159962, -0.200534, -0.210830, -0.225586, -0.246099, -0.161061,
    ],
    "unet_3d_tiny": [
        0.863812, 0.801669, 0.668212, 0.642016, 0.558143, 0.468777, 0.382726, 0.347769, 0.275489, 0.168471,
        0.116826, 0.153511, 0.019076, 0.062544, -0.065166, -0.187371, -0.116274, -0.147807, -0.159066, -0.046514,
    ],
}
# fmt: on


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("entry", TRACES)
def test_the_losses_are_those_stored(tiny_study: TinyStudy, tmp_path: Path, entry: str) -> None:
    budget = tiny_study.plan(entry).budget | {"steps": 20, "steps_per_epoch": 1, "validation_steps": 1}
    request = tiny_study.requests(tmp_path, entry, budget=budget)[0]
    run_training(request, num_threads=1, shows_progress=False, device=torch.device("cpu"))
    history = json.loads((request.weights_path.parent / "summary.json").read_text(encoding="utf-8"))["history"]
    # Without AVX-512, or without oneDNN and AVX, the losses differ by 3e-5 at most.
    assert [row["train_loss"] for row in history] == pytest.approx(TRACES[entry], rel=0, abs=1e-4)
