"""The log of a training."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from pipelines.tracking.events import EventLog, RunDescription, epochs, read_events


def test_events_come_back_in_order_with_kind_and_time(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "a/b/fold0_seed0.jsonl")
    log.append("run_start", fold=0, seed=0, params={"patch": [8, 8]})
    log.append("epoch", step=10, epoch=0, metrics={"train/loss": 1.5})
    events = read_events(log.path)
    assert [event["kind"] for event in events] == ["run_start", "epoch"]
    assert events[0]["params"] == {"patch": [8, 8]}
    assert events[1]["metrics"] == {"train/loss": 1.5}
    assert 1e9 < events[0]["time"] <= events[1]["time"]


def test_an_absent_file_has_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path / "none.jsonl") == []


def test_numpy_numbers_and_nan_can_be_written(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append("epoch", step=np.int64(3), epoch=0, metrics={"val/dice": np.float32(0.5), "train/loss": math.nan})
    (event,) = read_events(log.path)
    assert event["step"] == 3
    assert event["metrics"]["val/dice"] == 0.5
    assert math.isnan(event["metrics"]["train/loss"])


@pytest.mark.parametrize("num_bytes_left", [1, 20, 40], ids="{} bytes of the last line".format)
def test_a_cut_last_line_is_left_out_and_the_next_event_is_whole(tmp_path: Path, num_bytes_left: int) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append("epoch", step=1, epoch=0, metrics={})
    size = log.path.stat().st_size
    log.append("epoch", step=2, epoch=1, metrics={})
    with log.path.open("r+b") as file:
        file.truncate(size + num_bytes_left)
    assert [event["step"] for event in read_events(log.path)] == [1]
    log.append("epoch", step=3, epoch=2, metrics={})
    assert [event["step"] for event in read_events(log.path)] == [1, 3]


def test_a_file_cut_in_its_first_line_starts_anew(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.path.write_text('{"kind": "run_st')
    assert read_events(log.path) == []
    log.append("run_start", fold=0)
    assert [event["kind"] for event in read_events(log.path)] == ["run_start"]


def test_a_complete_line_that_is_not_json_names_file_line_and_fix(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"kind": "run_start"}\nnonsense\n')
    with pytest.raises(ValueError, match=r"events\.jsonl: line 2 .* train again"):
        read_events(path)


def test_epochs_repeated_after_a_resume_count_once_and_the_last_wins() -> None:
    steps_and_losses = [(10, 3.0), (20, 2.0), (10, 3.5), (20, 2.5), (30, 1.0)]
    events = [{"kind": "run_start"}]
    events += [{"kind": "epoch", "step": step, "metrics": {"train/loss": loss}} for step, loss in steps_and_losses]
    found = [(event["step"], event["metrics"]["train/loss"]) for event in epochs(events)]
    assert found == [(10, 3.5), (20, 2.5), (30, 1.0)]


def test_a_description_survives_json() -> None:
    description = RunDescription(
        "heart", "nnunet", "abc", {"name": "heart", "digest": "d", "source": "data"}, {"patch": [8, 8]}, {"a": "b"}
    )
    assert RunDescription.from_json(description.to_json()) == description
