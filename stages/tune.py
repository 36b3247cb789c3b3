"""Stage `tune`: settings of the optimiser and the network, searched for; without trials the plan's are passed on."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pipelines.exits import exits_cleanly
from pipelines.params import read_params
from pipelines.tuning.results import pass_on


@exits_cleanly
def main() -> None:
    """Write `best.yaml`, `trials.parquet` and the events of the trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    plan = json.loads(arguments.plan.read_text(encoding="utf-8"))
    study = read_params()
    if not study.tuning.trials_for(plan["entry"]):
        pass_on(plan["optimizer"], plan["schedule"], arguments.out)
        return
    from pipelines.tuning.search import search, tell_search

    search(study.family, study.tuning, arguments.plan, arguments.index, arguments.out, arguments.work)
    tell_search(study, arguments.plan, arguments.index, arguments.out)


if __name__ == "__main__":
    main()
