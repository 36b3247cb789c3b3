"""From a source to checked cases with folds: everything the stage `cases` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipelines.cases.case import Case, RawDataset, RawEntry, write_cases, write_info
from pipelines.cases.case_check import CaseFacts
from pipelines.cases.formats import decathlon, manifest, nnunet_raw, pictures
from pipelines.cases.integrity import conclude, examine
from pipelines.cases.python_source import make_source
from pipelines.cases.splits import assign_folds, given_folds, patient_of

_KNOWN_LAYOUTS = (
    "known are: Medical Segmentation Decathlon (dataset.json with `training`), nnU-Net raw (dataset.json with "
    "`file_ending`, imagesTr, labelsTr), pictures (folders images and labels or objects), and a manifest (CSV file "
    "with case_id, image, label); "
    "a Python file with make(folder) may write any of them"
)
_NUM_SHOWN = 10


def open_source(source: str, files_dir: Path | str) -> RawDataset:
    """Find out what a source is and list its cases.

    Args:
        source: a folder, a CSV file, or a Python file whose `make(folder: Path) -> Path` writes files and returns the
            folder or CSV file to read.
        files_dir: where a Python source writes its files; untouched for other sources.

    Raises:
        ValueError: nothing is there, or it has none of the known layouts.
    """
    path = Path(source)
    if not path.exists():
        raise ValueError(f"{source}: no such file or folder; set `source` to where the data lie ({_KNOWN_LAYOUTS})")
    if path.suffix == ".py":
        return open_source(str(make_source(path, Path(files_dir))), files_dir)
    for layout in (decathlon, nnunet_raw, manifest, pictures):
        if layout.matches(source):
            return layout.read(source)
    if path.is_dir():
        names = sorted(item.name for item in path.iterdir())
        more = f" and {len(names) - _NUM_SHOWN} more" if len(names) > _NUM_SHOWN else ""
        found = f"found in the folder: {names[:_NUM_SHOWN]}{more}"
    else:
        found = f"a file of type {path.suffix or 'unknown'}"
    raise ValueError(f"{source}: the layout is not known; {found}; {_KNOWN_LAYOUTS}")


def collect_cases(source: str, name: str, out_dir: Path | str, num_folds: int) -> None:
    """Check a data set, split it, and write cases.parquet, dataset.json and integrity.json.

    Args:
        source: see `open_source`; a Python source writes to `out_dir`/files.
        name: of the data set in the study.
        out_dir: gets the files; integrity.json is written even where there are errors.
        num_folds: of the cross-validation.

    Raises:
        IntegrityError: the data set has errors.
        ValueError: the source has no known layout, or the cases do not fill the folds.
    """
    out_dir = Path(out_dir)
    raw = open_source(source, out_dir / "files")
    info, facts, findings = examine(raw)
    conclude(source, name, len(raw.entries), findings, out_dir / "integrity.json")
    write_cases(out_dir / "cases.parquet", _cases(raw.entries, facts, num_folds))
    write_info(out_dir / "dataset.json", replace(info, name=name))


def _cases(entries: Sequence[RawEntry], facts: Sequence[CaseFacts], num_folds: int) -> list[Case]:
    training = [entry for entry in entries if entry.split == "train"]
    if any(entry.fold is not None for entry in training):
        folds = given_folds(training, num_folds)
    else:
        folds = assign_folds([patient_of(entry) for entry in training], num_folds)
    return [
        Case(
            case_id=entry.case_id,
            image_paths=entry.image_paths,
            label_path=entry.label_path,
            patient=patient_of(entry),
            split=entry.split,
            fold=folds[patient_of(entry)] if entry.split == "train" else None,
            digest=case.digest,
            shape=case.shape,
            spacing_mm=case.spacing_mm,
            affine=case.affine,
            instances_path=entry.instances_path,
        )
        for entry, case in zip(entries, facts, strict=True)
    ]
