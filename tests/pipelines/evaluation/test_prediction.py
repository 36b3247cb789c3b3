from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from pipelines.cases.nifti import read_label
from pipelines.evaluation.case_scores import read_scores
from pipelines.evaluation.prediction import evaluate_model
from pipelines.inference.model_files import PER_FOLD, weights_name
from pipelines.inference.predictor import Prediction
from tests.tiny_plan import ENTRY, FOLDS, TinyStudy, one_after_the_other


class Predictor:
    """Instead of networks: the cube of the training cases and a slice less of it in `t0`; tells what it was asked."""

    def __init__(self, study: TinyStudy) -> None:
        self.data_dir = study.root / "data"
        self.asked: list[tuple[str, list[str]]] = []
        self.interrupts_at: str | None = None
        self.fallbacks: dict[str, tuple[str, ...]] = {}

    def __call__(
        self, prepared_path: Path, weights: Sequence[Path], device: str, keeps_probabilities: bool
    ) -> Prediction:
        assert not keeps_probabilities, "no measure asks for them"
        case_id = prepared_path.stem
        if case_id == self.interrupts_at:
            raise KeyboardInterrupt
        self.asked.append((case_id, [path.name for path in weights]))
        fallbacks = self.fallbacks.get(case_id, ())
        if case_id == "t1":
            return Prediction(np.zeros((16, 16, 16), np.uint8), fallbacks)
        label = read_label(str(self.data_dir / f"{case_id}_label.nii.gz"))[0].astype(np.uint8)
        if case_id == "t0":
            label[np.flatnonzero(label.any(axis=(1, 2)))[0]] = 0
        return Prediction(label, fallbacks)


@pytest.fixture
def predictor(tiny_study: TinyStudy, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    one_after_the_other(monkeypatch)
    fake = Predictor(tiny_study)
    monkeypatch.setattr("pipelines.inference.predictor.predict_case", fake)
    return fake


def write_model(study: TinyStudy, folder: Path, folds: Sequence[int] = (0, 1), **changes: Any) -> Path:
    plan = json.loads(study.plan_path().read_text(encoding="utf-8")) | changes
    settings = {name: plan[name] for name in PER_FOLD}
    trainings = [
        {"fold": fold, "seed": seed, "weights": weights_name(fold, seed), **settings}
        for seed in plan["seeds"]
        for fold in folds
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for training in trainings:
        (folder / training["weights"]).write_text(f"weights of {training}")
    (folder / "model.json").write_text(json.dumps({"plan": plan, "trainings": trainings}), encoding="utf-8")
    return folder


def evaluate(study: TinyStudy, model_dir: Path, folder: Path) -> Path:
    evaluate_model(study.folder("cases"), study.index_path(), model_dir, folder / "out", folder / "work")
    return folder / "out"


def predictions(out: Path) -> list[str]:
    folder = out / "predictions"
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.nii.gz"))


def test_a_validation_case_meets_its_folds_network_and_a_test_case_all(
    tiny_study: TinyStudy, tmp_path: Path, predictor: Predictor
) -> None:
    out = evaluate(tiny_study, write_model(tiny_study, tmp_path / "model"), tmp_path)
    both = ["fold0_seed0.safetensors", "fold1_seed0.safetensors"]
    assert dict(predictor.asked) == {case: [both[fold]] for case, fold in FOLDS.items()} | {"t0": both, "t1": both}
    assert predictions(out) == ["test/t0.nii.gz", "test/t1.nii.gz", *(f"validation/{case}.nii.gz" for case in FOLDS)]


def test_rows_say_where_they_come_from_and_what_they_are(
    tiny_study: TinyStudy, tmp_path: Path, predictor: Predictor
) -> None:
    out = evaluate(tiny_study, write_model(tiny_study, tmp_path / "model"), tmp_path)
    rows = {row["case_id"]: row for row in read_scores(out / "cases.parquet")}
    assert set(rows) == {*FOLDS, "t0"}, "a case without a label has a prediction and no score"
    assert {case: (rows[case]["split"], rows[case]["fold"]) for case in FOLDS} == {
        case: ("validation", fold) for case, fold in FOLDS.items()
    }
    assert (rows["t0"]["split"], rows["t0"]["fold"], rows["t0"]["seed"]) == ("test", None, 0)
    assert rows["b0"]["class_name"] == "cube"
    assert [rows[case]["dice"] for case in FOLDS] == [1.0] * 4
    # Five of the six slices of 36 voxels.
    assert rows["t0"]["dice"] == pytest.approx(2 * 180 / (180 + 216))
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert metrics == {
        "validation": {"dice": 1.0, "num_cases": 4, "dice_cube": 1.0},
        "test": {"dice": rows["t0"]["dice"], "num_cases": 1, "dice_cube": rows["t0"]["dice"]},
    }


def test_rows_say_what_a_prediction_gave_up_for_want_of_memory(
    tiny_study: TinyStudy, tmp_path: Path, predictor: Predictor
) -> None:
    predictor.fallbacks["b1"] = ("half the batch", "logits on the CPU")
    out = evaluate(tiny_study, write_model(tiny_study, tmp_path / "model"), tmp_path)
    said = {row["case_id"]: row["fallback"] for row in read_scores(out / "cases.parquet")}
    assert said == {"b0": None, "b1": "half the batch; logits on the CPU", "b2": None, "b3": None, "t0": None}


def test_predictions_lie_on_the_grid_of_their_scan(tiny_study: TinyStudy, tmp_path: Path, predictor: Predictor) -> None:
    out = evaluate(tiny_study, write_model(tiny_study, tmp_path / "model"), tmp_path)
    written, scan, truth = (
        nib.load(path)
        for path in (
            out / "predictions" / "validation" / "b2.nii.gz",
            tiny_study.root / "data" / "b2.nii.gz",
            tiny_study.root / "data" / "b2_label.nii.gz",
        )
    )
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(written.affine, scan.affine)
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(truth.dataobj))


def test_with_two_seeds_every_prediction_has_its_own_file(
    tiny_study: TinyStudy, tmp_path: Path, predictor: Predictor
) -> None:
    out = evaluate(tiny_study, write_model(tiny_study, tmp_path / "model", seeds=[0, 7]), tmp_path)
    names = [f"test/{case}_seed{seed}.nii.gz" for case in ("t0", "t1") for seed in (0, 7)]
    assert predictions(out) == [*names, *(f"validation/{case}_seed{seed}.nii.gz" for case in FOLDS for seed in (0, 7))]
    assert ("t0", ["fold0_seed7.safetensors", "fold1_seed7.safetensors"]) in predictor.asked
    assert ("b3", ["fold1_seed7.safetensors"]) in predictor.asked
    rows = read_scores(out / "cases.parquet")
    assert sorted((row["case_id"], row["seed"]) for row in rows) == sorted(
        (case, seed) for case in (*FOLDS, "t0") for seed in (0, 7)
    )


def test_cases_of_a_fold_that_was_not_trained_are_left_out(
    tiny_study: TinyStudy, tmp_path: Path, predictor: Predictor
) -> None:
    out = evaluate(tiny_study, write_model(tiny_study, tmp_path / "model", folds=[1]), tmp_path)
    assert predictions(out) == ["test/t0.nii.gz", "test/t1.nii.gz", "validation/b2.nii.gz", "validation/b3.nii.gz"]
    assert ("t0", ["fold1_seed0.safetensors"]) in predictor.asked


def test_an_interrupted_evaluation_goes_on_where_it_was(
    tiny_study: TinyStudy, tmp_path: Path, predictor: Predictor
) -> None:
    model = write_model(tiny_study, tmp_path / "model")
    predictor.interrupts_at = "b2"
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny_study, model, tmp_path)
    assert [case for case, _ in predictor.asked] == ["b0", "b1"]
    assert not (tmp_path / "out").exists()
    predictor.interrupts_at = None
    out = evaluate(tiny_study, model, tmp_path)
    assert [case for case, _ in predictor.asked] == ["b0", "b1", "b2", "b3", "t0", "t1"]
    assert len(read_scores(out / "cases.parquet")) == 5
    shutil.rmtree(out)
    evaluate(tiny_study, model, tmp_path)
    assert len(predictor.asked) == 6
    assert len(predictions(out)) == 6


@pytest.mark.parametrize(
    "changes",
    [
        {"inference": {"overlap": 0.75, "is_mirrored": False}},
        {"tolerance_mm": 1.0},
        {"labels": {"background": 0, "box": 1}},
        {"sources": {"repro_models/segmentation/nnunet.py": "changed"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_changed_plan_predicts_anew_although_the_weights_are_the_same(
    tiny_study: TinyStudy, tmp_path: Path, predictor: Predictor, changes: dict[str, Any]
) -> None:
    model = write_model(tiny_study, tmp_path / "model")
    evaluate(tiny_study, model, tmp_path)
    predictor.asked.clear()
    evaluate(tiny_study, write_model(tiny_study, tmp_path / "model", **changes), tmp_path)
    assert len(predictor.asked) == 6


def test_other_weights_predict_anew(tiny_study: TinyStudy, tmp_path: Path, predictor: Predictor) -> None:
    model = write_model(tiny_study, tmp_path / "model")
    evaluate(tiny_study, model, tmp_path)
    predictor.asked.clear()
    (model / "fold1_seed0.safetensors").write_text("trained longer")
    evaluate(tiny_study, model, tmp_path)
    assert len(predictor.asked) == 6


def test_a_changed_scan_predicts_anew(tiny_study: TinyStudy, tmp_path: Path, predictor: Predictor) -> None:
    from pipelines.cases.case import read_cases, write_cases

    model = write_model(tiny_study, tmp_path / "model")
    evaluate(tiny_study, model, tmp_path)
    predictor.asked.clear()
    cases = read_cases(tiny_study.folder("cases") / "cases.parquet")
    changed = [case if case.case_id != "b0" else type(case)(**(vars(case) | {"digest": "0"})) for case in cases]
    write_cases(tmp_path / "cases" / "cases.parquet", changed)
    shutil.copyfile(tiny_study.folder("cases") / "dataset.json", tmp_path / "cases" / "dataset.json")
    evaluate_model(tmp_path / "cases", tiny_study.index_path(), model, tmp_path / "out", tmp_path / "work")
    assert len(predictor.asked) == 6


def test_the_work_folder_is_named_by_data_set_and_entry(
    tiny_study: TinyStudy, tmp_path: Path, predictor: Predictor
) -> None:
    evaluate(tiny_study, write_model(tiny_study, tmp_path / "model"), tmp_path)
    (folder,) = (tmp_path / "work").iterdir()
    assert folder.name.startswith(f"blobs-{ENTRY}-")
    assert len(folder.name) == len(f"blobs-{ENTRY}-") + 12
