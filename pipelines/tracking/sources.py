"""The code a training is made of."""

from __future__ import annotations

from pipelines.tracking.foreign_code import target_sources
from pipelines.tracking.provenance import import_closure
from repro_models import registry

# What these functions of a task do reaches a training through the files they write at most, and those are
# dependencies of their own.
_FILE_FUNCTIONS = (
    "collect",
    "fingerprint",
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
        architecture: `family/name`, or the dotted path of a network from elsewhere: of such a one the files count that
            lie outside of installed packages, and by name and version the distributions that it comes from.

    Raises:
        UnknownArchitectureError: there is no such architecture.
        ValueError: there is no such package.
    """
    is_ours = "/" in architecture
    if is_ours and architecture not in registry.names():
        registry.load(architecture)  # raises, with the near names
    task = f"pipelines.tasks.{family}"
    module = "repro_models." + architecture.replace("/", ".")
    closure = import_closure(
        ["pipelines.training.folds", task, *([module] if is_ours else [])],
        skipped_functions=[f"{task}.{name}" for name in _FILE_FUNCTIONS],
    )
    return closure if is_ours else closure | target_sources(architecture)
