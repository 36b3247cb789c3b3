"""Stage `cases`: check a data set, list its cases, split them."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines.exits import exits_cleanly
from pipelines.params import read_params
from pipelines.tasks.lookup import task_of


@exits_cleanly
def main() -> None:
    """Write `cases.parquet`, `dataset.json` and `integrity.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    study = read_params()
    source = study.datasets[arguments.dataset].source
    task_of(study.family).collect(source, arguments.dataset, arguments.out, study.split.num_folds)


if __name__ == "__main__":
    main()
