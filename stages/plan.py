"""Stage `plan`: the whole configuration of an entry, resolved, with the reasons."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pipelines.atomic_files import write_text
from pipelines.exits import exits_cleanly
from pipelines.params import read_params
from pipelines.tasks.lookup import task_of


@exits_cleanly
def main() -> None:
    """Write `plans/D/A.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--entry", required=True)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--fingerprint", type=Path, required=True)
    parser.add_argument("--sources", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    study = read_params()
    sources = json.loads(arguments.sources.read_text(encoding="utf-8"))
    task = task_of(study.family)
    plan = task.plan(study, arguments.dataset, arguments.entry, arguments.cases, arguments.fingerprint, sources)
    write_text(arguments.out, plan.to_json())


if __name__ == "__main__":
    main()
