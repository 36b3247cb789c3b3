"""Vision Mamba against the authors' code with filled parameters (`tests/fillings.py`)."""

from __future__ import annotations

import pytest

from repro_models.classification import vision_mamba
from tests.fillings import assert_float32_golden, golden_output


@pytest.mark.parametrize(
    ("variant", "shape", "filling", "golden"),
    [
        ("reference_small", (1, 3, 32, 32), "constant", (0.1031877, 0.0147411, 4.978129e-10, [0.0147411] * 7)),
        (
            "reference_small",
            (1, 3, 32, 32),
            "hashed",
            (
                3.800117,
                0.5428739,
                1.317376,
                [1.332988, 1.987269, -2.005685, 0.6130979, -0.2205983, 0.8098494, 1.283196],
            ),
        ),
        ("reference_odd", (1, 5, 36, 36), "constant", (0.1534601, 0.01395092, 4.350202e-10, [0.01395092] * 8)),
        (
            "reference_odd",
            (1, 5, 36, 36),
            "hashed",
            (
                16.36649,
                1.487863,
                0.9752896,
                [1.066418, 0.4048728, 1.818434, 0.7038827, 2.343923, 1.891737, 0.9603209, 0.2470742],
            ),
        ),
    ],
)
def test_output_equals_the_authors(
    variant: str, shape: tuple[int, ...], filling: str, golden: tuple[float, float, float, list[float]]
) -> None:
    stated = vision_mamba.VARIANTS[variant]
    output = golden_output(vision_mamba.build(stated.config, stated.problem), filling, shape)
    assert output.shape == (1, stated.problem.num_classes)
    assert_float32_golden(output, *golden)
