from __future__ import annotations

import os
from pathlib import Path


def put_on_full_disk(path: Path) -> None:
    """Let what `atomic_path(path)` gives lead to a device that has no space left, once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f".{os.getpid()}-{path.name}").symlink_to("/dev/full")
