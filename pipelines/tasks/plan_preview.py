"""What entries would be configured as, and why, before or without a study: `repro plan`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from pipelines.planning.graph_plan import GraphPlan
from pipelines.planning.nnunet_fingerprint import FILE as _NNUNET_FILE
from pipelines.planning.nnunet_fingerprint import read_nnunet_fingerprint
from pipelines.planning.plan import Plan

if TYPE_CHECKING:
    from pipelines.params import Study

_OUR_FILE = "fingerprint.json"
_FOLDER_ARCHITECTURE = "nnunet"
_FOLDER_FAMILY = "segmentation"


@dataclass(frozen=True)
class Preview:
    """An entry in its configurations.

    Attributes:
        dataset: name of the data set.
        entry: name of the entry, or of the architecture.
        plans: configuration to plan.
        refused: configuration to why there is none.
    """

    dataset: str
    entry: str
    plans: Mapping[str, Plan | GraphPlan]
    refused: Mapping[str, str]

    def values(self) -> dict[str, Any]:
        """Everything as JSON values, in transposed order of axes.

        Keys dataset, entry, architecture, transpose_forward, planner, preset (these three for images only),
        configurations (name to `Plan.summary()` and `reasons`) and refused.
        """
        first = next(iter(self.plans.values()))
        shared: dict[str, Any] = {"dataset": self.dataset, "entry": self.entry, "architecture": first.architecture}
        if isinstance(first, Plan):
            shared["transpose_forward"] = first.preprocessing.transpose_forward
            shared |= {key: first.planning[key] for key in ("planner", "preset")}
        configurations = {name: plan.summary() | {"reasons": plan.reasons} for name, plan in self.plans.items()}
        return shared | {"configurations": configurations, "refused": dict(self.refused)}

    def lines(self, with_reasons: bool) -> list[str]:
        """The same for people, with each decision and its reason or without."""
        lines = []
        for name, plan in self.plans.items():
            lines.append(f"{self.entry} {name}")
            lines += [f"  {key}: {json.dumps(value)}" for key, value in plan.summary().items()]
            if with_reasons:
                lines += ["", *(f"  {reason}" for reason in plan.reasons)]
            lines.append("")
        return lines + [f"{self.entry} {name}: {why}" for name, why in self.refused.items()]


def previews(
    where: str,
    architecture: str | None,
    planner: str | None,
    preset: str | None,
    memory_gib: float | None,
) -> list[Preview]:
    """Plan for a data set of params.yaml or for a folder with a fingerprint.

    Args:
        where: a folder with a fingerprint, ours (`fingerprints/NAME`, with `cases/NAME` beside) or nnU-Net's, planned
            with the defaults of params.yaml; or the name of a data set whose stages `cases` and `fingerprint` have run.
        architecture: an entry of params.yaml, shown in its configuration, or an architecture, shown in all; None for
            all entries of the study, in a folder for `nnunet`.
        planner: in place of the entry's.
        preset: in place of the entry's.
        memory_gib: in place of `budget.memory_gib`; without a study and with a preset, that of the preset.

    Raises:
        ValueError: no such data set or folder, a wrong setting, or no plan at all.
    """
    from pipelines.params import read_params

    changes = {name: value for name, value in (("planner", planner), ("preset", preset)) if value is not None}
    if any((Path(where) / name).is_file() for name in (_OUR_FILE, _NNUNET_FILE)):
        study = _study_of_folder(memory_gib, preset)
        plan_one, configurations = _of_folder(Path(where))
        entries: Sequence[str] = [architecture or _FOLDER_ARCHITECTURE]
        dataset = Path(where).resolve().name
    else:
        study = read_params()
        if where not in study.datasets:
            raise ValueError(
                f"{where}: neither a data set of params.yaml ({', '.join(study.datasets)}) nor a folder with a "
                f"fingerprint; give such a name, `fingerprints/NAME`, or a folder with nnU-Net's {_NNUNET_FILE} and "
                "dataset.json"
            )
        plan_one, configurations = _of_dataset(study, where)
        entries, dataset = [architecture] if architecture else study.architectures, where
    if memory_gib is not None:
        study = dataclasses.replace(study, budget=dataclasses.replace(study.budget, memory_gib=memory_gib))
    return [_preview(study, dataset, entry, changes, plan_one, configurations) for entry in entries]


_PlanOne = Callable[["Study", str], Any]


def _of_dataset(study: Study, dataset: str) -> tuple[_PlanOne, Sequence[str]]:
    from pipelines.tasks.lookup import task_of

    folders = {name: Path(name) / dataset for name in ("cases", "fingerprints")}
    for folder in folders.values():
        if not folder.exists():
            raise ValueError(f"{folder}: not there yet; run `dvc repro fingerprint@{dataset}` first")
    task = task_of(study.family)
    return (
        lambda changed, entry: task.plan(changed, dataset, entry, folders["cases"], folders["fingerprints"], {})
    ), task.CONFIGURATIONS


def _of_folder(folder: Path) -> tuple[_PlanOne, Sequence[str]]:
    from pipelines.tasks import segmentation

    if (folder / _OUR_FILE).is_file():
        from pipelines.cases.case import read_cases, read_info
        from pipelines.fingerprint.extract import read_fingerprint

        cases_dir = folder.resolve().parents[1] / "cases" / folder.resolve().name
        if not cases_dir.is_dir():
            raise ValueError(f"{cases_dir}: not there; it holds the cases whose fingerprint {folder} is")
        fingerprint, info = read_fingerprint(folder / _OUR_FILE), read_info(cases_dir / "dataset.json")
        num_cases = sum(case.split == "train" for case in read_cases(cases_dir / "cases.parquet"))
    else:
        fingerprint, info, num_cases = read_nnunet_fingerprint(folder)
    return (
        lambda study, entry: segmentation.plan_for(study, info.name, entry, fingerprint, info, num_cases, {})
    ), segmentation.CONFIGURATIONS


def _study_of_folder(memory_gib: float | None, preset: str | None) -> Study:
    from pipelines.params import Budget, Study
    from pipelines.planning.presets import PRESETS

    if memory_gib is None and preset in PRESETS:
        memory_gib = PRESETS[preset].memory_gib
    kinds: dict[str, Any] = get_type_hints(Study)
    names = [name for name, kind in kinds.items() if dataclasses.is_dataclass(kind)]
    sections: dict[str, Any] = {name: kinds[name]() for name in names}
    if memory_gib is not None:
        sections["budget"] = Budget(memory_gib=memory_gib)
    return Study(family=_FOLDER_FAMILY, datasets={}, architectures=[], entries={}, **sections)


def _preview(
    study: Study,
    dataset: str,
    name: str,
    changes: Mapping[str, Any],
    plan_one: _PlanOne,
    configurations: Sequence[str],
) -> Preview:
    known = study.entry(name)
    # An entry is shown as it is; of an architecture everything there is.
    wanted: Sequence[str | None] = [known.configuration] if name in study.entries else configurations
    plans: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for configuration in wanted:
        entry = dataclasses.replace(
            known,
            architecture=str(known.architecture).split("/")[-1],
            configuration=configuration,
            overrides=known.overrides | dict(changes),
        )
        try:
            plan = plan_one(dataclasses.replace(study, entries=study.entries | {name: entry}), name)
        except ValueError as error:
            refused[str(configuration)] = str(error)
            continue
        plans[plan.configuration] = plan
    if not plans:
        raise ValueError("; ".join(dict.fromkeys(refused.values())))
    return Preview(dataset, name, plans, refused)
