"""Outputs of the authors' TransUNet under two fixed fillings of the parameters, in float64 (`tests/fillings.py`)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from repro_models.segmentation import transunet
from tests.fillings import assert_golden, fill


@pytest.mark.parametrize(
    ("filling", "total", "mean", "std", "first"),
    [
        pytest.param(
            "constant",
            210.144,
            0.01710156,
            0.0005905297,
            [0.01321617, 0.0148259, 0.01482915, *[0.01482916] * 5],
            id="constant",
        ),
        pytest.param(
            "sine",
            890.3867,
            0.07245986,
            0.03124225,
            [0.09415635, 0.09511571, 0.09819145, 0.09792306, 0.09749112, 0.09729964, 0.09717743, 0.09703175],
            id="sine",
        ),
    ],
)
def test_output_equals_the_authors_code(
    filling: str, total: float, mean: float, std: float, first: list[float]
) -> None:
    variant = transunet.VARIANTS["reference_small"]
    network: Any = transunet.build(variant.config, variant.problem).double().eval()
    fill(network, filling)
    with torch.no_grad():
        # Query, key and value are three layers there, each filled from the beginning; here they are one.
        for block in network.transformer.blocks:
            for parameter in block.query_key_value.parameters():
                parameter.copy_(torch.cat([parameter.chunk(3)[0]] * 3))
        output = network(torch.linspace(0, 1, 3 * 64 * 64, dtype=torch.float64).reshape(1, 3, 64, 64))
    assert output.shape == (1, 3, 64, 64)
    assert_golden(output, total, mean, std, first)
