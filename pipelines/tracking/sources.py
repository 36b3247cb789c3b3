"""The code a training is made of."""

from __future__ import annotations

from pipelines.tracking.provenance import import_closure
from repro_models import registry

# What these functions of a task do reaches a training through the files they write at most, and those are
# dependencies of their own.
_FILE_FUNCTIONS = (
    "collect",
    "fingerprint",
    "default_configuration",
    "plan",
    "plan_for",
    "_plan_entry",
    "prepare",
    "inner_split",
    "evaluate",
    "reference_rows",
    "dataset_facts",
    "fingerprint_words",
    "gallery",
)


def training_sources(family: str, architecture: str) -> dict[str, str]:
    """Files in the import closure of an entry's training, with the digest of each.

    Args:
        family: task family.
        architecture: `family/name`.

    Raises:
        UnknownArchitectureError: there is no such architecture.
    """
    if architecture not in registry.names():
        registry.load(architecture)  # raises, with the near names
    task = f"pipelines.tasks.{family}"
    return import_closure(
        ["pipelines.training.folds", task, "repro_models." + architecture.replace("/", ".")],
        skipped_functions=[f"{task}.{name}" for name in _FILE_FUNCTIONS],
    )
