"""Stage `tune`: settings of the optimiser. Without trials the plan's values are passed on."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pipelines.exits import exits_cleanly
from pipelines.tuning.passed_on import pass_on


@exits_cleanly
def main() -> None:
    """Write `best.yaml` and `trials.parquet`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    plan = json.loads(arguments.plan.read_text(encoding="utf-8"))
    pass_on(plan["optimizer"], plan["schedule"], arguments.out)


if __name__ == "__main__":
    main()
