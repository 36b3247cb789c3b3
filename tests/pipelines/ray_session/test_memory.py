from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.ray_session.memory import free_bytes, num_that_fit

GIB = 2**30


def machine(root: Path, available_gib: int, groups: dict[str, str], membership: str) -> Path:
    """Files of a machine: /proc/meminfo, the control groups (path below /sys/fs/cgroup to content), and ours."""
    files = {f"sys/fs/cgroup/{path}": content for path, content in groups.items()}
    files["proc/meminfo"] = f"MemTotal: {64 * 2**20} kB\nMemAvailable:   {available_gib * 2**20} kB\n"
    files["proc/self/cgroup"] = membership
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="ascii")
    return root


def second(folder: str, limit: str, used_gib: int, cached_gib: int = 0) -> dict[str, str]:
    return {
        f"{folder}memory.max": f"{limit}\n",
        f"{folder}memory.current": f"{used_gib * GIB}\n",
        f"{folder}memory.stat": f"anon 5\ninactive_file {cached_gib * GIB}\n",
    }


def test_without_a_limit_the_kernels_figure_counts(tmp_path: Path) -> None:
    assert free_bytes(machine(tmp_path, 20, second("job/", "max", 3), "0::/job\n")) == 20 * GIB


def test_a_limit_counts_and_cached_files_are_free(tmp_path: Path) -> None:
    groups = second("job/", str(8 * GIB), 5, cached_gib=2)
    assert free_bytes(machine(tmp_path, 20, groups, "0::/job\n")) == 5 * GIB


def test_a_limit_higher_up_counts(tmp_path: Path) -> None:
    groups = second("job/", str(4 * GIB), 1) | second("job/step/", "max", 1)
    assert free_bytes(machine(tmp_path, 20, groups, "0::/job/step\n")) == 3 * GIB


def test_in_a_container_the_limit_is_at_the_top(tmp_path: Path) -> None:
    groups = second("", str(2 * GIB), 1)
    assert free_bytes(machine(tmp_path, 20, groups, "0::/docker/0123\n")) == GIB


def test_limits_of_the_first_version_count(tmp_path: Path) -> None:
    groups = {
        "memory/job/memory.limit_in_bytes": f"{6 * GIB}",
        "memory/job/memory.usage_in_bytes": f"{2 * GIB}",
        "memory/job/memory.stat": f"inactive_file 7\ntotal_inactive_file {GIB}\n",
        "memory/memory.limit_in_bytes": "9223372036854771712",
        "memory/memory.usage_in_bytes": f"{2 * GIB}",
        "memory/memory.stat": "",
    }
    membership = "5:cpu,cpuacct:/other\n4:memory:/job\n0::/\n"
    assert free_bytes(machine(tmp_path, 20, groups, membership)) == 5 * GIB


def test_no_control_groups_at_all(tmp_path: Path) -> None:
    root = machine(tmp_path, 20, {}, "")
    (root / "proc/self/cgroup").unlink()
    assert free_bytes(root) == 20 * GIB


def test_this_machine_has_some_memory() -> None:
    assert free_bytes() > 2**24


@pytest.mark.parametrize(
    ("needs", "expected"),
    [([1, 1, 1], 3), ([5, 1, 1], 3), ([5, 4, 1], 1), ([4, 4, 1, 1], 2), ([90, 1], 1), ([], 1), ([8], 1), ([4, 4], 2)],
)
def test_as_many_of_the_largest_as_fit_four_fifths(needs: list[int], expected: int) -> None:
    assert num_that_fit(needs, 10) == expected
