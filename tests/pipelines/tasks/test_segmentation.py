from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.evaluation import case_scores
from pipelines.params import Entry, Study
from pipelines.planning.plan import Plan
from pipelines.planning.planner import plan_entry
from pipelines.planning.sizing import MemoryBudgetError
from pipelines.tasks import segmentation
from repro_models.registry import UnknownArchitectureError
from tests.tiny_plan import DATASET, ENTRY, TinyStudy, one_after_the_other

ROOT = Path(__file__).parents[3]


def planned(study: TinyStudy, params: Study, entry: str = ENTRY) -> Plan:
    return segmentation.plan(
        params, DATASET, entry, study.folder("cases"), study.folder("fingerprints"), {"a.py": "00"}
    )


def with_entry(study: TinyStudy, **changes: Any) -> Study:
    params = study.params
    entry = dataclasses.replace(params.entries[ENTRY], **changes)
    return dataclasses.replace(params, entries=params.entries | {ENTRY: entry})


def test_the_plan_carries_what_params_say(tiny_study: TinyStudy) -> None:
    plan = planned(tiny_study, tiny_study.params)
    assert (plan.dataset, plan.entry, plan.architecture, plan.variant) == (
        DATASET,
        ENTRY,
        "segmentation/nnunet",
        "tiny",
    )
    assert plan.budget == {
        "kind": "steps",
        "steps": 4,
        "minutes": 60.0,
        "steps_per_epoch": 2,
        "validation_steps": 2,
        "early_stop_epochs": 0,
    }
    assert (plan.num_folds, plan.folds, plan.seeds) == (2, [0, 1], [0])
    assert (plan.batch_size, plan.memory["memory_gib"]) == (2, 0.05)
    assert plan.inference == {"overlap": 0.5, "is_mirrored": False}
    assert (plan.tolerance_mm, plan.sources) == (2.0, {"a.py": "00"})
    assert plan.labels == {"background": 0, "cube": 1}


def test_ray_and_tracking_do_not_change_a_plan(tiny_study: TinyStudy) -> None:
    params = tiny_study.params
    elsewhere = dataclasses.replace(
        params,
        ray=dataclasses.replace(params.ray, workers=2),
        tracking=dataclasses.replace(params.tracking, uri="http://other"),
    )
    assert planned(tiny_study, elsewhere) == planned(tiny_study, params)


def test_the_fingerprint_and_the_number_of_cases_leave_the_test_split_out(
    tiny_study: TinyStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprint = json.loads((tiny_study.folder("fingerprints") / "fingerprint.json").read_text(encoding="utf-8"))
    assert fingerprint["case_ids"] == ["b0", "b1", "b2", "b3"]
    asked = []

    def watched(**values: Any) -> Plan:
        asked.append(values)
        return plan_entry(**values)

    monkeypatch.setattr("pipelines.planning.planner.plan_entry", watched)
    planned(tiny_study, tiny_study.params)
    assert asked[0]["num_training_cases"] == 4


def test_a_budget_that_no_patch_meets_is_told_with_what_would_do(tiny_study: TinyStudy) -> None:
    params = tiny_study.params
    params = dataclasses.replace(params, budget=dataclasses.replace(params.budget, memory_gib=1e-5))
    with pytest.raises(MemoryBudgetError) as error:
        planned(tiny_study, params)
    text = str(error.value)
    assert text.startswith(
        f"data set {DATASET}, entry {ENTRY}: budget.memory_gib is 1e-05, but for segmentation/nnunet"
    )
    needed = float(text.split("raise budget.memory_gib to ")[1].split(",")[0])
    enough = dataclasses.replace(params, budget=dataclasses.replace(params.budget, memory_gib=needed))
    assert planned(tiny_study, enough).batch_size >= 1


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"architecture": "nnunett"}, UnknownArchitectureError, "did you mean segmentation/nnunet"),
        ({"variant": "tinny"}, ValueError, "unknown variant of segmentation/nnunet 'tinny'; valid are tiny"),
        ({"configuration": "3d"}, ValueError, "unknown configuration '3d'; valid are 2d, 3d_fullres"),
        ({"overrides": {"batchsize": 2}}, ValueError, "unknown override 'batchsize'; valid are batch_size"),
        ({"overrides": {"network": {"features": 2}}}, ValueError, "unknown override network 'features'"),
        ({"overrides": {"optimizer": {"lr": 2}}}, ValueError, "unknown override optimizer 'lr'"),
        ({"overrides": {"batch_size": 0}}, ValueError, "override batch_size is 0; it must be a whole number above 0"),
        ({"overrides": {"patch_size": [15, 16, 16]}}, ValueError, "15"),
    ],
    ids=lambda value: str(next(iter(value.values()))) if isinstance(value, dict) else None,
)
def test_a_wrong_entry_is_told(
    tiny_study: TinyStudy, changes: dict[str, Any], kind: type[ValueError], text: str
) -> None:
    with pytest.raises(kind) as error:
        planned(tiny_study, with_entry(tiny_study, **changes))
    assert text in str(error.value)


def test_a_network_of_one_stage_is_refused_where_it_would_be_trained(tiny_study: TinyStudy, tmp_path: Path) -> None:
    folder = tmp_path / "fingerprints"
    shutil.copytree(tiny_study.folder("fingerprints"), folder)
    values = json.loads((folder / "fingerprint.json").read_text(encoding="utf-8"))
    values["shapes_after_crop"] = [[6, 7, 5] for _ in values["shapes_after_crop"]]
    (folder / "fingerprint.json").write_text(json.dumps(values), encoding="utf-8")

    def patch_size(planner: str) -> tuple[int, ...]:
        params = with_entry(tiny_study, overrides={"planner": planner})
        return segmentation.plan(params, DATASET, ENTRY, tiny_study.folder("cases"), folder, {}).patch_size

    assert patch_size("house") == (8, 8, 8)
    with pytest.raises(ValueError, match=r"plans a patch of \[6, 7, 5\] and a network of one stage"):
        patch_size("nnunet")


def test_an_entry_that_params_do_not_name_is_the_architecture(tiny_study: TinyStudy) -> None:
    params = dataclasses.replace(tiny_study.params, entries={})
    params = dataclasses.replace(params, budget=dataclasses.replace(params.budget, memory_gib=1.0))
    assert params.entry("nnunet") == Entry("segmentation/nnunet", None, None, {})
    assert planned(tiny_study, params, "nnunet").variant is None


def test_the_prepared_index_names_split_and_fold_of_every_case(tiny_study: TinyStudy) -> None:
    cases = tiny_study.prepared_cases()
    assert [(case["case_id"], case["split"], case["fold"], case["has_label"]) for case in cases] == [
        ("b0", "train", 0, True),
        ("b1", "train", 0, True),
        ("b2", "train", 1, True),
        ("b3", "train", 1, True),
        ("t0", "test", None, True),
        ("t1", "test", None, False),
    ]


def test_importing_the_task_loads_nothing_heavy() -> None:
    heavy = ("torch", "scipy", "pandas", "numpy", "ray", "mlflow")
    script = f"import sys, pipelines.tasks.segmentation; sys.exit([n for n in {heavy!r} if n in sys.modules] or 0)"
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_one_fold_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"split.num_folds is 1, but .* set split.num_folds to 2 or more"):
        segmentation.collect("nowhere", DATASET, tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def case_of(patient: str, fold: int | None, number: int = 0) -> dict[str, object]:
    return {
        "case_id": f"{patient}_{number}",
        "patient": patient,
        "split": "train" if fold is not None else "test",
        "fold": fold,
    }


def test_the_inner_split_of_a_fold_has_no_case_of_this_fold_or_the_test_and_parts_no_patient() -> None:
    cases = [case_of(f"p{patient}", patient % 3, scan) for patient in range(24) for scan in (0, 1)]
    cases += [case_of("t", None)]
    for fold in range(3):
        inner, validating = segmentation.inner_split(cases, fold)
        assert {case["case_id"] for case in inner} == {
            case["case_id"] for case in cases if case["fold"] not in (fold, None)
        }
        validation = {case["patient"] for case in inner if case["fold"] == validating}
        training = {case["patient"] for case in inner if case["fold"] != validating}
        assert not validation & training
        assert len(validation) == 4, "a fourth of 16 patients"


def test_the_inner_split_does_not_depend_on_the_order_of_the_cases() -> None:
    cases = [case_of(f"p{patient}", patient % 2) for patient in range(12)]
    first, _ = segmentation.inner_split(cases, 0)
    second, _ = segmentation.inner_split(cases[::-1], 0)
    assert {case["patient"]: case["fold"] for case in first} == {case["patient"]: case["fold"] for case in second}


def test_a_fold_that_leaves_one_patient_to_search_on_is_told() -> None:
    with pytest.raises(ValueError, match=r"fold 0: 1 patient to search on.*set tuning\.trials to 0"):
        segmentation.inner_split([case_of("a", 0), case_of("b", 1), case_of("b", 1, 1)], 0)


def test_the_measures_are_the_columns_of_the_scores() -> None:
    assert tuple(measure.key for measure in segmentation.MEASURES) == case_scores.MEASURES


def test_a_measure_that_is_not_known_is_told_with_the_known_ones(
    tiny_study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_after_the_other(monkeypatch)
    shutil.copytree(tiny_study.root / "data", tmp_path / "data")
    table = tmp_path / "data" / "manifest.csv"
    names = {"labels": {"background": 0, "cube": 1}, "channels": ["MRI"], "measures": ["auc", "object_pa"]}
    table.with_suffix(".json").write_text(json.dumps(names), encoding="utf-8")
    with pytest.raises(ValueError, match=r"declares the measure 'object_pa'; known are object_ap, .*auc"):
        segmentation.collect(str(table), DATASET, tmp_path / "cases", 2)


def test_a_data_set_is_introduced_by_its_cases_channels_and_classes(tiny_study: TinyStudy) -> None:
    facts = segmentation.dataset_facts(tiny_study.folder("cases"))
    assert (facts.name, facts.labels) == (DATASET, {"background": 0, "cube": 1})
    assert facts.facts == ["4 training cases of 4 patients, 2 test cases", "channels: MRI", "classes: cube"]


def test_the_fingerprint_is_told_in_sentences(tiny_study: TinyStudy) -> None:
    told = segmentation.fingerprint_words(tiny_study.folder("fingerprints"))
    assert told[:2] == ["4 training cases were measured.", "All have a spacing of 1 × 1 × 1 mm (z, y, x)."]
    assert all(sentence.endswith(".") for sentence in told)


def test_the_yardstick_scores_the_cases_of_the_folds_of_the_study_and_the_labelled_test_cases(
    tiny_study: TinyStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_after_the_other(monkeypatch)
    params = tiny_study.params
    params = dataclasses.replace(params, budget=dataclasses.replace(params.budget, folds=[1]))
    rows = segmentation.reference_rows(params, tiny_study.folder("cases"))
    assert [(row["case_id"], row["split"]) for row in rows] == [
        ("b2", "validation"),
        ("b3", "validation"),
        ("t0", "test"),
    ]


def test_the_gallery_reads_the_predictions_of_the_leader(tiny_study: TinyStudy, tmp_path: Path) -> None:
    predictions = tmp_path / "predictions" / "validation"
    predictions.mkdir(parents=True)
    for case in ("b0", "b1"):
        shutil.copyfile(tiny_study.root / "data" / f"{case}_label.nii.gz", predictions / f"{case}.nii.gz")
    rows = [
        {"case_id": case, "class_name": "cube", "split": "validation", "seed": 0, "dice": dice}
        for case, dice in (("b0", 0.5), ("b1", 0.75))
    ]
    overlays = segmentation.gallery(rows, tiny_study.folder("cases"), tmp_path)
    assert [(case.caption, case.case_id, case.score) for case in overlays] == [
        ("best", "b1", 0.75),
        ("worst", "b0", 0.5),
    ]
    assert (overlays[0].prediction == overlays[0].reference).all()
