from __future__ import annotations

import pytest

from pipelines.planning.topology import topology


# measured with nnunetv2 2.8.1 (reference/nnunet_rules.md, section 4.7)
@pytest.mark.parametrize(
    ("spacing", "patch", "padded", "strides", "kernels"),
    [
        ((1, 1, 1), (36, 50, 35), (40, 56, 40), "111 222 222 222", "333 333 333 333"),
        ((5, 0.8, 0.8), (32, 224, 224), (32, 224, 224), "111 122 122 222 222 222", "133 133 333 333 333 333"),
        ((1, 1, 1), (11, 40, 40), (12, 40, 40), "111 222 122 122", "333 333 333 333"),
        ((1, 1), (11, 40), (12, 40), "11 22 12", "33 33 33"),
        ((3, 1, 1), (12, 64, 64), (12, 64, 64), "111 122 222 122 122", "133 333 333 333 333"),
        ((1, 1, 1), (7, 7, 7), (7, 7, 7), "111", "333"),
    ],
)
def test_topology_is_that_of_nnunet(
    spacing: tuple[float, ...], patch: tuple[int, ...], padded: tuple[int, ...], strides: str, kernels: str
) -> None:
    result = topology(spacing, patch)
    assert result.patch_size == padded
    assert " ".join("".join(map(str, stage)) for stage in result.strides) == strides
    assert " ".join("".join(map(str, stage)) for stage in result.kernel_sizes) == kernels
    assert all(side % step == 0 for side, step in zip(result.patch_size, result.divisor, strict=True))


def test_a_lone_axis_needs_twelve_voxels() -> None:
    assert topology((1, 1, 1), (11, 4, 4)).divisor == (1, 1, 1)
    assert topology((1, 1, 1), (12, 4, 4)).divisor == (2, 1, 1)
