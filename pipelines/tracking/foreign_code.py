"""The code behind a network from elsewhere: a user's own files, or the distributions that are installed.

Nothing is imported: that could take longer than all the stage that asks.
"""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from pipelines.tracking.provenance import import_closure, imports, syntax_tree, tree_digest

_OURS = ("repro_models", "pipelines", "stages")
# What every training stands on; of our own networks too these are not noted.
_BENEATH_ALL = ("torch", "numpy")


def target_sources(target: str) -> dict[str, str]:
    """What decides the network at a dotted path.

    Files that lie outside of installed packages count by the digest of their meaning, with all files that they import;
    each distribution that is asked for counts by its version.

    Args:
        target: of a class or function.

    Returns:
        Path below the folder that Python found its package in -> sha256; `distribution NAME` -> version.

    Raises:
        ValueError: there is no such package, or a file is no Python.
    """
    top = target.split(".")[0]
    if top not in _OURS and not list(_locations(top)):
        raise ValueError(
            f"target {target}: there is no package {top}; install it into this environment, or put the folder it lies "
            "in on PYTHONPATH"
        )
    parts = target.split(".")
    waiting = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    seen: set[str] = set()
    sources: dict[str, str] = {}
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        top = module.split(".")[0]
        if top in _OURS:
            sources |= import_closure([module])
        elif top not in sys.stdlib_module_names and top not in _BENEATH_ALL:
            if distributions := _distributions(top):
                sources |= distributions
            elif path := _file_of(module):
                names, entry = _read(module, path)
                sources |= entry
                waiting.extend(names)
    return dict(sorted(sources.items()))


def _read(module: str, path: Path) -> tuple[list[str], dict[str, str]]:
    """What the module's file imports, and its path with its digest."""
    is_package = path.name == "__init__.py"
    package = module if is_package else module.rpartition(".")[0]
    try:
        tree = syntax_tree(path)
    except SyntaxError as error:
        raise ValueError(
            f"{path}, line {error.lineno}: {error.msg}; mend it, because a network's target is in it"
        ) from error
    depth = len(module.split(".")) + is_package
    names = imports(tree, package)
    # Importing a module runs the packages around it.
    names += [".".join(name.split(".")[:end]) for name in names for end in range(1, name.count(".") + 1)]
    return names, {Path(*path.parts[-depth:]).as_posix(): tree_digest(tree)}


def _locations(top: str) -> Iterator[Path]:
    """Where Python finds a package or module of the first level."""
    spec = importlib.util.find_spec(top)
    if spec is None:
        return
    if spec.submodule_search_locations is not None:
        yield from map(Path, spec.submodule_search_locations)
    elif spec.origin:
        yield Path(spec.origin)


@lru_cache(maxsize=64)
def _distributions(top: str) -> dict[str, str]:
    """Name and version of what installed a package; nothing of one that lies elsewhere, as one's own does."""
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    if not any(folder in path.resolve().parents for path in _locations(top) for folder in installed):
        return {}
    names = importlib.metadata.packages_distributions().get(top, [])
    return {f"distribution {name}": importlib.metadata.version(name) for name in sorted(set(names))}


def _file_of(module: str) -> Path | None:
    """The Python file of a module, found without importing the packages around it."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    name = top
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = importlib.machinery.PathFinder.find_spec(name, spec.submodule_search_locations)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)
