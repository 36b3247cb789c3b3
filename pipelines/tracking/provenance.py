"""Which code, commit, data and machine stand behind a result."""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("repro_models", "pipelines", "stages")


def import_closure(modules: Iterable[str], skipped_functions: Iterable[str] = ()) -> dict[str, str]:
    """Files that the modules import, directly or not, with the digest of each file's meaning.

    The digest is of the syntax tree without docstrings, so comments and layout do not change it. Imports inside
    functions count. Modules that are found by name at run time must be given as roots.

    Args:
        modules: dotted names to start from, for example `repro_models.segmentation.nnunet`.
        skipped_functions: dotted names of functions of modules, which count neither themselves nor by their imports.

    Returns:
        Path below the repository -> sha256, sorted by path.
    """
    skipped = frozenset(skipped_functions)
    waiting, files = sorted(set(modules)), {}
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        path = _file_of(module)
        if path is None:
            continue
        tree = syntax_tree(path)
        tree.body = [
            node for node in tree.body if not (isinstance(node, ast.FunctionDef) and f"{module}.{node.name}" in skipped)
        ]
        files[path.relative_to(ROOT).as_posix()] = tree_digest(tree)
        waiting.extend(imports(tree))
        # Importing a module runs the packages around it.
        parts = module.split(".")
        waiting.extend(".".join(parts[:end]) for end in range(1, len(parts)))
    return dict(sorted(files.items()))


def syntax_tree(path: Path) -> ast.Module:
    """What a Python file means: its syntax tree without docstrings."""
    return _without_docstrings(ast.parse(path.read_text(encoding="utf-8"), str(path)))


def tree_digest(tree: ast.AST) -> str:
    """Sha256 of a syntax tree."""
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def code_digest(modules: Iterable[str]) -> str:
    """One digest over `import_closure(modules)`."""
    return digest_of(import_closure(modules))


def digest_of(value: object) -> str:
    """Sha256 of a JSON-like value; equal values have equal digests whatever their order of keys."""
    import json

    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def files_digest(*paths: Path | str) -> str:
    """Sha256 over the contents of files, in the order given."""
    total = hashlib.sha256()
    for path in paths:
        total.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return total.hexdigest()


def git_commit() -> str | None:
    """Commit of the working folder, with `-dirty` when tracked files differ from it; None outside git.

    `params.yaml` and `dvc.lock` may differ: a report shows the one, and every run writes the other.
    """
    told_elsewhere = [":(exclude,top)params.yaml", ":(exclude,top)dvc.lock"]
    commit = _git("rev-parse", "HEAD")
    if commit is None or commit.returncode:
        return None
    difference = _git("diff", "--quiet", "HEAD", "--", ":(top)", *told_elsewhere)
    is_clean = difference is not None and difference.returncode == 0
    return commit.stdout.strip() + ("" if is_clean else "-dirty")


def _git(*arguments: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def machine() -> dict[str, str | int]:
    """Processor, cores, accelerator and versions of the main packages."""
    from importlib.metadata import version

    return {
        "processor": _processor_name(),
        "num_cores": len(os.sched_getaffinity(0)),
        "accelerator": _accelerator_name(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "ray", "numpy")},
    }


def _accelerator_name() -> str:
    names = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = path.read_text(encoding="utf-8").splitlines()
        names += [line.split(":", 1)[1].strip() for line in lines if line.startswith("Model:")]
    return ", ".join(names) or "none"


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _file_of(module: str) -> Path | None:
    if module.split(".")[0] not in _PACKAGES:
        return None
    path = ROOT.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def imports(tree: ast.AST, package: str = "") -> list[str]:
    """Dotted names that a module imports or may import; relative ones are resolved within `package`, if it is given."""
    found = []
    # What is imported for annotations alone does not run.
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (package or not node.level):
            origin = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                origin = ".".join([*parents, *filter(None, [node.module])])
            # `from package import name`: the name may be a module of the package.
            found += [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
    return found


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return tree
