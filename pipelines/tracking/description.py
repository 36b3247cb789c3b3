"""What trackers are told about an entry, from its model's files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.tracking.events import RunDescription
from pipelines.tracking.provenance import digest_of, files_digest, git_commit

# Parameter that MLflow shows -> field of the optimiser.
_OF_OPTIMIZER = {"optimizer": "name", "learning_rate": "learning_rate"}


def describe_run(
    plan: Mapping[str, Any],
    cases: Sequence[Mapping[str, Any]],
    digest: str,
    source: str,
    optimizers: Sequence[Mapping[str, Any]] = (),
) -> RunDescription:
    """Describe the trainings of an entry.

    Args:
        plan: the plan as JSON values.
        cases: entries of the prepared index.
        digest: of plan, tuned settings and prepared index.
        source: where the data set is, as `params.yaml` says.
        optimizers: of the single trainings, where a search may have found different ones; none are as the plan's.
    """
    lock = Path("dvc.lock")
    tags = {
        "git.commit": git_commit(),
        "dvc.stage": os.environ.get("DVC_STAGE"),
        "dvc.exp": os.environ.get("DVC_EXP_NAME"),
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV"),
        "dvc.lock.digest": files_digest(lock) if lock.exists() else None,
    }
    optimizers = optimizers or [plan["optimizer"]]
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
            **{key: _common([optimizer[field] for optimizer in optimizers]) for key, field in _OF_OPTIMIZER.items()},
            "schedule": plan["schedule"]["name"],
            "budget": _budget(plan["budget"]),
        },
        tags={name: value for name, value in tags.items() if value},
    )


def _budget(budget: dict[str, Any]) -> str:
    amount = budget["steps" if budget["kind"] == "steps" else "minutes"]
    return f"{amount} {budget['kind'].replace('cpu_minutes', 'minutes of processor time')}"


def describe_model(model_dir: Path, source: str) -> RunDescription:
    """Describe a trained entry from its `model.json`."""
    model = json.loads((model_dir / "model.json").read_text(encoding="utf-8"))
    optimizers = [training["optimizer"] for training in model["trainings"]]
    return describe_run(model["plan"], model["cases"], model["digest"], source, optimizers)


def _common(values: Sequence[Any]) -> Any:
    distinct = list(dict.fromkeys(values))
    return distinct[0] if len(distinct) == 1 else ", ".join(map(str, distinct))
