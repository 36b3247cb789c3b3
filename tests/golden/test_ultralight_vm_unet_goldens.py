"""UltraLight VM-UNet against the authors' code with filled parameters (`tests/fillings.py`).

The stored outputs are behind the sigmoid that the authors' network ends in. With hashed weights, one class and 64x64
pixels it is nearly 1 everywhere; with four classes it is not.
"""

from __future__ import annotations

import pytest

from repro_models.contract import Problem
from repro_models.segmentation import ultralight_vm_unet
from tests.fillings import assert_float32_golden, golden_output


@pytest.mark.parametrize(
    ("variant", "filling", "input_shape", "golden"),
    [
        (
            "paper",
            "constant",
            (1, 3, 64, 64),
            (
                2059.269,
                0.5027513,
                0.0002121241,
                [0.5023936, 0.5023925, 0.5023915, 0.5023904, 0.5023893, 0.5023898, 0.5023903, 0.502391],
            ),
        ),
        (
            "paper",
            "hashed",
            (1, 3, 64, 64),
            (4092.612, 0.9991729, 0.00123105, [1.0, 1.0, 1.0, 1.0, 0.9999999, 0.9999999, 0.9999999, 0.9999999]),
        ),
        (
            "reference_small",
            "constant",
            (1, 5, 64, 96),
            (
                12355.67,
                0.5027535,
                0.0001981248,
                [0.5024118, 0.5024109, 0.50241, 0.502409, 0.5024081, 0.5024089, 0.5024097, 0.5024106],
            ),
        ),
        (
            "reference_small",
            "hashed",
            (1, 5, 64, 96),
            (
                15246.0,
                0.6203615,
                0.400573,
                [0.999998, 0.9999925, 0.9999721, 0.9999565, 0.9999334, 0.9999191, 0.9999027, 0.9999143],
            ),
        ),
    ],
)
def test_output_equals_the_authors(
    variant: str,
    filling: str,
    input_shape: tuple[int, ...],
    golden: tuple[float, float, float, list[float]],
) -> None:
    stated = ultralight_vm_unet.VARIANTS[variant]
    assert isinstance(stated.problem, Problem)
    output = golden_output(ultralight_vm_unet.build(stated.config, stated.problem), filling, input_shape).sigmoid()
    assert output.shape == (1, stated.problem.num_classes, *input_shape[2:])
    assert_float32_golden(output, *golden)
