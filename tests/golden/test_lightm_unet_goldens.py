"""LightM-UNet against the authors' code with filled parameters (`tests/fillings.py`)."""

from __future__ import annotations

import pytest

from repro_models.segmentation import lightm_unet
from tests.fillings import assert_float32_golden, golden_output

VARIANT = lightm_unet.VARIANTS["reference_small"]


@pytest.mark.parametrize(
    ("filling", "total", "mean", "std", "first"),
    [
        (
            "constant",
            221.3478,
            0.010808,
            5.721462e-07,
            [0.01080653, 0.01080669, 0.01080672, 0.01080673, 0.01080673, 0.01080673, 0.01080673, 0.01080673],
        ),
        (
            "hashed",
            36979.59,
            1.805644,
            3.121831,
            [3.545703, 3.417111, 4.246979, 4.377327, 5.106176, 4.920574, 4.832248, 4.656298],
        ),
    ],
)
def test_output_equals_the_authors(filling: str, total: float, mean: float, std: float, first: list[float]) -> None:
    output = golden_output(lightm_unet.build(VARIANT.config, VARIANT.problem), filling, (1, 2, 16, 16, 16))
    assert output.shape == (1, 5, 16, 16, 16)
    assert_float32_golden(output, total, mean, std, first)
