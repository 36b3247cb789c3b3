"""A study of pictures with numbered objects, from the files to the report, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from pipelines.evaluation.case_scores import read_scores
from pipelines.params import read_params
from pipelines.planning.plan import read_plan, write_plan
from pipelines.reporting.compare import DatasetFolders, compare_entries
from pipelines.tasks import segmentation
from pipelines.training import folds
from pipelines.training.folds import collect_models, train_all, training_requests
from pipelines.tuning.results import pass_on
from tests.tiny_plan import one_after_the_other

pytestmark = pytest.mark.slow

ENTRY = "nnunet_tiny"
SIDE = 40
NUM_TRAINING = 5
DECLARED = ["object_ap", "object_ap50", "aggregated_jaccard", "pixel_error", "rand_error", "auc"]
PARAMS: dict[str, Any] = {
    "family": "segmentation",
    "datasets": {"discs": {"source": "data/discs"}},
    "architectures": [ENTRY],
    "entries": {ENTRY: {"architecture": "nnunet", "variant": "tiny"}},
    "split": {"num_folds": 2},
    "preprocessing": {},
    "budget": {"steps": 6, "steps_per_epoch": 3, "validation_steps": 1, "memory_gib": 0.05},
    "training": {"max_batch_size": 4},
    "inference": {},
    "evaluation": {"num_bootstrap": 50},
    "tuning": {},
    "tracking": {"uri": "none"},
}


def write_discs(folder: Path) -> None:
    """Five cases to train and one to test: a colour picture of two or three bright discs that touch, a mask a disc."""
    for number in range(NUM_TRAINING + 1):
        rng = np.random.default_rng(number)
        part = folder if number < NUM_TRAINING else folder / "test"
        rows, columns = np.mgrid[:SIDE, :SIDE]
        picture = rng.normal(60, 5, (SIDE, SIDE, 3))
        (part / "images").mkdir(parents=True, exist_ok=True)
        (part / "objects" / f"disc_{number}").mkdir(parents=True)
        taken = np.zeros((SIDE, SIDE), bool)
        for disc in range(2 + number % 2):
            is_inside = (rows - 10 - number) ** 2 + (columns - 8 - 9 * disc) ** 2 < 25
            is_inside &= ~taken
            taken |= is_inside
            picture[is_inside] += (90, 40, 10)
            mask = Image.fromarray(np.where(is_inside, 255, 0).astype(np.uint8))
            mask.save(part / "objects" / f"disc_{number}" / f"{disc}.png")
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(part / "images" / f"disc_{number}.png")
    described = {"labels": {"background": 0, "disc": 1}, "channels": ["red", "green", "blue"], "measures": DECLARED}
    (folder / "dataset.json").write_text(json.dumps(described), encoding="utf-8")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the study after its last stage, laid out as in dvc.yaml."""
    root = tmp_path_factory.mktemp("pictures")
    write_discs(root / "data" / "discs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        one_after_the_other(patch)
        patch.setattr(folds, "num_local_cpus", lambda: 1)
        patch.setattr(folds, "num_local_gpus", lambda: 0)
        Path("params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False), encoding="utf-8")
        params = read_params()
        cases, fingerprints, plans = (Path(kind, "discs") for kind in ("cases", "fingerprints", "plans"))
        prepared, tuned, models = (Path(kind, "discs") for kind in ("prepared", "tuned", "models"))
        segmentation.collect("data/discs", "discs", cases, 2)
        segmentation.fingerprint(cases, fingerprints)
        plan = segmentation.plan(params, "discs", ENTRY, cases, fingerprints, {})
        write_plan(plans / f"{ENTRY}.json", plan)
        segmentation.prepare(cases, [plans / f"{ENTRY}.json"], prepared, Path("work/preprocess"))
        index = prepared / "index" / f"{ENTRY}.json"
        pass_on(plan.optimizer, plan.schedule, tuned / ENTRY)
        requests = training_requests(
            "segmentation", plans / f"{ENTRY}.json", index, tuned / ENTRY / "best.yaml", Path("work/train")
        )
        train_all(requests, workers=1)
        collect_models(requests, models / ENTRY)
        results = Path("results", "discs")
        segmentation.evaluate(cases, index, models / ENTRY, results / ENTRY, Path("work/evaluate"))
        folders = DatasetFolders(cases, fingerprints, plans, tuned, models, results)
        compare_entries(params, folders, Path("reports", "discs"))
    return root


def test_pictures_are_planned_in_2d_with_three_channels_at_a_spacing_of_a_pixel(study: Path) -> None:
    plan = read_plan(study / "plans" / "discs" / f"{ENTRY}.json")
    assert plan.configuration == "2d"
    assert plan.problem == {"spatial_dims": 2, "in_channels": 3, "num_classes": 2}
    assert plan.preprocessing.spacing_mm == (None, 1.0, 1.0)
    assert len(plan.patch_size) == 2


def test_predictions_are_pictures_of_the_size_of_their_image(study: Path) -> None:
    predictions = study / "results" / "discs" / ENTRY / "predictions"
    names = sorted(path.relative_to(predictions).as_posix() for path in predictions.rglob("*.*"))
    assert names == sorted(
        f"{split}/disc_{number}{what}.png"
        for number in range(6)
        for split in ("validation" if number < NUM_TRAINING else "test",)
        for what in ("", "_probability1")
    )
    label = np.asarray(Image.open(predictions / "validation" / "disc_0.png"))
    probability = np.asarray(Image.open(predictions / "validation" / "disc_0_probability1.png"))
    assert label.shape == probability.shape == (SIDE, SIDE)
    assert (label.dtype, probability.dtype) == (np.uint8, np.uint16)
    is_clear = np.abs(probability.astype(int) - 32768) > 1
    np.testing.assert_array_equal((label == 1)[is_clear], (probability > 32768)[is_clear])


def test_every_declared_measure_is_scored_and_ranked(study: Path) -> None:
    rows = read_scores(study / "results" / "discs" / ENTRY / "cases.parquet")
    assert len(rows) == 6
    for row in rows:
        assert all(0 <= row[key] <= 1 for key in DECLARED), row
    metrics = json.loads((study / "results" / "discs" / ENTRY / "metrics.json").read_text(encoding="utf-8"))
    assert {*DECLARED, "dice", "num_cases", "dice_disc"} == metrics["validation"].keys()
    ranking = json.loads((study / "reports" / "discs" / "ranking.json").read_text(encoding="utf-8"))
    assert {row["entry"] for row in ranking} == {ENTRY, "intensity_classifier"}
    for row in ranking:
        assert set(DECLARED) <= row["classes"]["disc"].keys()
        assert set(DECLARED) <= row["test"]["classes"]["disc"].keys()


def test_the_intensity_classifier_finds_bright_discs_but_not_which_is_which(study: Path) -> None:
    ranking = json.loads((study / "reports" / "discs" / "ranking.json").read_text(encoding="utf-8"))
    (reference,) = [row["classes"]["disc"] for row in ranking if row["is_reference"]]
    assert reference["dice"] > 0.85
    assert reference["auc"] > 0.9
    assert reference["pixel_error"] < 0.05
    # The discs touch: as pieces of a mask they are one.
    assert reference["object_ap50"] < 0.5


def test_the_report_names_the_measures_and_shows_one_plane(study: Path) -> None:
    report = study / "reports" / "discs"
    page = (report / "index.html").read_text(encoding="utf-8")
    for title in ("object AP", "aggregated Jaccard", "Rand error", "AUC", "a pixel counts as 1 mm"):
        assert title in page, title
    assert "Axial, coronal, sagittal" not in page
    figures = {path.name for path in (report / "figures").iterdir()}
    assert {"case_best_axial.png", "class_object_ap.png"} <= figures
    assert "case_best_coronal.png" not in figures
    assert "object AP" in (report / "ranking.md").read_text(encoding="utf-8")
