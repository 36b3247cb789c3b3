"""Outputs of a transcription of U-Net's figure 1 under two fixed fillings, in float64 (`tests/fillings.py`)."""

from __future__ import annotations

import pytest

from repro_models.segmentation import unet
from tests.fillings import assert_golden, golden_output

GOLDENS = [
    pytest.param(
        "constant",
        13038.77,
        407.4617,
        1.860504,
        [404.9977, 405.0056, 405.0158, 405.0237, 406.4918, 406.4998, 406.5099, 406.5179],
        id="constant",
    ),
    pytest.param(
        "sine",
        5.180721,
        0.1618975,
        0.06884141,
        [0.2271315, 0.2271413, 0.2271313, 0.2271412, 0.23417, 0.2341608, 0.2341699, 0.2341607],
        id="sine",
    ),
]


@pytest.mark.parametrize(("filling", "total", "mean", "std", "first"), GOLDENS)
def test_output_equals_the_reference_transcription(
    filling: str, total: float, mean: float, std: float, first: list[float]
) -> None:
    variant = unet.VARIANTS["reference_small"]
    output = golden_output(unet.build(variant.config, variant.problem), filling, (1, 1, 188, 188))
    assert output.shape == (1, 2, 4, 4)
    assert_golden(output, total, mean, std, first)
