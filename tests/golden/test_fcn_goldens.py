"""Outputs of a published port of FCN under two fixed fillings (`tests/fillings.py`)."""

from __future__ import annotations

from typing import Any

import pytest

from repro_models.contract import Problem
from repro_models.segmentation import fcn
from tests.fillings import assert_golden, golden_output

pytestmark = pytest.mark.slow

PROBLEM = Problem(spatial_dims=2, in_channels=3, num_classes=5)
AT_ONCE = {"skip_scales": (0.0001, 0.01)}
OF_CONSTANTS_8S = (4.137771e21, 5.387722e17, 1.295395e17, [2.122506e17, *[2.649835e17] * 7])


@pytest.mark.parametrize(
    ("fields", "filling", "golden"),
    [
        pytest.param({}, "constant", OF_CONSTANTS_8S, id="fcn-8s-constant"),
        pytest.param(
            {},
            "sine",
            (
                1.689326,
                0.0002199644,
                0.04639768,
                [0.0494785, 0.05886582, 0.02872328, -0.02782731, -0.0587936, -0.03570533, 0.02021026, 0.05754463],
            ),
            id="fcn-8s-sine",
        ),
        pytest.param(
            {"stride": 16},
            "constant",
            (2.068885e22, 2.693861e18, 7.734777e17, [*[1.061253e18] * 5, *[1.588582e18] * 3]),
            id="fcn-16s-constant",
        ),
        pytest.param(
            {"stride": 16},
            "sine",
            (
                0.1849263,
                2.407895e-05,
                0.004487152,
                [
                    -0.002696697,
                    -0.006062786,
                    -0.003854777,
                    0.001897296,
                    0.005905004,
                    -0.0009893686,
                    0.0001305503,
                    0.001130442,
                ],
            ),
            id="fcn-16s-sine",
        ),
        pytest.param(
            {"stride": 32},
            "constant",
            (1.067905e23, 1.390501e19, 5.873616e18, [5.306266e18] * 8),
            id="fcn-32s-constant",
        ),
        pytest.param(
            {"stride": 32},
            "sine",
            (
                -0.001836529,
                -2.391314e-07,
                0.004814004,
                [
                    -0.0004620046,
                    0.001796879,
                    0.002403721,
                    0.0008005924,
                    -0.001538597,
                    -0.002463207,
                    -0.001123156,
                    0.00124952,
                ],
            ),
            id="fcn-32s-sine",
        ),
        # What the poolings add is lost in seven digits of the coarse scores.
        pytest.param(AT_ONCE, "constant", OF_CONSTANTS_8S, id="at-once-constant"),
        pytest.param(
            AT_ONCE,
            "sine",
            (
                0.07741434,
                1.007999e-05,
                0.004191579,
                [
                    0.001084685,
                    -0.002476733,
                    0.001057445,
                    0.003619412,
                    0.002853709,
                    -0.0005356813,
                    -0.003432569,
                    -0.003173568,
                ],
            ),
            id="at-once-sine",
        ),
    ],
)
def test_output_equals_the_published_port(
    fields: dict[str, Any], filling: str, golden: tuple[float, float, float, list[float]]
) -> None:
    output = golden_output(fcn.build(fcn.Config(**fields), PROBLEM), filling, (1, 3, 32, 48))
    assert output.shape == (1, 5, 32, 48)
    assert_golden(output, *golden)
