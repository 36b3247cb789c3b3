from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.tracking.description import describe_model, describe_run
from pipelines.tracking.provenance import files_digest

PLAN: dict[str, Any] = {
    "dataset": "cohort",
    "entry": "unet_slim",
    "architecture": "segmentation/unet_3d",
    "configuration": "3d_fullres",
    "patch_size": [40, 56, 40],
    "batch_size": 9,
    "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.99, "weight_decay": 3e-5},
    "schedule": {"name": "polynomial", "exponent": 0.9, "warmup_fraction": 0.0},
    "budget": {"kind": "steps", "steps": 500, "minutes": 60.0},
}
CASES = [{"case_id": "a", "digest": "1", "fold": 0}, {"case_id": "b", "digest": "2", "fold": 1}]


@pytest.fixture(autouse=True)
def _outside_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for name in ("DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)


def test_a_run_is_told_by_its_plan() -> None:
    told = describe_run(PLAN, CASES, "d1", "data/cohort")
    assert (told.experiment, told.entry, told.digest) == ("cohort", "unet_slim", "d1")
    assert told.params == {
        "architecture": "segmentation/unet_3d",
        "configuration": "3d_fullres",
        "patch_size": "40x56x40",
        "batch_size": 9,
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "schedule": "polynomial",
        "budget": "500 steps",
    }
    assert (told.dataset["name"], told.dataset["source"]) == ("cohort", "data/cohort")
    assert told.tags == {}


def test_a_plan_without_patches_tells_none() -> None:
    plan = {key: value for key, value in PLAN.items() if key != "patch_size"}
    assert "patch_size" not in describe_run(plan, CASES, "d1", "data/graph").params


@pytest.mark.parametrize(
    ("kind", "told"), [("minutes", "2.5 minutes"), ("cpu_minutes", "2.5 minutes of processor time")]
)
def test_a_budget_of_minutes_is_told_in_minutes(kind: str, told: str) -> None:
    plan = PLAN | {"budget": {"kind": kind, "steps": 500, "minutes": 2.5}}
    assert describe_run(plan, CASES, "d", "s").params["budget"] == told


def test_the_data_are_told_by_the_content_of_the_cases() -> None:
    digest = describe_run(PLAN, CASES, "d", "s").dataset["digest"]
    other_fold = [CASES[0] | {"fold": 1}, CASES[1]]
    other_content = [CASES[0] | {"digest": "3"}, CASES[1]]
    assert describe_run(PLAN, other_fold, "d", "s").dataset["digest"] == digest
    assert describe_run(PLAN, other_content, "d", "s").dataset["digest"] != digest


def test_tags_tell_where_it_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "train@cohort-unet_slim")
    monkeypatch.setenv("DVC_EXP_NAME", "slim")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "b45e")
    monkeypatch.setattr("pipelines.tracking.description.git_commit", lambda: "abc-dirty")
    Path("dvc.lock").write_text("stages: {}")
    assert describe_run(PLAN, CASES, "d", "s").tags == {
        "git.commit": "abc-dirty",
        "dvc.stage": "train@cohort-unet_slim",
        "dvc.exp": "slim",
        "dvc.baseline": "b45e",
        "dvc.lock.digest": files_digest("dvc.lock"),
    }


def test_a_model_on_disk_is_told_as_its_training_was(tmp_path: Path) -> None:
    trainings = [{"fold": fold, "optimizer": PLAN["optimizer"]} for fold in (0, 1)]
    model = {"plan": PLAN, "cases": CASES, "digest": "d1", "trainings": trainings}
    (tmp_path / "model.json").write_text(json.dumps(model), encoding="utf-8")
    assert describe_model(tmp_path, "data/cohort") == describe_run(PLAN, CASES, "d1", "data/cohort")


def test_settings_that_differ_from_fold_to_fold_are_all_told(tmp_path: Path) -> None:
    trainings = [{"optimizer": PLAN["optimizer"] | {"learning_rate": rate}} for rate in (0.01, 0.5, 0.01)]
    model = {"plan": PLAN, "cases": CASES, "digest": "d1", "trainings": trainings}
    (tmp_path / "model.json").write_text(json.dumps(model), encoding="utf-8")
    params = describe_model(tmp_path, "data/cohort").params
    assert (params["optimizer"], params["learning_rate"]) == ("sgd", "0.01, 0.5")
