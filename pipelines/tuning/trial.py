"""One trial of a search: a training on an inner split, which tells its score after every epoch and may be stopped.

Runs in a worker of Ray Tune. What all trials of a fold share lies in a file, so that Tune, which writes down every
trial's configuration again and again, handles the drawn settings only.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.atomic_files import write_text
from pipelines.tracking.events import EventLog, epochs, read_events
from pipelines.tuning.space import Settings, resolved_settings, tuned_values

# Instead of the score of a trial that could not be trained: Tune takes numbers only, and no real score is as low.
FAILED_SCORE = -1e9


@dataclass(frozen=True)
class TrialRequest:
    """What all trials of one fold share, as plain values.

    Attributes:
        family: task family.
        plan: the plan as JSON values, with the budget of a trial.
        cases: entries of the prepared index that the trials may see, split anew.
        fold: the fold of these that validates.
        folder: what paths of cases are relative to.
        trials_dir: absolute folder in which each trial keeps its live state, below its id.
        name: of the search, for people.
        seed: of weights, patches and augmentation.
    """

    family: str
    plan: dict[str, Any]
    cases: list[dict[str, Any]]
    fold: int
    folder: str
    trials_dir: str
    name: str
    seed: int

    def write(self, path: Path) -> None:
        """Write the values as JSON."""
        write_text(path, json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path | str) -> TrialRequest:
        """Inverse of `write`."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))


class _ReportedEvents:
    """An event log that tells Tune of every epoch too; Tune ends the trial there when it is to be stopped."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def append(self, kind: str, **fields: Any) -> None:
        """Write one event, and report it when it is an epoch."""
        from ray import tune

        self._log.append(kind, **fields)
        if kind == "epoch":
            score = _comparable(fields["score"])
            tune.report({"epoch": fields["epoch"] + 1, "score": score, "seconds": fields["seconds"]})


def run_trial(config: dict[str, Any]) -> None:
    """Train with the settings drawn, or go on where the trial was when its search was interrupted.

    Reports `epoch` (done, from 1), `score` and `seconds` after each epoch, and in the end once more with `outcome`
    (`finished` or `failed`) and `reason` (of a failure, else empty).

    Args:
        config: keys request_path and settings.
    """
    from ray import tune

    request = TrialRequest.read(config["request_path"])
    trial_id = tune.get_context().get_trial_id()
    assert trial_id
    run_dir = Path(request.trials_dir) / trial_id
    num_threads = int(tune.get_context().get_trial_resources().required_resources["CPU"])
    tune.report(train_trial(request, config["settings"], run_dir, num_threads))


def train_trial(request: TrialRequest, settings: Settings, run_dir: Path, num_threads: int) -> dict[str, Any]:
    """Train one trial; its state and its events lie in `run_dir`.

    A trial whose settings do not train (its loss is not finite, its network does not fit into memory) is no reason to
    end the search: it scores last.

    Args:
        request: what it shares with the others.
        settings: its own.
        run_dir: its folder.
        num_threads: processor threads to use.

    Returns:
        What `run_trial` reports in the end.
    """
    import torch

    from pipelines.tasks.lookup import task_of
    from pipelines.training.folds import with_tuned_values
    from pipelines.training.loop import train
    from pipelines.training.single import default_device

    torch.set_num_threads(num_threads)
    plan = with_tuned_values(request.plan, tuned_values(request.plan, settings))
    log = EventLog(run_dir / "events.jsonl")
    if not log.path.exists():
        log.append("run_start", params=resolved_settings(request.plan, settings))
    try:
        task = task_of(request.family).training(plan, request.cases, request.fold, request.seed, Path(request.folder))
        result = train(
            task,
            run_dir=run_dir,
            seed=request.seed,
            optimizer=plan["optimizer"],
            schedule=plan["schedule"],
            clip_norm=plan["clip_norm"],
            budget=plan["budget"],
            device=default_device(),
            event_log=_ReportedEvents(log),
            description=request.name,
            keeps_best=plan.get("keeps_best", False),
            answers_collapse=plan.get("rescue", False),
            shows_progress=False,
        )
    except (ValueError, torch.OutOfMemoryError) as error:
        told = epochs(read_events(log.path))
        return {
            "epoch": len(told),
            "score": FAILED_SCORE,
            "seconds": told[-1]["seconds"] if told else 0.0,
            "outcome": "failed",
            "reason": " ".join(str(error).split()),
        }
    assert result.kept_epoch is not None
    row = result.history[result.kept_epoch]
    score = row.get(f"val_{task.score_name}", -row.get("val_loss", row["train_loss"]))
    return {
        "epoch": len(result.history),
        "score": _comparable(score),
        "seconds": result.seconds,
        "outcome": "finished",
        "reason": "",
    }


def _comparable(score: float) -> float:
    return score if math.isfinite(score) else FAILED_SCORE
