"""Find an architecture by name: `family/name` is the file `repro_models/family/name.py`."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from types import ModuleType

_NOT_FAMILIES = {"blocks", "losses"}


class UnknownArchitectureError(ValueError):
    """A name for which there is no file."""


def names() -> list[str]:
    """All architectures as `family/name`, sorted. Reads file names only, imports nothing."""
    root = Path(__file__).parent
    return sorted(
        f"{path.parent.name}/{path.stem}"
        for path in root.glob("*/*.py")
        if path.parent.name not in _NOT_FAMILIES and path.stem != "__init__"
    )


def full_name(name: str) -> str:
    """`family/name` of an architecture that is named with its family or without.

    Raises:
        UnknownArchitectureError: there is no such file; the message lists near names.
        ValueError: two families have one of that name.
    """
    if "/" in name:
        return name
    known = names()
    found = [each for each in known if each.split("/")[1] == name]
    if len(found) > 1:
        raise ValueError(f"architecture {name!r}: there are {' and '.join(found)}; give the family too")
    if not found:
        stems = {each.split("/")[1]: each for each in known}
        near = [stems[stem] for stem in difflib.get_close_matches(name, stems, n=3, cutoff=0.4)]
        raise _unknown(name, near or known)
    return found[0]


def load(name: str) -> ModuleType:
    """Import the file of the architecture `family/name`.

    Raises:
        UnknownArchitectureError: there is no such file; the message lists near names.
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
        raise _unknown(name, near)
    return importlib.import_module("repro_models." + name.replace("/", "."))


def families() -> list[str]:
    """All families, sorted."""
    return sorted({name.split("/")[0] for name in names()})


def _unknown(name: str, near: list[str]) -> UnknownArchitectureError:
    family, stem = name.split("/")[0], name.split("/")[-1]
    of_that_stem = [each for each in names() if each.split("/")[1] == stem]
    elsewhere = [each for each in of_that_stem if not each.startswith(f"{family}/")]
    if elsewhere and family in families():
        return UnknownArchitectureError(
            f"unknown architecture {name!r}: {elsewhere[0]} is of another family, and a study has networks of one; "
            f"`repro models` lists those of {family}"
        )
    return UnknownArchitectureError(
        f"unknown architecture {name!r}: an architecture is a file repro_models/<family>/<name>.py; "
        f"did you mean {', '.join(of_that_stem or near)}? `repro models` lists all"
    )
