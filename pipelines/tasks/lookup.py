"""Find the task of a family: `pipelines/tasks/<family>.py`."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from repro_models import registry


def task_of(family: str) -> ModuleType:
    """Import the task of a family.

    Raises:
        ValueError: there is no such task; the message lists those there are.
    """
    # A file with an underscore in its name is part of the task of that first name, or no task at all.
    known = sorted(
        path.stem for path in Path(__file__).parent.glob("*.py") if "_" not in path.stem and path.stem != "lookup"
    )
    if family not in known:
        why = "has networks, but a study cannot train them yet" if family in registry.families() else "is not known"
        raise ValueError(f"family {family!r} {why}; params.yaml takes one of: {', '.join(known)}")
    return importlib.import_module(f"pipelines.tasks.{family}")
