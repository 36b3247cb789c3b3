from __future__ import annotations

import errno
import os

import pytest

from pipelines.atomic_files import DiskFullError
from pipelines.exits import exits_cleanly


def ended_by(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[object, list[str]]:
    @exits_cleanly
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.__cause__ is None
    assert end.value.__suppress_context__
    output = capsys.readouterr()
    assert output.out == ""
    return end.value.code, output.err.splitlines()


@pytest.mark.parametrize("kind", [ValueError, DiskFullError])
def test_a_mistake_of_the_user_is_one_line_and_code_1(
    kind: type[ValueError], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended_by(kind("b.nii.gz: cut short; copy it again"), capsys) == (
        1,
        ["error: b.nii.gz: cut short; copy it again"],
    )


def test_ctrl_c_is_a_hint_and_code_130(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = ended_by(KeyboardInterrupt(), capsys)
    assert code == 130
    assert lines == ["interrupted: nothing is lost; run the same command again to go on"]


def test_a_full_disk_outside_an_atomic_write_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "events.jsonl")
    code, lines = ended_by(error, capsys)
    assert code == 1
    assert lines == [
        "error: events.jsonl: disk full while writing; free some space and run the same command again, "
        "finished work is kept"
    ]


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "no"), AssertionError(), KeyError("a")])
def test_an_error_of_ours_keeps_its_traceback(error: Exception) -> None:
    @exits_cleanly
    def main() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        main()
    assert raised.value is error


def test_arguments_pass_and_a_good_end_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    exits_cleanly(lambda *arguments: seen.append(arguments))("a", "b")
    assert seen == [("a", "b")]
    assert capsys.readouterr() == ("", "")
