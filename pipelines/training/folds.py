"""The trainings of an entry: one per fold and seed, side by side where the machine allows."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.atomic_files import atomic_path, write_text
from pipelines.inference.model_files import PER_FOLD, weights_name
from pipelines.ray_session.session import is_on_cluster, num_local_cpus, num_local_gpus
from pipelines.tracking.provenance import digest_of

# Parts of a plan that change no weight of a training of one fold and seed: with another one of these, what is trained
# already is used again.
_BESIDE_TRAINING = (
    "entry",
    "folds",
    "seeds",
    "num_folds",
    "inference",
    "tolerance_mm",
    "planning",
    "memory",
    "reasons",
    "overrides",
)


@dataclass(frozen=True)
class TrainingRequest:
    """One training, as plain values that travel to any process.

    Attributes:
        family: task family.
        plan: the plan as JSON values.
        cases: entries of the prepared index.
        folder: what paths of cases are relative to.
        run_dir: absolute folder of the training's live state.
        fold: the fold that validates.
        seed: of weights, patches and augmentation.
        digest: of plan, tuned settings of all folds, and prepared index; the same for all trainings of an entry.
    """

    family: str
    plan: dict[str, Any]
    cases: list[dict[str, Any]]
    folder: str
    run_dir: str
    fold: int
    seed: int
    digest: str

    @property
    def events_path(self) -> Path:
        """Where the training tells its progress."""
        return Path(self.run_dir) / "events.jsonl"

    @property
    def name(self) -> str:
        """Entry, fold and seed, for people."""
        return f"{self.plan['entry']} fold {self.fold} seed {self.seed}"

    @property
    def weights_path(self) -> Path:
        """Where the finished training leaves its weights."""
        return Path(self.run_dir) / "weights.safetensors"


def training_requests(
    family: str, plan_path: Path, index_path: Path, best_path: Path, work_dir: Path
) -> list[TrainingRequest]:
    """The trainings an entry asks for.

    Their folder in `work_dir` is named by the digest of all that decides the result, so a stopped training goes on
    and a changed one starts afresh.

    Args:
        family: task family.
        plan_path: `plans/D/A.json`.
        index_path: `prepared/D/index/A.json`.
        best_path: `tuned/D/A/best.yaml`; its values replace the plan's, for each fold its own where there was a search.
        work_dir: folder of live state.
    """
    import yaml

    plan = json.loads(plan_path.read_text(encoding="utf-8"))
    cases, content = read_index(index_path)
    best = yaml.safe_load(best_path.read_text(encoding="utf-8"))
    plans = {
        fold: with_tuned_values(plan, best["folds"][fold] if best["num_trials"] else best) for fold in plan["folds"]
    }
    # Where each fold has settings of its own, each has a digest of its own: another fold changes nothing for it.
    digests = {fold: training_digest(tuned, content) for fold, tuned in plans.items()}
    distinct = sorted(set(digests.values()))
    name = f"{plan['dataset']}-{Path(plan['architecture']).name}"
    return [
        TrainingRequest(
            family=family,
            plan=plans[fold],
            cases=cases,
            folder=str(Path.cwd()),
            run_dir=str(work_dir.resolve() / f"{name}-{digests[fold][:12]}" / f"fold{fold}_seed{seed}"),
            fold=fold,
            seed=seed,
            digest=distinct[0] if len(distinct) == 1 else digest_of(distinct),
        )
        for seed in plan["seeds"]
        for fold in plan["folds"]
    ]


def read_index(index_path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The prepared cases of an entry.

    Returns:
        The cases with the path of their file, and as they stand in `prepared/D/index/A.json`, whose digests say what
        is in them wherever they lie.
    """
    index = json.loads(index_path.read_text(encoding="utf-8"))
    prepared_dir = index_path.parents[1] / index["folder"]
    return [case | {"file": str(prepared_dir / case["file"])} for case in index["cases"]], index["cases"]


def training_digest(plan: dict[str, Any], content: list[dict[str, Any]]) -> str:
    """Digest of all that decides the weights of a training of given fold and seed: parts of the plan, and the cases."""
    return digest_of([{key: value for key, value in plan.items() if key not in _BESIDE_TRAINING}, content])


def with_tuned_values(plan: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A plan, as JSON values, with the settings that a search found.

    Args:
        plan: the plan.
        values: keys optimizer and schedule, whole, and maybe network, with the fields that replace planned ones.
    """
    network = plan["network"] | values.get("network", {})
    return plan | {"optimizer": values["optimizer"], "schedule": values["schedule"], "network": network}


def train_all(requests: list[TrainingRequest], workers: int) -> None:
    """Run the trainings; those that are finished return at once.

    On a cluster (`RAY_ADDRESS`), or where this machine can run two at once, each is a Ray task. With `workers` above
    one, each is a `TorchTrainer` of that many processes. A single one runs here.
    """
    num_slots = num_local_gpus() or num_local_cpus()
    waiting = [request for request in requests if not request.weights_path.exists()]
    if not waiting:
        return
    if workers > 1 or is_on_cluster() or min(len(waiting), num_slots) > 1:
        from pipelines.training.ray_worker import train_on_ray

        train_on_ray(waiting, workers)
    else:
        from pipelines.training.single import run_training

        for request in waiting:
            run_training(request, num_threads=num_local_cpus(), shows_progress=True)


def collect_models(requests: list[TrainingRequest], out_dir: Path) -> None:
    """Copy what the finished trainings left into the model's folder.

    Writes `model.json`, `history.parquet`, and per training its weights and events.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    trainings = []
    for request in requests:
        weights = weights_name(request.fold, request.seed)
        with atomic_path(out_dir / weights) as temporary:
            shutil.copyfile(request.weights_path, temporary)
        with atomic_path(out_dir / "events" / Path(weights).with_suffix(".jsonl").name) as temporary:
            shutil.copyfile(request.events_path, temporary)
        summary = json.loads((Path(request.run_dir) / "summary.json").read_text(encoding="utf-8"))
        history = summary.pop("history")
        rows += [{"fold": request.fold, "seed": request.seed, **row} for row in history]
        settings = {name: request.plan[name] for name in PER_FOLD}
        trainings.append({"fold": request.fold, "seed": request.seed, "weights": weights, **summary, **settings})
    with atomic_path(out_dir / "history.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)
    model = {
        "family": requests[0].family,
        "digest": requests[0].digest,
        "trainings": trainings,
        "plan": requests[0].plan,
        "cases": [{key: case[key] for key in ("case_id", "digest", "split", "fold")} for case in requests[0].cases],
    }
    write_text(out_dir / "model.json", json.dumps(model, indent=2) + "\n")
