from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.params import Tuning
from pipelines.tracking.events import EventLog
from pipelines.tuning.search import search
from pipelines.tuning.trial import TrialRequest
from tests.tiny_plan import ENTRY, FOLDS, TinyStudy


class FakeTune:
    """In place of Ray Tune: every trial ends at once, each better than the one before."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, request_path: Path, space: Any, first: Any, storage_dir: Path, **how: Any) -> list[Any]:
        request = TrialRequest.read(request_path)
        self.calls.append({"request": request, "space": space, "first": first, "storage_dir": storage_dir, **how})
        rows = []
        for number in range(how["num_trials"]):
            trial_dir = Path(request.trials_dir) / f"id{number}"
            EventLog(trial_dir / "events.jsonl").append("run_start", params={})
            (trial_dir / "state.pt").write_bytes(b"much")
            settings = {"learning_rate": 0.001 * (number + 1)}
            told = {"epoch": 2, "seconds": 1.0, "outcome": "finished", "reason": ""}
            rows.append({"trial_id": f"id{number}", "settings": settings, "score": 0.1 * number, **told})
        return rows[::-1]


@pytest.fixture
def tune(monkeypatch: pytest.MonkeyPatch) -> FakeTune:
    fake = FakeTune()

    @contextlib.contextmanager
    def no_ray() -> Iterator[str]:
        yield ""

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("pipelines.tuning.ray_search.search_with_ray", fake)
    monkeypatch.setattr("pipelines.tuning.search.local_head", no_ray)
    return fake


def run(study: TinyStudy, folder: Path, tuning: Tuning, out: str = "tuned", entry: str = ENTRY) -> dict[str, Any]:
    """Search, and give `best.yaml`."""
    search("segmentation", tuning, study.plan_path(entry), study.index_path(entry), folder / out, folder / "work")
    best: dict[str, Any] = yaml.safe_load((folder / out / "best.yaml").read_text(encoding="utf-8"))
    return best


def test_no_trial_of_a_fold_is_given_a_case_of_this_fold_or_of_the_test(
    tiny_study: TinyStudy, tmp_path: Path, tune: FakeTune
) -> None:
    run(tiny_study, tmp_path, Tuning(trials=2))
    assert [call["name"] for call in tune.calls] == ["nnunet_tiny fold 0", "nnunet_tiny fold 1"]
    for fold, call in enumerate(tune.calls):
        request = call["request"]
        seen = {case["case_id"] for case in request.cases}
        assert seen == {case for case, its_fold in FOLDS.items() if its_fold != fold}
        inside = {case["patient"] for case in request.cases if case["fold"] != request.fold}
        validating = {case["patient"] for case in request.cases if case["fold"] == request.fold}
        assert inside
        assert validating
        assert not inside & validating
        assert f'"{min(FOLDS, key=lambda case: FOLDS[case] != fold)}"' not in json.dumps(request.cases)


def test_folds_share_neither_trials_nor_state(tiny_study: TinyStudy, tmp_path: Path, tune: FakeTune) -> None:
    best = run(tiny_study, tmp_path, Tuning(trials=5))
    assert [call["num_trials"] for call in tune.calls] == [3, 2], "as evenly as it goes"
    assert best["num_trials"] == 5
    assert [best["folds"][fold]["num_trials"] for fold in (0, 1)] == [3, 2]
    assert [best["folds"][fold]["optimizer"]["learning_rate"] for fold in (0, 1)] == [0.003, 0.002]
    assert len({call["storage_dir"] for call in tune.calls}) == 2
    assert len({call["seed"] for call in tune.calls}) == 2


def test_trials_stand_in_the_order_they_began(tiny_study: TinyStudy, tmp_path: Path, tune: FakeTune) -> None:
    run(tiny_study, tmp_path, Tuning(trials=4))
    rows = pq.read_table(tmp_path / "tuned" / "trials.parquet").to_pylist()
    assert [(row["trial"], row["learning_rate"]) for row in rows] == [
        ("fold0_trial000", 0.001),
        ("fold0_trial001", 0.002),
        ("fold1_trial000", 0.001),
        ("fold1_trial001", 0.002),
    ]


def test_a_finished_search_is_read_and_leaves_no_weights(tiny_study: TinyStudy, tmp_path: Path, tune: FakeTune) -> None:
    first = run(tiny_study, tmp_path, Tuning(trials=2), "a")
    assert not list((tmp_path / "work").rglob("state.pt"))
    second = run(tiny_study, tmp_path, Tuning(trials=2, entries=[ENTRY]), "b")
    assert len(tune.calls) == 2, "naming the entries changes nothing about their search"
    assert second == first
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


@pytest.mark.parametrize(
    "change",
    [{"trials": 4}, {"seed": 1}, {"steps": 2}, {"grace_epochs": 2}, {"space": {"momentum": [0.5, 0.9]}}],
    ids=lambda change: next(iter(change)),
)
def test_another_search_starts_anew(
    tiny_study: TinyStudy, tmp_path: Path, tune: FakeTune, change: dict[str, Any]
) -> None:
    run(tiny_study, tmp_path, Tuning(trials=2))
    run(tiny_study, tmp_path, Tuning(**{"trials": 2, **change}))
    assert len(tune.calls) == 4
    assert len({call["storage_dir"] for call in tune.calls}) == 4


def test_a_trial_has_the_budget_of_the_search(tiny_study: TinyStudy, tmp_path: Path, tune: FakeTune) -> None:
    run(tiny_study, tmp_path, Tuning(trials=2, steps=3, grace_epochs=2, reduction_factor=4.0))
    call = tune.calls[0]
    assert call["request"].plan["budget"]["steps"] == 3
    assert (call["max_epochs"], call["grace_epochs"], call["reduction_factor"]) == (2, 2, 4.0)


def test_the_first_trial_is_the_plan_and_the_space_has_what_the_architecture_declares(
    tiny_study: TinyStudy, tmp_path: Path, tune: FakeTune
) -> None:
    run(tiny_study, tmp_path, Tuning(trials=2), entry="unet_3d_tiny")
    call = tune.calls[0]
    assert call["space"].keys() == {"optimizer", "learning_rate_factor", "weight_decay_factor", "network.norm"}
    assert call["first"] == {
        "optimizer": "sgd",
        "learning_rate_factor": 1.0,
        "weight_decay_factor": 1.0,
        "network.norm": "batch",
    }


def test_a_space_of_the_study_replaces_the_default(tiny_study: TinyStudy, tmp_path: Path, tune: FakeTune) -> None:
    run(tiny_study, tmp_path, Tuning(trials=2, space={"learning_rate": {"low": 1e-4, "high": 0.1, "log": True}}))
    assert tune.calls[0]["space"].keys() == {"learning_rate"}
    with pytest.raises(ValueError, match=r"tuning\.space has 'network\.nrom'; did you mean"):
        run(tiny_study, tmp_path, Tuning(trials=2, space={"network.nrom": [1, 2]}), entry="unet_3d_tiny")
