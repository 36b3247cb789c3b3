"""Run a command beside a Ray head of this machine: `python -m pipelines.ray_session.head dvc repro`.

The command finds the head by `RAY_ADDRESS`, so that the stages it starts attach in no time instead of starting
Ray again and again, and they share its workers. An address that is already set is used as it is.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from pipelines.exits import exits_cleanly
from pipelines.ray_session.dispatcher import dispatcher
from pipelines.ray_session.session import is_on_cluster, local_head


def _run(command: list[str], told: dict[str, str]) -> int:
    process = subprocess.Popen(command, env=os.environ | told)
    # Ctrl-C reaches the command as well; it decides how to end, and this process waits for it.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)


@exits_cleanly
def main() -> None:
    """Entry point."""
    command = sys.argv[1:]
    if not command:
        raise ValueError("no command given: python -m pipelines.ray_session.head COMMAND [ARGUMENT ...]")
    if is_on_cluster():
        raise SystemExit(_run(command, {}))
    with local_head() as address, dispatcher() as told:
        code = _run(command, told | {"RAY_ADDRESS": address})
    raise SystemExit(code)


if __name__ == "__main__":
    main()
