from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.tracking import provenance
from pipelines.tracking.provenance import code_digest, digest_of, files_digest, git_commit, import_closure, machine

FILES = {
    "pipelines/__init__.py": "",
    "pipelines/a.py": """
        import os
        from typing import TYPE_CHECKING
        from pipelines.b import thing
        if TYPE_CHECKING:
            from pipelines.only_types import Kind
        def work():
            from pipelines.part import late
            return late
        def write_files():
            from pipelines.far import away
            return away
        class Later:
            def method(self):
                import pipelines.in_method
        """,
    "pipelines/b.py": "def thing():\n    return 1\n",
    "pipelines/part/__init__.py": "",
    "pipelines/part/late.py": "import repro_models.x\n",
    "pipelines/far/__init__.py": "from pipelines import b\n",
    "pipelines/far/away.py": "",
    "pipelines/in_method.py": "from pipelines import a\n",
    "pipelines/only_types.py": "",
    "pipelines/unused.py": "",
    "repro_models/__init__.py": "",
    "repro_models/x.py": "",
}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    monkeypatch.setattr(provenance, "ROOT", tmp_path)

    def put(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.splitlines()
        indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
        path.write_text("".join(line[indent:] + "\n" for line in lines), encoding="utf-8")

    for name, text in FILES.items():
        put(name, text)
    return put


@pytest.mark.usefixtures("write")
def test_the_closure_has_what_runs_and_nothing_else() -> None:
    files = import_closure(["pipelines.a"])
    assert list(files) == [
        "pipelines/__init__.py",
        "pipelines/a.py",
        "pipelines/b.py",
        "pipelines/far/__init__.py",
        "pipelines/far/away.py",
        "pipelines/in_method.py",
        "pipelines/part/__init__.py",
        "pipelines/part/late.py",
        "repro_models/__init__.py",
        "repro_models/x.py",
    ]
    assert all(len(digest) == 64 for digest in files.values())


@pytest.mark.usefixtures("write")
def test_imports_of_a_function_that_is_skipped_are_left_out() -> None:
    files = import_closure(["pipelines.a"], skipped_functions=["pipelines.a.write_files"])
    assert set(import_closure(["pipelines.a"])) - set(files) == {"pipelines/far/__init__.py", "pipelines/far/away.py"}


@pytest.mark.usefixtures("write")
def test_a_function_is_skipped_in_its_own_module_only() -> None:
    skipped = ["pipelines.b.write_files"]
    assert import_closure(["pipelines.a", "pipelines.b"], skipped) == import_closure(["pipelines.a"])


SAME = {
    "comment": "# hello\ndef thing():\n    return 1  # one\n",
    "layout": "\n\ndef thing( ) :\n\n    return (1)\n",
    "docstring of the module": '"""Says more."""\ndef thing():\n    return 1\n',
    "docstring of the function": 'def thing():\n    """Give one."""\n    return 1\n',
}
OTHER = {
    "value": "def thing():\n    return 2\n",
    "name": "def thing_():\n    return 1\n",
    "default": "def thing(a=1):\n    return 1\n",
    "decorator": "@print\ndef thing():\n    return 1\n",
    "text that is no docstring": "def thing():\n    return '1'\n",
    "import": "import os\ndef thing():\n    return 1\n",
}


@pytest.mark.parametrize("change", SAME)
def test_what_does_not_run_does_not_change_the_digest(write: Callable[[str, str], None], change: str) -> None:
    before, digest = import_closure(["pipelines.a"]), code_digest(["pipelines.a"])
    write("pipelines/b.py", SAME[change])
    assert import_closure(["pipelines.a"]) == before
    assert code_digest(["pipelines.a"]) == digest


@pytest.mark.parametrize("change", OTHER)
def test_code_changes_the_digest_of_its_file_alone(write: Callable[[str, str], None], change: str) -> None:
    before, digest = import_closure(["pipelines.a"]), code_digest(["pipelines.a"])
    write("pipelines/b.py", OTHER[change])
    after = import_closure(["pipelines.a"])
    assert {name for name in before if before[name] != after[name]} == {"pipelines/b.py"}
    assert code_digest(["pipelines.a"]) != digest


def test_a_function_with_nothing_but_a_docstring_can_be_read(write: Callable[[str, str], None]) -> None:
    write("pipelines/b.py", 'def thing():\n    """Nothing."""\n')
    first = import_closure(["pipelines.b"])
    write("pipelines/b.py", "def thing():\n    pass\n")
    assert import_closure(["pipelines.b"]) == first


def test_digests_of_values_ignore_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert digest_of([1, 2]) != digest_of([2, 1])


def test_digests_of_files_tell_contents_and_borders(tmp_path: Path) -> None:
    for name, text in (("a", "12"), ("b", "3"), ("c", "1"), ("d", "23")):
        (tmp_path / name).write_text(text)
    a, b, c, d = (tmp_path / name for name in "abcd")
    assert files_digest(a, b) == files_digest(a, b)
    assert len({files_digest(a, b), files_digest(b, a), files_digest(c, d), files_digest(a)}) == 4


def test_git_tells_the_commit_and_whether_files_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() is None

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    Path("a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "first")
    git("tag", "named")
    commit = git("rev-parse", "HEAD")
    assert git_commit() == commit
    Path("untracked").write_text("1")
    assert git_commit() == commit
    for name in ("params.yaml", "dvc.lock"):
        Path(name).write_text("1")
        git("add", name)
    git("commit", "-qm", "second")
    commit = git("rev-parse", "HEAD")
    for name in ("params.yaml", "dvc.lock"):
        Path(name).write_text("2")
    assert git_commit() == commit, "the study and what a run writes stand elsewhere"
    Path("a").write_text("2")
    assert git_commit() == f"{commit}-dirty"


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    assert git_commit() is None


def test_the_machine_is_told_without_loading_torch() -> None:
    told = machine()
    assert told["num_cores"] == len(os.sched_getaffinity(0))
    assert told["processor"]
    assert set(told) == {"processor", "num_cores", "accelerator", "python", "torch", "ray", "numpy"}
