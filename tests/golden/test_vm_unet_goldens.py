"""VM-UNet against the authors' code with filled parameters (`tests/fillings.py`).

The constant filling makes every output 0.0104: behind the last normalisation all four channels are 0.01, and so are the
weights and the bias of the head. It can only see the form of the head.
"""

from __future__ import annotations

import pytest

from repro_models.contract import Problem
from repro_models.segmentation import vm_unet
from tests.fillings import assert_float32_golden, golden_output


@pytest.mark.parametrize(
    ("variant", "filling", "input_shape", "golden"),
    [
        (
            "reference_small",
            "constant",
            (1, 2, 32, 64),
            (63.8976, 0.0104, 0.0, [0.0104, 0.0104, 0.0104, 0.0104, 0.0104, 0.0104, 0.0104, 0.0104]),
        ),
        (
            "reference_small",
            "hashed",
            (1, 2, 32, 64),
            (
                9220.332,
                1.500705,
                1.408773,
                [1.286645, 2.998112, 4.221831, 3.985745, 0.7293141, -0.04372483, 3.8693, 3.219452],
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
    stated = vm_unet.VARIANTS[variant]
    assert isinstance(stated.problem, Problem)
    output = golden_output(vm_unet.build(stated.config, stated.problem), filling, input_shape)
    assert output.shape == (1, stated.problem.num_classes, *input_shape[2:])
    assert_float32_golden(output, *golden)
