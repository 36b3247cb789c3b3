"""Outputs of a transcription of SegNet's published definition under two fixed fillings (`tests/fillings.py`)."""

from __future__ import annotations

import pytest

from repro_models.contract import Problem
from repro_models.segmentation import segnet
from tests.fillings import assert_golden, golden_output

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("filling", "total", "mean", "std", "first"),
    [
        pytest.param(
            "constant",
            365.0501,
            0.06760188,
            0.005360773,
            [0.03603007, 0.04913432, 0.0491365, 0.0492279, 0.04914087, 0.04923012, 0.04914094, 0.04923019],
            id="constant",
        ),
        pytest.param(
            "sine",
            525.7669,
            0.09736423,
            0.01580121,
            [0.08409051, 0.07538864, 0.06976902, 0.07104948, 0.07239098, 0.07241338, 0.07230008, 0.0723165],
            id="sine",
        ),
    ],
)
def test_output_at_odd_sides_equals_the_transcription(
    filling: str, total: float, mean: float, std: float, first: list[float]
) -> None:
    network = segnet.build(segnet.Config(), Problem(2, 1, 2))
    output = golden_output(network, filling, (1, 1, 45, 60))
    assert output.shape == (1, 2, 45, 60)
    assert_golden(output, total, mean, std, first)
