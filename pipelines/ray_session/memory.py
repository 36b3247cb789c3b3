"""Memory that is free, and how many processes of a need it is enough for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

# The estimate of a need is rough, and others on this machine want memory too.
_USED_SHARE = 0.8
_UNLIMITED = 2**60


def free_bytes(root: Path = Path("/")) -> int:
    """Bytes that new processes can take without swapping: what the kernel calls available, or less in a control group.

    A container or a batch job lives in a control group (version 1 or 2), whose limit the kernel's figure leaves out.

    Args:
        root: of the file system; another one in tests.
    """
    lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    kibibytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return min([kibibytes * 1024, *_left_in_control_groups(root)])


def num_that_fit(needs: Sequence[int], free: int) -> int:
    """How many of the largest needs can be met at once; one at least, because there is no way without it.

    Args:
        needs: bytes of each piece of work.
        free: bytes.
    """
    total = 0
    for number, need in enumerate(sorted(needs, reverse=True)):
        total += need
        if total > _USED_SHARE * free:
            return max(number, 1)
    return max(len(needs), 1)


def _left_in_control_groups(root: Path) -> Iterator[int]:
    """What each memory limit above this process leaves; pages that only cache files can be taken back."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        is_second = not controllers
        if not is_second and "memory" not in controllers.split(","):
            continue
        top = root / ("sys/fs/cgroup" if is_second else "sys/fs/cgroup/memory")
        names = ("memory.max", "memory.current") if is_second else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        group = top / path.strip("/")
        # A limit higher up counts as well. In a container the path is the host's, and the container's own is the top.
        for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(top))):
            try:
                limit, used = ((folder / name).read_text(encoding="ascii").strip() for name in names)
                statistics = (folder / "memory.stat").read_text(encoding="ascii")
            except OSError:
                continue
            if limit != "max" and int(limit) < _UNLIMITED:
                figures = dict(line.split(" ", 1) for line in statistics.splitlines())
                cached = int(figures.get("inactive_file" if is_second else "total_inactive_file", 0))
                yield max(int(limit) - int(used) + cached, 0)
