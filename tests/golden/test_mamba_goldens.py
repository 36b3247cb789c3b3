"""Mamba's language model against transformers' with filled parameters (`tests/fillings.py`)."""

from __future__ import annotations

import pytest
import torch

from repro_models.sequence import mamba
from tests.fillings import assert_float32_golden, fill

VARIANT = mamba.VARIANTS["reference_small"]


@pytest.mark.parametrize(
    ("filling", "total", "mean", "std", "first"),
    [
        ("constant", 1.952693, 0.003051082, 0.0, [0.003051082] * 8),
        (
            "hashed",
            15.72565,
            0.02457132,
            1.05315,
            [1.58648, 1.336275, 1.924684, 0.07716515, -1.32796, 1.729022, -0.2889413, -1.343795],
        ),
    ],
)
def test_output_equals_the_authors(filling: str, total: float, mean: float, std: float, first: list[float]) -> None:
    network = mamba.build(VARIANT.config, VARIANT.problem).double().eval()
    fill(network, filling)
    with torch.no_grad():
        output = network(torch.arange(10)[None])
    assert output.shape == (1, 10, 64)
    assert_float32_golden(output, total, mean, std, first)
