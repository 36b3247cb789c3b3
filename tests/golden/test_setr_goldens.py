"""Outputs of the authors' SETR under two fixed fillings of the parameters, in float64 (`tests/fillings.py`).

The constant filling of the naive decoder is left out: its logits are one constant, which shows nothing.
"""

from __future__ import annotations

import pytest

from repro_models.segmentation import setr
from tests.fillings import assert_golden, golden_output


@pytest.mark.parametrize(
    ("variant", "filling", "total", "mean", "std", "first"),
    [
        pytest.param("reference_naive", "sine", 8932.78, 0.4361709, 1.4945, [2.090588] * 8, id="naive-sine"),
        pytest.param(
            "reference_pup",
            "constant",
            881.5373,
            0.04304381,
            0.0008858503,
            [0.03884714, 0.03923404, 0.04000784, 0.0404158, 0.04045793, 0.04049537, 0.04052813, 0.04055093],
            id="pup-constant",
        ),
        pytest.param(
            "reference_pup",
            "sine",
            5272.419,
            0.2574423,
            0.8733078,
            [1.270903, 1.270908, 1.270917, 1.270923, 1.270923, 1.270924, 1.270924, 1.270925],
            id="pup-sine",
        ),
    ],
)
def test_output_equals_the_authors_code(
    variant: str, filling: str, total: float, mean: float, std: float, first: list[float]
) -> None:
    network = setr.build(setr.VARIANTS[variant].config, setr.VARIANTS[variant].problem)
    output = golden_output(network, filling, (1, 2, 64, 64))
    assert output.shape == (1, 5, 64, 64)
    assert_golden(output, total, mean, std, first)
