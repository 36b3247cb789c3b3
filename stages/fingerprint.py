"""Stage `fingerprint`: what the data are like, as far as planning needs it."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines.exits import exits_cleanly
from pipelines.params import read_params
from pipelines.tasks.lookup import task_of


@exits_cleanly
def main() -> None:
    """Write `fingerprint.json` and `fingerprint.parquet`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    task_of(read_params().family).fingerprint(arguments.cases, arguments.out)


if __name__ == "__main__":
    main()
