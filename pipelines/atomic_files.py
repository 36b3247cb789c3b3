"""Write a file whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DiskFullError(ValueError):
    """No space left while a file was written; what was there before is untouched."""


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; move it to `path` when the block ends well.

    A reader sees the old file or the new one, never a part. The temporary name keeps the suffix of `path`.

    Raises:
        DiskFullError: the disk is full; the old file is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFullError(
                f"{path}: disk full while writing; free some space and run the same command again, "
                "finished work is kept"
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` atomically, UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def link(source: Path | str, target: Path | str) -> None:
    """Let `target` be the file `source` by a hard link, or a copy of it where the file system has none; atomically."""
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
