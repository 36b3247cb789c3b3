"""Stage `evaluate`: predict and score validation and test cases."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines.exits import exits_cleanly
from pipelines.params import read_params
from pipelines.tasks.lookup import task_of


@exits_cleanly
def main() -> None:
    """Write `cases.parquet`, `metrics.json` and `predictions/`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    task_of(read_params().family).evaluate(
        arguments.cases, arguments.index, arguments.model, arguments.out, arguments.work
    )


if __name__ == "__main__":
    main()
