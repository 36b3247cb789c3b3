"""What lies in a model's folder, as far as it can be read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.planning.plan import Plan

# Parts of a plan that a search may settle differently for each fold; a training in `model.json` has its own.
PER_FOLD = ("optimizer", "schedule", "network")


def weights_name(fold: int, seed: int) -> str:
    """File name of the weights of one training."""
    return f"fold{fold}_seed{seed}.safetensors"


def read_model_plan(model_dir: Path | str) -> Plan:
    """The plan a model was trained by; where folds have settings of their own, that of the first."""
    return Plan.from_values(_read_model(Path(model_dir))["plan"])


def read_training_plan(weights_path: Path | str) -> Plan:
    """The plan that the training was run by which left these weights."""
    model = _read_model(Path(weights_path).parent)
    name = Path(weights_path).name
    training = next(training for training in model["trainings"] if training["weights"] == name)
    return Plan.from_values(model["plan"] | {key: training[key] for key in PER_FOLD})


def _read_model(model_dir: Path) -> dict[str, Any]:
    model: dict[str, Any] = json.loads((model_dir / "model.json").read_text(encoding="utf-8"))
    return model
