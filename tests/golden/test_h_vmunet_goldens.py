"""H-vmunet against the authors' code with filled parameters (`tests/fillings.py`).

The stored outputs are behind the sigmoid that the authors' network ends in. The hashed filling sets the factors of the
blocks' branches to about 1, from a millionth at the start.
"""

from __future__ import annotations

import pytest

from repro_models.contract import Problem
from repro_models.segmentation import h_vmunet
from tests.fillings import assert_float32_golden, golden_output


@pytest.mark.parametrize(
    ("variant", "filling", "input_shape", "golden"),
    [
        (
            "published_count",
            "constant",
            (1, 3, 64, 64),
            (
                2059.27,
                0.5027515,
                0.0002116157,
                [0.5023963, 0.502395, 0.5023935, 0.5023921, 0.5023907, 0.5023907, 0.5023908, 0.502391],
            ),
        ),
        (
            "published_count",
            "hashed",
            (1, 3, 64, 64),
            (
                4041.312,
                0.9866485,
                0.01382729,
                [0.9999801, 0.9999616, 0.9999262, 0.9998492, 0.9996914, 0.999693, 0.9997094, 0.999755],
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
    stated = h_vmunet.VARIANTS[variant]
    assert isinstance(stated.problem, Problem)
    output = golden_output(h_vmunet.build(stated.config, stated.problem), filling, input_shape).sigmoid()
    assert output.shape == (1, stated.problem.num_classes, *input_shape[2:])
    assert_float32_golden(output, *golden)
