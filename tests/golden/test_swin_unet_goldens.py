"""Swin-Unet against the authors' code with filled parameters (`tests/fillings.py`).

The constant filling makes every output 0.0024: behind the last normalisation all 24 channels are 0.01, and so are the
weights of the head. It can only see the form of the head.
"""

from __future__ import annotations

import pytest

from repro_models.segmentation import swin_unet
from tests.fillings import assert_golden, golden_output

VARIANT = swin_unet.VARIANTS["reference_small"]


@pytest.mark.parametrize(
    ("filling", "total", "mean", "std", "first"),
    [
        ("constant", 29.4912, 0.0024, 0.0, [0.0024] * 8),
        (
            "sine",
            2046.515,
            0.1665458,
            2.19609,
            [1.132773, 2.555761, -2.485495, 0.7761769, 1.184219, 2.517033, -2.50471, 0.8287912],
        ),
    ],
)
def test_output_equals_the_authors(filling: str, total: float, mean: float, std: float, first: list[float]) -> None:
    output = golden_output(swin_unet.build(VARIANT.config, VARIANT.problem), filling, (1, 2, 64, 64))
    assert output.shape == (1, 3, 64, 64)
    assert_golden(output, total, mean, std, first)
