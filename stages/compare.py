"""Stage `compare`: ranking, figures and report of a data set."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from pipelines.exits import exits_cleanly
from pipelines.params import read_params
from pipelines.reporting.compare import DatasetFolders, compare_entries, tell_ranking


@exits_cleanly
def main() -> None:
    """Write `index.html`, `ranking.json`, `ranking.md`, figures and learning curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [field.name for field in fields(DatasetFolders)]
    for name in (*names, "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    study = read_params()
    folders = DatasetFolders(**{name: getattr(arguments, name) for name in names})
    compare_entries(study, folders, arguments.out)
    tell_ranking(study, folders.models, arguments.out)


if __name__ == "__main__":
    main()
