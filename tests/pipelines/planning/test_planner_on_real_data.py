from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.cases.case import Case, DatasetInfo
from pipelines.fingerprint.extract import take_fingerprint
from pipelines.planning.planner import plan_entry
from pipelines.tasks.segmentation_loss import segmentation_loss_terms

FOLDER = Path(__file__).parents[3] / "../shared/data/Task04_Hippocampus"


@pytest.mark.shared_data
@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason="../shared/data/Task04_Hippocampus is not there")
def test_hippocampus_is_planned_as_by_nnunet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("pipelines.ray_session.map_cases.num_local_cpus", lambda: 1)
    cases = [
        Case(
            case_id=label.name.removesuffix(".nii.gz"),
            image_paths=(str(FOLDER / "imagesTr" / label.name),),
            label_path=str(label),
            patient=label.name,
            split="train",
            fold=0,
            digest="",
            shape=(0, 0, 0),
            spacing_mm=(0, 0, 0),
            affine=(),
        )
        for label in sorted((FOLDER / "labelsTr").glob("hippocampus_*.nii.gz"))
    ]
    assert len(cases) == 201
    info = DatasetInfo("hippocampus", ("MRI",), {"background": 0, "anterior": 1, "posterior": 2})
    fingerprint = take_fingerprint(cases, info)
    assert set(fingerprint.spacings_mm) == {(1.0, 1.0, 1.0)}
    plan = plan_entry(
        dataset="hippocampus",
        entry="nnunet",
        architecture="segmentation/nnunet",
        variant=None,
        configuration="3d_fullres",
        overrides={},
        fingerprint=fingerprint,
        info=info,
        num_training_cases=len(cases),
        memory_gib=8.0,
        sources={},
        training={
            "loss": "dice_cross_entropy",
            "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.99, "weight_decay": 3e-5},
            "schedule": {"name": "polynomial", "exponent": 0.9, "warmup_fraction": 0.0},
            "clip_norm": 12.0,
            "foreground_fraction": 0.33,
            "elastic_probability": 0.0,
            "mirror_axes": "auto",
            "max_batch_size": None,
            "rescue": True,
        },
        loss_terms=segmentation_loss_terms,
        inference={"overlap": 0.5, "is_mirrored": False},
        budget={},
        num_folds=5,
        folds=[0],
        seeds=[0],
        tolerance_mm=2.0,
    )
    assert plan.preprocessing.spacing_mm == (1.0, 1.0, 1.0)
    assert plan.preprocessing.transpose_forward == (0, 1, 2)
    assert plan.patch_size == (40, 56, 40)
    assert plan.batch_size == 7  # 5 % of 201 median cases, where the 260 official ones give 9
    assert plan.mirror_axes == (0, 1, 2)
