"""The search of an entry: for every fold its own, on an inner split of the cases that train for this fold.

The settings that a fold's network is trained with come from trials that never saw this fold, so nothing about the
network was chosen by the cases it is judged by (nested cross-validation). Folds share no trial either: what a trial of
one fold saw are cases that another fold is judged by.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.atomic_files import write_text
from pipelines.params import Study, Tuning
from pipelines.planning.architecture import load_architecture
from pipelines.ray_session.session import attached, is_on_cluster, local_head
from pipelines.tasks.lookup import task_of
from pipelines.tracking.description import describe_run
from pipelines.tracking.events import read_events
from pipelines.tracking.provenance import digest_of, import_closure
from pipelines.tracking.trials import tell_trials
from pipelines.training.folds import read_index, training_digest, training_requests
from pipelines.tuning.results import FoldTrials, write_results
from pipelines.tuning.space import Domain, check_space, default_space, planned_settings
from pipelines.tuning.trial import TrialRequest

# A trial limited in minutes has no number of epochs; ASHA needs one, which is never reached.
_MANY_EPOCHS = 1_000_000


@dataclass(frozen=True)
class _FoldSearch:
    """The search of one fold: which, how many trials, and the absolute folder of its live state."""

    fold: int
    num_trials: int
    folder: Path

    @property
    def trials_path(self) -> Path:
        """Where the trials stand once all have ended."""
        return self.folder / "trials.json"

    @property
    def trials_dir(self) -> Path:
        """Where each trial has its state and events, below its id."""
        return self.folder / "trials"


def search(family: str, tuning: Tuning, plan_path: Path, index_path: Path, out_dir: Path, work_dir: Path) -> None:
    """Search for the settings of an entry and write `best.yaml`, `trials.parquet` and the events of all trials.

    The live state of a fold's search lies in `work_dir`, in a folder named by the digest of all that decides it: a
    search that was stopped goes on, and of one that is finished the trials are read.

    Args:
        family: task family.
        tuning: how to search; it has trials for this entry.
        plan_path: `plans/D/A.json`.
        index_path: `prepared/D/index/A.json`.
        out_dir: `tuned/D/A`.
        work_dir: kept between runs, not tracked.

    Raises:
        ValueError: a setting that cannot be varied, too few cases, or a fold none of whose trials could be trained.
        KeyboardInterrupt: stopped by Ctrl-C.
    """
    plan = json.loads(plan_path.read_text(encoding="utf-8"))
    cases, content = read_index(index_path)
    task, architecture = task_of(family), load_architecture(plan["architecture"], plan["network"])
    space = tuning.domains()
    if space is None:
        space = default_space(plan, task.TUNED_OPTIMIZERS, getattr(architecture, "SEARCH_SPACE", {}))
    check_space(space, [field.name for field in dataclasses.fields(architecture.Config)])
    trial_plan = plan | {"budget": _trial_budget(plan["budget"], tuning)}
    searches = _fold_searches(tuning, trial_plan, content, space, work_dir.resolve())
    waiting = [each for each in searches if not each.trials_path.exists()]
    for each in waiting:
        inner_cases, inner_fold = task.inner_split(cases, each.fold)
        TrialRequest(
            family=family,
            plan=trial_plan,
            cases=inner_cases,
            fold=inner_fold,
            folder=str(Path.cwd()),
            trials_dir=str(each.trials_dir),
            name=_name(plan, each),
            seed=tuning.seed,
        ).write(each.folder / "request.json")
    if waiting:
        with attached() if is_on_cluster() else local_head():
            for each in waiting:
                _run(each, trial_plan, space, tuning)
    write_results(plan, [_read(each) for each in searches], out_dir)


def tell_search(study: Study, plan_path: Path, index_path: Path, out_dir: Path) -> bool:
    """Tell MLflow the trials of an entry, below the run that its training will have.

    Args:
        study: whose search it was.
        plan_path: `plans/D/A.json`.
        index_path: `prepared/D/index/A.json`.
        out_dir: `tuned/D/A`, as `search` wrote it.

    Returns:
        Whether MLflow was told; one line on standard error says it where it was not.
    """
    requests = training_requests(study.family, plan_path, index_path, out_dir / "best.yaml", out_dir)
    first, optimizers = requests[0], [request.plan["optimizer"] for request in requests]
    source = study.datasets[first.plan["dataset"]].source
    description = describe_run(first.plan, first.cases, first.digest, source, optimizers)
    return tell_trials(description, out_dir, study.tracking.uri)


def _trial_budget(budget: Mapping[str, Any], tuning: Tuning) -> dict[str, Any]:
    given = {"steps": tuning.steps, "minutes": tuning.minutes}
    return {**budget, **{key: value for key, value in given.items() if value is not None}}


def _fold_searches(
    tuning: Tuning, plan: dict[str, Any], content: list[dict[str, Any]], space: Mapping[str, Domain], work_dir: Path
) -> list[_FoldSearch]:
    folds = plan["folds"]
    least, num_left = divmod(tuning.trials, len(folds))
    how = {key: value for key, value in dataclasses.asdict(tuning).items() if key not in ("trials", "entries", "space")}
    varied = {setting: dataclasses.asdict(domain) for setting, domain in space.items()}
    # Code of the trainings themselves is part of the plan.
    closure = import_closure(["pipelines.tuning.ray_search"])
    code = {path: digest for path, digest in closure.items() if path.startswith("pipelines/tuning/")}
    searches = []
    for position, fold in enumerate(folds):
        num_trials = least + (position < num_left)
        digest = digest_of([training_digest(plan, content), how, varied, num_trials, fold, code])
        name = f"{plan['dataset']}-{Path(plan['architecture']).name}-{digest[:12]}"
        searches.append(_FoldSearch(fold, num_trials, work_dir / name))
    return searches


def _run(each: _FoldSearch, plan: dict[str, Any], space: Mapping[str, Domain], tuning: Tuning) -> None:
    from pipelines.tuning.ray_search import search_with_ray

    budget = plan["budget"]
    has_steps = budget["kind"] == "steps"
    rows = search_with_ray(
        each.folder / "request.json",
        space,
        planned_settings(plan, space),
        each.folder,
        name=_name(plan, each),
        num_trials=each.num_trials,
        max_epochs=math.ceil(budget["steps"] / budget["steps_per_epoch"]) if has_steps else _MANY_EPOCHS,
        grace_epochs=tuning.grace_epochs,
        reduction_factor=tuning.reduction_factor,
        # Folds that drew the same settings would learn less between them.
        seed=tuning.seed + each.fold,
    )
    # Tune forgets their order when it is interrupted.
    rows.sort(key=lambda row: read_events(each.trials_dir / row["trial_id"] / "events.jsonl")[0]["time"])
    write_text(each.trials_path, json.dumps(rows) + "\n")
    # Nobody goes on with these; of a large network and many trials they would fill the disk.
    for path in each.trials_dir.glob("*/state.pt"):
        path.unlink()


def _read(each: _FoldSearch) -> FoldTrials:
    return FoldTrials(each.fold, json.loads(each.trials_path.read_text(encoding="utf-8")), each.trials_dir)


def _name(plan: Mapping[str, Any], each: _FoldSearch) -> str:
    return f"{plan['entry']} fold {each.fold}"
