"""What lies in a model's folder, as far as it can be read without torch."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.planning.plan import Plan


def weights_name(fold: int, seed: int) -> str:
    """File name of the weights of one training."""
    return f"fold{fold}_seed{seed}.safetensors"


def read_model_plan(model_dir: Path | str) -> Plan:
    """The plan a model was trained by."""
    return Plan.from_values(json.loads((Path(model_dir) / "model.json").read_text(encoding="utf-8"))["plan"])
