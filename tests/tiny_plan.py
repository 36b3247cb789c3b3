"""A study of six 16^3 volumes, prepared in a second or two: what tests of training, evaluation and comparison stand on.

Cases b0 to b3 train (folds 0, 0, 1, 1), t0 is a test case with a label, t1 one without.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

from pipelines.cases.collect import collect_cases
from pipelines.params import Study, read_params
from pipelines.planning.plan import Plan, read_plan, write_plan
from pipelines.tasks import segmentation
from pipelines.training.folds import TrainingRequest, training_requests
from pipelines.tuning.results import pass_on

DATASET = "blobs"
ENTRY = "nnunet_tiny"
FOLDS = {"b0": 0, "b1": 0, "b2": 1, "b3": 1}
PARAMS: dict[str, Any] = {
    "family": "segmentation",
    "datasets": {DATASET: {"source": "data/manifest.csv"}},
    "architectures": [ENTRY, "unet_3d_tiny"],
    "entries": {
        ENTRY: {"architecture": "nnunet", "variant": "tiny"},
        "unet_3d_tiny": {"architecture": "unet_3d", "variant": "tiny"},
    },
    "split": {"num_folds": 2},
    "preprocessing": {},
    "budget": {"steps": 4, "steps_per_epoch": 2, "validation_steps": 2, "memory_gib": 0.05},
    "training": {"max_batch_size": 2},
    "inference": {},
    "evaluation": {"num_bootstrap": 50},
    "tuning": {},
    "tracking": {"uri": "none"},
}


@dataclass(frozen=True)
class TinyStudy:
    """Folders of the study, laid out as in dvc.yaml."""

    root: Path

    @property
    def params(self) -> Study:
        return read_params(self.root / "params.yaml")

    def folder(self, kind: str) -> Path:
        """`cases`, `plans`, `prepared`, ... of the data set."""
        return self.root / kind / DATASET

    def plan_path(self, entry: str = ENTRY) -> Path:
        return self.folder("plans") / f"{entry}.json"

    def index_path(self, entry: str = ENTRY) -> Path:
        return self.folder("prepared") / "index" / f"{entry}.json"

    def plan(self, entry: str = ENTRY) -> Plan:
        return read_plan(self.plan_path(entry))

    def prepared_cases(self, entry: str = ENTRY) -> list[dict[str, Any]]:
        """Entries of the prepared index, with absolute files."""
        index = json.loads(self.index_path(entry).read_text(encoding="utf-8"))
        folder = self.folder("prepared") / index["folder"]
        return [case | {"file": str(folder / case["file"])} for case in index["cases"]]

    def requests(self, work_dir: Path, entry: str = ENTRY, **plan_changes: Any) -> list[TrainingRequest]:
        """The trainings of an entry; `plan_changes` replace values of its plan."""
        plan_path = work_dir / f"{entry}.json"
        plan_path.parent.mkdir(parents=True, exist_ok=True)
        values = json.loads(self.plan_path(entry).read_text(encoding="utf-8")) | plan_changes
        plan_path.write_text(json.dumps(values), encoding="utf-8")
        pass_on(values["optimizer"], values["schedule"], work_dir / "tuned" / entry)
        best_path = work_dir / "tuned" / entry / "best.yaml"
        return training_requests("segmentation", plan_path, self.index_path(entry), best_path, work_dir / "train")


def one_after_the_other(patch: pytest.MonkeyPatch) -> None:
    """Let `map_cases` work in this process: starting others takes seconds."""
    patch.delenv("RAY_ADDRESS", raising=False)
    patch.setattr("pipelines.ray_session.map_cases.num_local_cpus", lambda: 1)


def make_tiny_study(root: Path) -> TinyStudy:
    """Write the volumes and params.yaml, and run the stages up to `preprocess`."""
    study = TinyStudy(root)
    source = root / "data" / "manifest.csv"
    _write_volumes(source)
    params = PARAMS | {"datasets": {DATASET: {"source": str(source)}}}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    cases_dir, fingerprint_dir = study.folder("cases"), study.folder("fingerprints")
    collect_cases(str(source), DATASET, cases_dir, num_folds=2)
    segmentation.fingerprint(cases_dir, fingerprint_dir)
    plans = [
        segmentation.plan(study.params, DATASET, entry, cases_dir, fingerprint_dir, {})
        for entry in study.params.architectures
    ]
    for plan in plans:
        write_plan(study.plan_path(plan.entry), plan)
    plan_paths = [study.plan_path(plan.entry) for plan in plans]
    segmentation.prepare(cases_dir, plan_paths, study.folder("prepared"), root / "work" / "preprocess")
    return study


def _write_volumes(manifest: Path) -> None:
    manifest.parent.mkdir(parents=True)
    lines = ["case_id,image,label,split,fold"]
    for number, case_id in enumerate([*FOLDS, "t0", "t1"]):
        rng = np.random.default_rng(number)
        image, label = rng.normal(100, 5, (16, 16, 16)), np.zeros((16, 16, 16), np.uint8)
        inside = tuple(slice(start, start + 6) for start in rng.integers(2, 8, 3))
        image[inside] += 50
        label[inside] = 1
        nib.save(nib.Nifti1Image(image.astype(np.int16), np.eye(4)), manifest.parent / f"{case_id}.nii.gz")
        name = ""
        if case_id != "t1":
            name = f"{case_id}_label.nii.gz"
            nib.save(nib.Nifti1Image(label, np.eye(4)), manifest.parent / name)
        split = "train" if case_id in FOLDS else "test"
        lines.append(f"{case_id},{case_id}.nii.gz,{name},{split},{FOLDS.get(case_id, '')}")
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = {"labels": {"background": 0, "cube": 1}, "channels": ["MRI"]}
    manifest.with_suffix(".json").write_text(json.dumps(names), encoding="utf-8")
