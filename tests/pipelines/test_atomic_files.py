from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.atomic_files import DiskFullError, atomic_path, write_text
from tests.full_disk import put_on_full_disk


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_the_block_ends_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.suffix == ".json"
    assert path.read_text() == "whole"
    assert names(path.parent) == ["a.json"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_whatever_stops_the_writing_the_old_file_stays(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []


def _text(path: Path) -> None:
    write_text(path, "new")


def _arrow(path: Path) -> None:
    from pipelines.preprocessing.shards import write_case

    write_case(path, np.zeros((1, 4, 4, 4), np.float32), np.zeros((4, 4, 4), np.int16), {}, {})


def _cases(path: Path) -> None:
    from pipelines.cases.case import write_cases

    write_cases(path, [])


def _label(path: Path) -> None:
    import nibabel as nib

    from pipelines.cases.nifti import write_label

    like = path.with_name("like.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), like)
    write_label(path, np.zeros((4, 4, 4), np.uint8), str(like))
    like.unlink()


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.txt", _text),
        ("case.arrow", _arrow),
        ("cases.parquet", _cases),
        ("label.nii.gz", _label),
    ],
)
def test_a_full_disk_is_told_in_words_and_the_old_file_stays(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    path = tmp_path / name
    path.write_text("old")
    put_on_full_disk(path)
    with pytest.raises(DiskFullError, match=rf"{name}: disk full while writing; free some space and run the same"):
        write(path)
    assert path.read_text() == "old"
    assert [left for left in names(tmp_path) if left != "like.nii.gz"] == [name]


def test_another_error_of_the_system_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(OSError) as error, atomic_path(tmp_path / "a.txt"):
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    assert not isinstance(error.value, ValueError)
