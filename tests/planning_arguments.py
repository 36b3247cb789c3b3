"""Arguments of `plan_entry` for data that are known by their fingerprint, for tests."""

from __future__ import annotations

from typing import Any

from pipelines.tasks.segmentation_loss import segmentation_loss_terms
from tests.nnunet_data import Data


def planning_arguments(data: Data) -> dict[str, Any]:
    """All of them, with the settings that params.yaml has by default."""
    return {
        "dataset": "data",
        "entry": "entry",
        "architecture": "segmentation/nnunet",
        "variant": None,
        "configuration": "3d_fullres",
        "overrides": {},
        "fingerprint": data.fingerprint(),
        "info": data.info(),
        "num_training_cases": data.num_cases,
        "memory_gib": 8.0,
        "sources": {"a.py": "00"},
        "training": {
            "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.99, "weight_decay": 3e-5},
            "schedule": {"name": "polynomial", "exponent": 0.9, "warmup_fraction": 0.0},
            "clip_norm": 12.0,
            "foreground_fraction": 0.33,
            "mirror_axes": "auto",
            "max_batch_size": None,
            "rescue": True,
            "loss": "dice_cross_entropy",
            "elastic_probability": 0.0,
        },
        "loss_terms": segmentation_loss_terms,
        "inference": {"overlap": 0.5, "is_mirrored": False},
        "budget": {"kind": "steps", "steps": 10},
        "num_folds": 5,
        "folds": [0, 1],
        "seeds": [0],
        "tolerance_mm": 2.0,
    }
