"""Semantic segmentation: every voxel gets one class.

What stages ask of a task: `collect`, `fingerprint`, `plan`, `prepare`, `evaluate`, and, on what `training` gives,
`batch` (batches), `loss_terms` (training step) and `validate`; `compare` asks for what stands below `evaluate`. Each
function imports what it needs, because torch alone takes seconds and most stages do without.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.evaluation.measures import DatasetFacts, Measure

if TYPE_CHECKING:
    from pipelines.cases.case import DatasetInfo
    from pipelines.evaluation.gallery import OverlayCase
    from pipelines.fingerprint.extract import Fingerprint
    from pipelines.params import Study
    from pipelines.planning.plan import Plan
    from pipelines.tasks.segmentation_training import SegmentationTraining

SCORE = "pseudo_dice"
# What `repro plan` shows of an architecture.
CONFIGURATIONS = ("3d_fullres", "3d_lowres", "2d")

# What the report of this family compares.
MEASURES = (
    Measure("dice", "Dice"),
    Measure("iou", "IoU", is_headline=False),
    Measure("hd95_mm", "HD95 mm", digits=2, is_larger_better=False),
    Measure("assd_mm", "ASSD mm", digits=2, is_larger_better=False, is_headline=False),
    Measure("nsd", "NSD"),
)
# What it compares beside, where the data set declares it (`measures` in its description).
DECLARABLE = (
    Measure("object_ap", "object AP"),
    Measure("object_ap50", "object AP50"),
    Measure("aggregated_jaccard", "aggregated Jaccard"),
    Measure("pixel_error", "pixel error", digits=4, is_larger_better=False),
    Measure("rand_error", "Rand error", digits=4, is_larger_better=False),
    Measure("sensitivity", "sensitivity"),
    Measure("specificity", "specificity"),
    Measure("auc", "AUC", digits=4),
)
RANKED_SPLIT = "validation"
REFERENCE = ("intensity_classifier", "a classifier that sees one voxel's intensity and nothing else")
UNIT = "case"
# What a search tries beside the planned one.
TUNED_OPTIMIZERS = ("sgd", "adamw")
VALIDATION_CURVE = ("val_pseudo_dice", "Pseudo Dice of the validation fold")


def collect(source: str, dataset: str, out_dir: Path, num_folds: int) -> None:
    """Check the data set, list its cases and split them.

    Raises:
        ValueError: fewer than two folds, the data set is not sound, or it declares a measure that is not known.
    """
    from pipelines.cases.case import read_info
    from pipelines.cases.collect import collect_cases

    if num_folds < 2:
        raise ValueError(
            f"split.num_folds is {num_folds}, but cases of family segmentation are split by cross-validation, where "
            "each fold is validated by networks that saw the others; set split.num_folds to 2 or more"
        )
    collect_cases(source, dataset, out_dir, num_folds)
    known = [measure.key for measure in DECLARABLE]
    for key in read_info(out_dir / "dataset.json").measures:
        if key not in known:
            raise ValueError(
                f"{source}: declares the measure {key!r}; known are {', '.join(known)} (Dice and distances are always "
                "measured); correct `measures` in its description"
            )


def fingerprint(cases_dir: Path, out_dir: Path) -> None:
    """Take the fingerprint of the training cases and write it to `out_dir`."""
    from pipelines.cases.case import read_cases, read_info
    from pipelines.fingerprint.extract import take_fingerprint, write_fingerprint

    cases = [case for case in read_cases(cases_dir / "cases.parquet") if case.split == "train"]
    write_fingerprint(out_dir, take_fingerprint(cases, read_info(cases_dir / "dataset.json")))


def plan(
    study: Study, dataset: str, entry_name: str, cases_dir: Path, fingerprint_dir: Path, sources: dict[str, str]
) -> Plan:
    """Resolve the configuration of an entry.

    Raises:
        ValueError: see `plan_entry`; or the network has one stage, so nothing to train.
    """
    from pipelines.cases.case import read_cases, read_info
    from pipelines.fingerprint.extract import read_fingerprint

    cases = [case for case in read_cases(cases_dir / "cases.parquet") if case.split == "train"]
    fingerprint = read_fingerprint(fingerprint_dir / "fingerprint.json")
    info = read_info(cases_dir / "dataset.json")
    planned = plan_for(study, dataset, entry_name, fingerprint, info, len(cases), sources)
    if planned.planning["planner"] == "nnunet" and len(planned.network["strides"]) == 1:
        raise ValueError(
            f"data set {dataset}, entry {entry_name}: nnU-Net plans a patch of {list(planned.patch_size)} and a "
            "network of one stage, which has no output to train; override planner with house, which raises such a patch"
        )
    return planned


def plan_for(
    study: Study,
    dataset: str,
    entry_name: str,
    fingerprint: Fingerprint,
    info: DatasetInfo,
    num_training_cases: int,
    sources: dict[str, str],
) -> Plan:
    """Resolve the configuration of an entry for data that are known by their fingerprint alone.

    Raises:
        ValueError: see `plan_entry`.
    """
    import dataclasses
    from functools import partial

    from pipelines.ray_session.tasks import run_where_warm

    entry = study.entry(entry_name)
    assert entry.architecture
    if study.training.recipe == "paper":
        raise ValueError(
            f"training.recipe is paper, but {entry.architecture} has no recipe of its paper; set training.recipe to "
            "house and give the entry its settings under overrides"
        )
    budget = dataclasses.asdict(study.budget)
    return run_where_warm(
        partial(
            _plan_entry,
            dataset=dataset,
            entry=entry_name,
            architecture=entry.architecture,
            variant=entry.variant,
            arguments=entry.arguments,
            configuration=entry.configuration,
            overrides=entry.overrides,
            fingerprint=fingerprint,
            info=info,
            num_training_cases=num_training_cases,
            memory_gib=budget.pop("memory_gib"),
            sources=sources,
            training=dataclasses.asdict(study.training),
            inference=dataclasses.asdict(study.inference),
            num_folds=study.split.num_folds,
            folds=study.folds(),
            seeds=budget.pop("seeds"),
            budget={key: value for key, value in budget.items() if key != "folds"},
            tolerance_mm=study.evaluation.tolerance_mm,
        )
    )


def _plan_entry(**arguments: Any) -> Plan:
    from pipelines.planning.planner import plan_entry
    from pipelines.tasks.segmentation_loss import segmentation_loss_terms

    return plan_entry(loss_terms=segmentation_loss_terms, **arguments)


def prepare(
    cases_dir: Path, plan_paths: Sequence[Path], out_dir: Path, work_dir: Path, compression: str = "none"
) -> None:
    """Preprocess all cases for all plans into `out_dir`, with a compression of `preprocessing.shards`."""
    from pipelines.cases.case import read_cases
    from pipelines.planning.plan import read_plan
    from pipelines.preprocessing.prepare import prepare_dataset
    from pipelines.tracking.provenance import code_digest

    digest = code_digest(["pipelines.preprocessing.prepare"])
    plans = [read_plan(path) for path in plan_paths]
    prepare_dataset(read_cases(cases_dir / "cases.parquet"), plans, out_dir, work_dir, digest, compression)


def training(
    plan_values: dict[str, Any], cases: Sequence[dict[str, Any]], fold: int, seed: int, folder: Path
) -> SegmentationTraining:
    """One training of the entry whose plan has these JSON values; other arguments as in `SegmentationTraining`."""
    from pipelines.planning.plan import Plan
    from pipelines.tasks.segmentation_training import SegmentationTraining

    return SegmentationTraining(Plan.from_values(plan_values), cases, fold, seed, folder)


def inner_split(cases: Sequence[dict[str, Any]], fold: int) -> tuple[list[dict[str, Any]], int]:
    """The cases that a search for `fold` may see, split anew: its training part, without the fold and the test cases.

    A fourth of the patients, first by the SHA-256 of their names, validate.

    Args:
        cases: entries of the prepared index.
        fold: that validates in the end.

    Returns:
        The cases, in fold 0 those that validate a trial and in fold 1 those that train it; and 0.

    Raises:
        ValueError: fewer than two patients.
    """
    import hashlib

    seen = [case for case in cases if case["split"] == "train" and case["fold"] != fold]
    patients = sorted({case["patient"] for case in seen}, key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(patients) < 2:
        raise ValueError(
            f"fold {fold}: {len(patients)} patient to search on, but one trains a trial and one validates it; "
            "set tuning.trials to 0, or split.num_folds higher"
        )
    validating = set(patients[: max(1, len(patients) // 4)])
    return [case | {"fold": int(case["patient"] not in validating)} for case in seen], 0


def evaluate(cases_dir: Path, index_path: Path, model_dir: Path, out_dir: Path, work_dir: Path) -> None:
    """Predict and score validation cases by their fold's networks, test cases by the ensemble of all folds.

    Writes `cases.parquet`, `metrics.json` and `predictions/` to `out_dir`. Finished cases stay in `work_dir`, so an
    interrupted evaluation goes on where it was.
    """
    from pipelines.evaluation.prediction import evaluate_model

    evaluate_model(cases_dir, index_path, model_dir, out_dir, work_dir)


def reference_rows(study: Study, cases_dir: Path) -> list[dict[str, Any]]:
    """Score rows of the intensity classifier, out of fold and on the test cases."""
    from pipelines.cases.case import read_cases, read_info
    from pipelines.evaluation.intensity_classifier import intensity_classifier_rows

    info = read_info(cases_dir / "dataset.json")
    return intensity_classifier_rows(
        read_cases(cases_dir / "cases.parquet"),
        info.labels,
        study.folds(),
        study.evaluation.tolerance_mm,
        info.ignore_label,
        info.measures,
    )


def dataset_facts(cases_dir: Path) -> DatasetFacts:
    """Name, labels, and how many cases of what."""
    from pipelines.cases.case import read_cases, read_info
    from pipelines.cases.raster import is_raster

    info, cases = read_info(cases_dir / "dataset.json"), read_cases(cases_dir / "cases.parquet")
    training, test = ([case for case in cases if case.split == split] for split in ("train", "test"))
    counts = f"{len(training)} training cases of {len({case.patient for case in training})} patients"
    if test:
        counts += f", {len(test)} test cases"
    classes = [name for name, value in sorted(info.labels.items(), key=lambda item: item[1]) if value]
    num_pictures = sum(is_raster(case.image_paths[0]) for case in cases)
    facts = [
        counts,
        *(["pictures: a pixel counts as 1 mm"] * (num_pictures > 0)),
        f"channels: {', '.join(info.channels)}",
        f"classes: {', '.join(classes)}",
    ]
    return DatasetFacts(info.name, info.labels, [*facts, info.description] if info.description else facts)


def fingerprint_words(fingerprint_dir: Path) -> list[str]:
    """The fingerprint of the training cases in sentences."""
    from pipelines.fingerprint.extract import read_fingerprint
    from pipelines.fingerprint.words import sentences

    return sentences(read_fingerprint(fingerprint_dir / "fingerprint.json"))


def gallery(scores_of_leader: list[dict[str, Any]], cases_dir: Path, results_dir: Path) -> list[OverlayCase]:
    """Best, median and worst out-of-fold case of the leading entry.

    Args:
        scores_of_leader: its score rows.
        cases_dir: `cases/D`.
        results_dir: `results/D/A` of the leader.
    """
    from pipelines.cases.case import read_cases
    from pipelines.evaluation.gallery import read_overlays

    cases = read_cases(cases_dir / "cases.parquet")
    return read_overlays(scores_of_leader, cases, results_dir / "predictions", MEASURES[0].key)
