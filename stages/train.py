"""Stage `train`: folds and seeds of an entry side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines.exits import exits_cleanly
from pipelines.params import read_params
from pipelines.tracking.description import describe_run
from pipelines.tracking.follow import following
from pipelines.training.folds import collect_models, train_all, training_requests


@exits_cleanly
def main() -> None:
    """Write weights, `model.json`, `history.parquet` and events."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--best", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    study = read_params()
    requests = training_requests(study.family, arguments.plan, arguments.index, arguments.best, arguments.work)
    first = requests[0]
    source = study.datasets[first.plan["dataset"]].source
    optimizers = [request.plan["optimizer"] for request in requests]
    description = describe_run(first.plan, first.cases, first.digest, source, optimizers)
    with following(description, [request.events_path for request in requests], study.tracking.uri):
        train_all(requests, study.ray.workers)
    collect_models(requests, arguments.out)


if __name__ == "__main__":
    main()
