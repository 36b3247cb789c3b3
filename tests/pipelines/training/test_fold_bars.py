from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.tracking.events import EventLog
from pipelines.training.fold_bars import fold_bars
from pipelines.training.folds import TrainingRequest


def request_in(folder: Path, fold: int, **budget: Any) -> TrainingRequest:
    plan = {"entry": "a", "budget": {"kind": "steps", "steps": 10, "minutes": 2.0} | budget}
    return TrainingRequest("segmentation", plan, [], str(folder), str(folder / f"fold{fold}"), fold, 0, "d")


def tell(request: TrainingRequest, step: int, seconds: float, **metrics: float) -> None:
    EventLog(request.events_path).append("epoch", step=step, epoch=0, seconds=seconds, metrics=metrics)


def last_states(text: str) -> dict[str, str]:
    """Last state of every bar by its name."""
    return {line.split(":")[0]: line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[A", "", text)) if ":" in line}


def test_every_training_has_a_bar_that_its_events_move(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests = [request_in(tmp_path, fold) for fold in (0, 1, 2)]
    with fold_bars(requests):
        tell(requests[0], 5, 1.0, **{"train/loss": 0.25, "val/pseudo_dice": 0.5})
        tell(requests[0], 10, 2.0, **{"train/loss": 0.125, "val/pseudo_dice": 0.75})
        tell(requests[1], 5, 1.0, **{"train/loss": 0.5})
    bars = last_states(capsys.readouterr().err)
    assert "100%" in bars["a fold 0 seed 0"]
    assert "10/10" in bars["a fold 0 seed 0"]
    assert "loss=0.125, pseudo_dice=0.750" in bars["a fold 0 seed 0"]
    assert "5/10" in bars["a fold 1 seed 0"]
    assert "loss=0.500, pseudo_dice=nan" in bars["a fold 1 seed 0"]
    assert "0/10" in bars["a fold 2 seed 0"]


def test_a_bar_shows_the_score_of_its_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = dataclasses.replace(request_in(tmp_path, 0), family="graph")
    with fold_bars([request]):
        tell(request, 5, 1.0, **{"train/loss": 0.25, "val/accuracy": 0.5})
    assert "loss=0.250, accuracy=0.500" in last_states(capsys.readouterr().err)["a fold 0 seed 0"]


def test_a_budget_of_minutes_is_drawn_in_seconds_and_never_overflows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = request_in(tmp_path, 0, kind="minutes")
    with fold_bars([request]):
        tell(request, 1000, 130.0, **{"train/loss": 0.25})
    assert "120/120" in last_states(capsys.readouterr().err)["a fold 0 seed 0"]


def test_an_error_in_the_block_comes_out_and_the_bars_end(tmp_path: Path) -> None:
    import threading

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), fold_bars([request_in(tmp_path, 0)]):
        raise ZeroDivisionError
    assert threading.active_count() == before
