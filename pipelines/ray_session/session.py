"""Attach to a Ray cluster, or start one for this machine.

`RAY_ADDRESS` names the cluster to attach to. Without it, nothing here runs on Ray unless `start_local` is called,
because `ray.init` costs seconds that short stages would pay each time.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Ray writes its sockets below this folder, and a socket path may have 107 characters at most.
_SESSION_DIR = Path("/tmp/ray")
_ANSWER_SECONDS = 10


def is_on_cluster() -> bool:
    """Whether the environment names a Ray cluster."""
    return bool(os.environ.get("RAY_ADDRESS"))


def num_local_cpus() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0))


def num_local_gpus() -> int:
    """CUDA devices this process may use. Does not import torch, which takes seconds, where there is no driver."""
    if not Path("/proc/driver/nvidia").exists():
        return 0
    import torch

    return torch.cuda.device_count()


def num_gpus() -> int:
    """CUDA devices that work can go to: the cluster's where there is one, else this machine's."""
    if not is_on_cluster():
        return num_local_gpus()
    import ray

    with attached():
        return int(ray.cluster_resources().get("GPU", 0))


@contextmanager
def attached() -> Iterator[None]:
    """Be connected to the cluster of `RAY_ADDRESS` within the block.

    Raises:
        ValueError: no cluster answers at that address.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ["RAY_ADDRESS"]
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING, configure_logging=True)
    except (ConnectionError, TimeoutError, socket.gaierror) as error:
        raise ValueError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there ({error}); "
            "start one (`ray start --head`) or unset RAY_ADDRESS to use this machine alone"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    # Ray itself tries for minutes before it gives up.
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()


@contextmanager
def local_head(num_cpus: int | None = None) -> Iterator[str]:
    """Start a cluster of this machine alone, give its address, and end it with the block.

    It ends with this process whatever happens, and no other cluster of the user is touched.
    """
    import ray

    context = _start(num_cpus or num_local_cpus())
    try:
        yield context.address_info["gcs_address"]
    finally:
        ray.shutdown()


def _start(num_cpus: int, is_last_try: bool = False) -> Any:
    import ray

    try:
        return ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=True,
            logging_level=logging.WARNING,
            _temp_dir=str(_SESSION_DIR),
            # A worker that waits for the next stage is no waste: it has torch imported.
            _system_config={"idle_worker_killing_time_threshold_ms": 86_400_000},
        )
    except Exception as error:
        # Ray gives its processes 30 s and raises a bare Exception when a busy machine needs longer.
        if "timed out during startup" not in str(error):
            raise
        ray.shutdown()
        if is_last_try:
            raise ValueError(
                "Ray did not start on this machine within 30 s, twice; it is overloaded: run the same command again "
                "when it is less busy"
            ) from error
        return _start(num_cpus, is_last_try=True)
