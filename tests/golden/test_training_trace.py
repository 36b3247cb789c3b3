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
        0.422217, 0.370381, 0.305649, 0.338844, 0.249372, 0.202039, 0.155752, 0.111230, 0.096516, 0.022457,
        -0.014661, 0.035029, -0.101518, -0.038404, -0.157897, -0.188120, -0.212737, -0.215562, -0.247685, -0.162758,
    ],
    "unet_3d_tiny": [
        0.853734, 0.805144, 0.674652, 0.640911, 0.560462, 0.467578, 0.380665, 0.338949, 0.271771, 0.163463,
        0.112368, 0.148816, 0.015376, 0.059958, -0.068236, -0.167213, -0.117802, -0.131436, -0.161828, -0.050019,
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
