"""Stage `compare`: ranking, figures and report of a data set."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines.exits import exits_cleanly
from pipelines.params import read_params
from pipelines.reporting.compare import compare_entries, tell_ranking


@exits_cleanly
def main() -> None:
    """Write `index.html`, `ranking.json`, `ranking.md`, figures and learning curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--plans", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    study = read_params()
    compare_entries(study, arguments.cases, arguments.plans, arguments.models, arguments.results, arguments.out)
    tell_ranking(study, arguments.models, arguments.out)


if __name__ == "__main__":
    main()
