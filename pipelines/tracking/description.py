"""What trackers are told about an entry, from its model's files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.tracking.events import RunDescription
from pipelines.tracking.provenance import digest_of, files_digest, git_commit


def describe_run(
    plan: Mapping[str, Any], cases: Sequence[Mapping[str, Any]], digest: str, source: str
) -> RunDescription:
    """Describe the trainings of an entry.

    Args:
        plan: the plan as JSON values.
        cases: entries of the prepared index.
        digest: of plan, tuned settings and prepared index.
        source: where the data set is, as `params.yaml` says.
    """
    lock = Path("dvc.lock")
    tags = {
        "git.commit": git_commit(),
        "dvc.stage": os.environ.get("DVC_STAGE"),
        "dvc.exp": os.environ.get("DVC_EXP_NAME"),
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV"),
        "dvc.lock.digest": files_digest(lock) if lock.exists() else None,
    }
    optimizer = plan["optimizer"]
    # A family without patches has none to tell.
    patch = {"patch_size": "x".join(map(str, plan["patch_size"]))} if "patch_size" in plan else {}
    return RunDescription(
        experiment=plan["dataset"],
        entry=plan["entry"],
        digest=digest,
        dataset={
            "name": plan["dataset"],
            "digest": digest_of([[case["case_id"], case["digest"]] for case in cases]),
            "source": source,
        },
        params={
            "architecture": plan["architecture"],
            "configuration": plan["configuration"],
            **patch,
            "batch_size": plan["batch_size"],
            "optimizer": optimizer["name"],
            "learning_rate": optimizer["learning_rate"],
            "schedule": plan["schedule"]["name"],
            "budget": f"{plan['budget'][plan['budget']['kind']]} {plan['budget']['kind']}",
        },
        tags={name: value for name, value in tags.items() if value},
    )


def describe_model(model_dir: Path, source: str) -> RunDescription:
    """Describe a trained entry from its `model.json`."""
    model = json.loads((model_dir / "model.json").read_text(encoding="utf-8"))
    return describe_run(model["plan"], model["cases"], model["digest"], source)
