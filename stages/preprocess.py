"""Stage `preprocess`: what the networks will see, one file a case, shared by entries that ask for the same."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines.exits import exits_cleanly
from pipelines.params import read_params
from pipelines.tasks.lookup import task_of


@exits_cleanly
def main() -> None:
    """Write `<configuration>-<digest>/<case>.arrow` and `index/A.json` for every entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--plans", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    study = read_params()
    plans = [arguments.plans / f"{name}.json" for name in study.architectures]
    compression = study.preprocessing.compression
    task_of(study.family).prepare(arguments.cases, plans, arguments.out, arguments.work, compression)


if __name__ == "__main__":
    main()
