"""A source that is a Python file: it writes the data itself."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def make_source(script: Path, files_dir: Path) -> Path:
    """Run `make(files_dir)` of a Python file.

    Returns:
        What it gives: the folder or file to read.

    Raises:
        ValueError: the file has no such function.
    """
    spec = importlib.util.spec_from_file_location(f"dataset_source_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if not hasattr(module, "make"):
        raise ValueError(f"{script}: has no function make(folder); a Python source defines make(folder: Path) -> Path")
    made: Path = module.make(files_dir)
    return made
