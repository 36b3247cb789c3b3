"""U-Mamba_Bot against the authors' code with filled parameters (`tests/fillings.py`)."""

from __future__ import annotations

import pytest

from repro_models.segmentation import u_mamba
from tests.fillings import assert_float32_golden, golden_output

VARIANT = u_mamba.VARIANTS["reference_small"]


@pytest.mark.parametrize(
    ("filling", "total", "mean", "std", "first"),
    [
        (
            "constant",
            146.42,
            0.01191569,
            0.0009466586,
            [0.01082604, 0.01082573, 0.01082694, 0.01082762, 0.01082934, 0.01082983, 0.01083046, 0.01083061],
        ),
        (
            "hashed",
            7380.529,
            0.600629,
            2.179581,
            [4.869371, 2.551606, 2.430211, 2.176682, 2.255704, 2.317577, 2.005095, 2.170462],
        ),
    ],
)
def test_output_equals_the_authors(filling: str, total: float, mean: float, std: float, first: list[float]) -> None:
    output = golden_output(u_mamba.build(VARIANT.config, VARIANT.problem), filling, (1, 2, 16, 16, 16))
    assert output.shape == (1, 3, 16, 16, 16)
    assert_float32_golden(output, total, mean, std, first)
