"""How a command ends: one line for the user's mistakes, no traceback."""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Callable

INTERRUPTED = 130


def exits_cleanly(main: Callable[..., None]) -> Callable[..., None]:
    """Turn `ValueError` and a full disk into one line and exit code 1, Ctrl-C into a hint and exit code 130."""

    @functools.wraps(main)
    def wrapped(*arguments: object) -> None:
        try:
            main(*arguments)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1) from None
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            where = f"{error.filename}: " if error.filename else ""
            print(
                f"error: {where}disk full while writing; free some space and run the same command again, "
                "finished work is kept",
                file=sys.stderr,
            )
            raise SystemExit(1) from None
        except KeyboardInterrupt:
            print("interrupted: nothing is lost; run the same command again to go on", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None

    return wrapped
