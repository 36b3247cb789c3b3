"""Outputs of a transcription of V-Net's Caffe code under two fixed fillings, in float64 (`tests/fillings.py`)."""

from __future__ import annotations

import pytest

from repro_models.segmentation import vnet
from tests.fillings import assert_golden, golden_output

GOLDENS = [
    pytest.param(
        "constant",
        2.076335e16,
        633647100000.0,
        371605200000.0,
        [
            22761990000.0,
            33736800000.0,
            46142470000.0,
            53697570000.0,
            60091270000.0,
            63919100000.0,
            66753130000.0,
            68054040000.0,
        ],
        id="constant",
    ),
    pytest.param(
        "sine",
        5512.754,
        0.1682359,
        1.153044,
        [0.6008522, 0.2125689, -0.1206635, 0.007806464, 0.1365949, 0.2095701, 0.2448762, 0.2755622],
        id="sine",
    ),
]


@pytest.mark.parametrize(("filling", "total", "mean", "std", "first"), GOLDENS)
def test_output_equals_the_reference_transcription(
    filling: str, total: float, mean: float, std: float, first: list[float]
) -> None:
    variant = vnet.VARIANTS["reference_small"]
    output = golden_output(vnet.build(variant.config, variant.problem), filling, (1, 1, 32, 32, 16))
    assert output.shape == (1, 2, 32, 32, 16)
    assert_golden(output, total, mean, std, first)
