"""Cases that are large beside a patch, at nnU-Net's low resolution: from files to scored predictions."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from pipelines.cases.collect import collect_cases
from pipelines.evaluation.case_scores import read_scores
from pipelines.planning.plan import write_plan
from pipelines.tasks import segmentation
from pipelines.training.folds import collect_models, training_requests
from pipelines.training.single import run_training
from pipelines.tuning.results import pass_on
from tests.tiny_plan import DATASET, PARAMS, TinyStudy, one_after_the_other

ENTRY = "nnunet_lowres"
SHAPE = (48, 56, 52)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> TinyStudy:
    """Four cases of which half is bright, planned, prepared, trained and evaluated."""
    study = TinyStudy(tmp_path_factory.mktemp("low_resolution"))
    manifest = study.root / "data" / "manifest.csv"
    manifest.parent.mkdir()
    lines = ["case_id,image,label,split,fold"]
    for number in range(4):
        label = np.zeros(SHAPE, np.uint8)
        label[: 20 + 2 * number] = 1
        image = np.random.default_rng(number).normal(100, 5, SHAPE) + 100 * label
        for name, array in ((f"c{number}", image.astype(np.int16)), (f"c{number}_label", label)):
            nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), np.eye(4)), manifest.parent / f"{name}.nii.gz")
        lines.append(f"c{number},c{number}.nii.gz,c{number}_label.nii.gz,train,{number % 2}")
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = {"labels": {"background": 0, "half": 1}, "channels": ["MRI"]}
    manifest.with_suffix(".json").write_text(json.dumps(names), encoding="utf-8")
    params = PARAMS | {
        "datasets": {DATASET: {"source": str(manifest)}},
        "architectures": [ENTRY],
        "entries": {ENTRY: {"architecture": "nnunet", "variant": "tiny", "configuration": "3d_lowres"}},
        "budget": {"steps": 30, "steps_per_epoch": 15, "validation_steps": 1, "memory_gib": 0.008, "folds": [0]},
        "training": {"optimizer": {"name": "adamw", "learning_rate": 0.01}, "max_batch_size": 2},
    }
    (study.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    cases_dir, fingerprint_dir = study.folder("cases"), study.folder("fingerprints")
    with pytest.MonkeyPatch.context() as patch:
        one_after_the_other(patch)
        collect_cases(str(manifest), DATASET, cases_dir, num_folds=2)
        segmentation.fingerprint(cases_dir, fingerprint_dir)
        plan = segmentation.plan(study.params, DATASET, ENTRY, cases_dir, fingerprint_dir, {})
        write_plan(study.plan_path(ENTRY), plan)
        segmentation.prepare(cases_dir, [study.plan_path(ENTRY)], study.folder("prepared"), study.root / "work")
        tuned = study.root / "tuned"
        pass_on(plan.optimizer, plan.schedule, tuned)
        index = study.index_path(ENTRY)
        requests = training_requests(
            "segmentation", study.plan_path(ENTRY), index, tuned / "best.yaml", study.root / "t"
        )
        for request in requests:
            run_training(request, num_threads=1, shows_progress=False)
        collect_models(requests, study.folder("models") / ENTRY)
        segmentation.evaluate(
            cases_dir, index, study.folder("models") / ENTRY, study.folder("results"), study.root / "e"
        )
    return study


def test_the_spacing_is_coarser_and_a_patch_sees_a_quarter_of_the_case(study: TinyStudy) -> None:
    plan = study.plan(ENTRY)
    assert plan.configuration == "3d_lowres"
    assert min(plan.preprocessing.spacing_mm) > 1.2
    shapes = [nib.load(study.root / "data" / "c0.nii.gz").shape[::-1]]
    voxels = np.prod([side / mm for side, mm in zip(shapes[0], plan.preprocessing.spacing_mm, strict=True)])
    assert np.prod(plan.patch_size) > 0.25 * voxels


def test_prepared_cases_have_that_spacing(study: TinyStudy) -> None:
    from pipelines.preprocessing.shards import open_case

    spacing = study.plan(ENTRY).preprocessing.spacing_mm
    image = open_case(Path(study.prepared_cases(ENTRY)[0]["file"])).image
    assert image.shape[1:] == tuple(round(side / mm) for side, mm in zip(SHAPE, spacing, strict=True))


def test_predictions_are_on_the_grid_of_the_scan_and_right(study: TinyStudy) -> None:
    rows = read_scores(study.folder("results") / "cases.parquet")
    assert sorted(row["case_id"] for row in rows) == ["c0", "c2"]
    for row in rows:
        path = study.folder("results") / "predictions" / "validation" / f"{row['case_id']}.nii.gz"
        assert nib.load(path).shape == SHAPE[::-1]
        # A mask of another place, scale or order of axes shares less with a half.
        assert row["dice"] > 0.9
