"""The trials of one fold by Ray Tune: Optuna draws the settings, ASHA stops what lags behind.

ASHA is that of Li et al. (2020, arXiv 1810.05934), counted in epochs of the training, because a trial that went on
after an interruption begins Tune's own count anew; Optuna's sampler is the tree-structured Parzen estimator (Bergstra
et al., 2011).
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.tuning.saved_search import can_go_on
from pipelines.tuning.space import Domain, Settings
from pipelines.tuning.trial import run_trial
from repro_models.contract import Range

if TYPE_CHECKING:
    from ray.tune import Callback

# The name of the experiment is part of Tune's file names.
_EXPERIMENT = "tune"
_ENVIRONMENT = {
    # The state of the search is on disk a second later: hardly more than epochs under way is lost when it is killed.
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
    # Tables and TensorBoard files of each trial, which nobody reads: events and `trials.parquet` say it.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    # Tune would answer Ctrl-C by ending the trials under way as if they were done, and return.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
# A worker that is killed, by the system or with its node, is no fault of its trial, which goes on from its last epoch.
_MAX_FAILURES = 2


def search_with_ray(
    request_path: Path,
    space: Mapping[str, Domain],
    first: Settings | None,
    storage_dir: Path,
    *,
    name: str,
    num_trials: int,
    max_epochs: int,
    grace_epochs: int,
    reduction_factor: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Run the trials of one fold on the cluster this process is connected to, or go on with those of an earlier call.

    Trials that are finished are not run again; those under way go on from their last epoch.

    Args:
        request_path: file of what the trials share, on storage that all nodes see.
        space: what to draw from.
        first: settings of the first trial; None draws them too.
        storage_dir: absolute folder of Tune's state.
        name: of the search, for people.
        num_trials: how many.
        max_epochs: of a trial that is not stopped.
        grace_epochs: no trial is stopped before.
        reduction_factor: the share that goes on at each rung is one in so many.
        seed: of the settings drawn.

    Returns:
        One dict a trial, in no order: trial_id, settings, epoch, score, seconds, outcome (`finished`,
        `failed` or `stopped_early`), reason.

    Raises:
        KeyboardInterrupt: stopped by Ctrl-C; the same call goes on.
        RuntimeError: a trial ended by an error that is no fault of its settings.
    """
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    import optuna
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    # Tune copies its state aside while it writes the next one; a copy that fails for that is followed by another.
    logging.getLogger("ray.train._internal.syncer").setLevel(logging.ERROR)
    num_concurrent, resources = _shares(num_trials)
    trainable = tune.with_resources(run_trial, resources)
    experiment_dir = storage_dir / _EXPERIMENT
    if can_go_on(experiment_dir):
        tuner = tune.Tuner.restore(
            str(experiment_dir), trainable=trainable, resume_unfinished=True, restart_errored=True
        )
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={"request_path": str(request_path)},
            tune_config=tune.TuneConfig(
                metric="score",
                mode="max",
                num_samples=num_trials,
                max_concurrent_trials=num_concurrent,
                search_alg=OptunaSearch(
                    {f"settings/{setting}": _distribution(domain) for setting, domain in space.items()},
                    metric="score",
                    mode="max",
                    points_to_evaluate=[{f"settings/{setting}": value for setting, value in (first or {}).items()}]
                    if first
                    else None,
                    seed=seed,
                ),
                scheduler=ASHAScheduler(
                    time_attr="epoch",
                    max_t=max(max_epochs, grace_epochs),
                    grace_period=grace_epochs,
                    reduction_factor=reduction_factor,
                    stop_last_trials=False,
                ),
                # The next trial finds torch imported.
                reuse_actors=True,
                # Unasked, Tune writes all settings into the name, cut where it is too long.
                trial_dirname_creator=_trial_id,
            ),
            run_config=tune.RunConfig(
                name=_EXPERIMENT,
                storage_path=str(storage_dir),
                failure_config=tune.FailureConfig(max_failures=_MAX_FAILURES),
                callbacks=[_progress_lines(name, num_trials)],
                verbose=0,
            ),
        )
    with warnings.catch_warnings():
        # A trial that goes on counts its reports anew, which ASHA and the choice of the best do not look at.
        warnings.filterwarnings("ignore", message="The reported value is ignored", category=UserWarning)
        results = tuner.fit()
    for error in results.errors:
        raise RuntimeError(f"{name}: a trial ended by an error; run the same command again to go on") from error
    rows = [_row(metrics) for metrics in (results[number].metrics for number in range(len(results))) if metrics]
    if len(rows) < num_trials:
        raise RuntimeError(f"{name}: {len(rows)} of {num_trials} trials ended; run the same command again to go on")
    return rows


def _trial_id(trial: Any) -> str:
    return str(trial.trial_id)


def _shares(num_trials: int) -> tuple[int, dict[str, float]]:
    """How many trials run at the same time, and what each gets: a GPU where there are any, and its share of processors.

    Tune would start as many as fit by processors, whatever they do to each other.
    """
    import ray

    resources = ray.cluster_resources()
    num_gpus, num_cpus = int(resources.get("GPU", 0)), int(resources["CPU"])
    num_concurrent = min(num_gpus or num_cpus, num_trials)
    # A trial cannot span nodes, so it asks for no more than the smallest of them has.
    smallest = min(int(node["Resources"].get("CPU", 0)) or num_cpus for node in ray.nodes() if node["Alive"])
    return num_concurrent, {"CPU": max(1, min(num_cpus // num_concurrent, smallest)), "GPU": int(num_gpus > 0)}


def _distribution(domain: Domain) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(domain, Range):
        return CategoricalDistribution(domain.values)
    if isinstance(domain.low, int) and isinstance(domain.high, int):
        return IntDistribution(domain.low, domain.high, log=domain.is_log)
    return FloatDistribution(domain.low, domain.high, log=domain.is_log)


def _row(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "trial_id": metrics["trial_id"],
        "settings": metrics["config"]["settings"],
        "epoch": metrics["epoch"],
        "score": metrics["score"],
        "seconds": metrics["seconds"],
        "outcome": metrics.get("outcome", "stopped_early"),
        "reason": metrics.get("reason", ""),
    }


def _progress_lines(name: str, num_trials: int) -> Callback:
    from ray.tune import Callback

    class ProgressLines(Callback):
        """One line for each trial that ends."""

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            """Say how the trial ended."""
            ended = [_row(other.last_result) for other in trials if other is trial or other.status == "TERMINATED"]
            row = _row(trial.last_result)
            how = row["outcome"].replace("_", " ")
            said = f"{name}: trial {len(ended)} of {num_trials} {how} after {row['epoch']} epochs"
            if row["outcome"] == "failed":
                said += f" ({row['reason']})"
            else:
                best = max(other["score"] for other in ended)
                said += f", score {row['score']:.3f}, best so far {best:.3f}"
            print(said, file=sys.stderr, flush=True)

    return ProgressLines()
