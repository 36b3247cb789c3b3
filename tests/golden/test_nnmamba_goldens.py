"""nnMamba against the authors' code with filled parameters (`tests/fillings.py`).

The hashed filling has no golden: with its large weights the authors' network gives no numbers (NaN) in float32. The
constant one makes all channels equal, so it cannot see that channels are flipped; a test of `SiameseMixer` does.
"""

from __future__ import annotations

from typing import Any

from repro_models.segmentation import nnmamba
from tests.fillings import assert_float32_golden, golden_output

VARIANT: Any = nnmamba.VARIANTS["reference_small"]


def test_output_equals_the_authors() -> None:
    output = golden_output(nnmamba.build(VARIANT.config, VARIANT.problem), "constant", (1, 2, 32, 32, 32))
    assert output.shape == (1, 3, 32, 32, 32)
    first = [0.01012486, 0.01013735, *[0.01013748] * 6]
    assert_float32_golden(output, 1000.746, 0.01018012, 1.16422e-05, first)
