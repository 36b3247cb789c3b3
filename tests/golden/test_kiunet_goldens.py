"""KiU-Net against the authors' code with filled parameters (`tests/fillings.py`); where it departs we have options."""

from __future__ import annotations

from dataclasses import replace

import pytest

from repro_models.contract import Problem
from repro_models.segmentation import kiunet
from tests.fillings import assert_golden, golden_output

pytestmark = pytest.mark.slow

PLAIN = kiunet.Config(has_relu_on_logits=True)
RESIDUAL = kiunet.Config(block="residual", has_relu_on_logits=True, has_first_ki_shortcut=False)
DENSE = kiunet.Config(block="dense", has_relu_on_logits=True, has_shared_dense_norms=True)
VOLUME = replace(kiunet.VARIANTS["paper_3d"].config, has_relu_on_logits=True)

# config, filling, input shape, classes, sum, mean, std, first eight values
GOLDENS = [
    pytest.param(
        PLAIN,
        "constant",
        (1, 1, 64, 64),
        2,
        95.94095,
        0.01171154,
        5.069665e-06,
        [0.01168527, 0.01168796, 0.01169331, 0.011696, 0.01169604, 0.01169608, 0.0116961, 0.01169612],
        id="plain-constant",
    ),
    pytest.param(
        PLAIN,
        "sine",
        (1, 1, 64, 64),
        2,
        6969.028,
        0.8507115,
        0.9443574,
        [0.7906376, 0.7970793, 0.7989911, 0.8000917, 0.8006902, 0.8011603, 0.8013596, 0.8015398],
        id="plain-sine",
    ),
    pytest.param(
        RESIDUAL,
        "constant",
        (1, 3, 64, 64),
        2,
        96.18719,
        0.0117416,
        5.325642e-06,
        [0.01171379, 0.01171675, 0.01172231, 0.0117251, 0.01172514, 0.01172519, 0.01172522, 0.01172524],
        id="residual-constant",
    ),
    pytest.param(
        RESIDUAL,
        "sine",
        (1, 3, 64, 64),
        2,
        11882.23,
        1.450468,
        1.458565,
        [3.45028, 3.504578, 3.507019, 3.51553, 3.528359, 3.534787, 3.535233, 3.532934],
        id="residual-sine",
    ),
    pytest.param(
        DENSE,
        "constant",
        (1, 3, 64, 64),
        2,
        96.09497,
        0.01173034,
        5.254808e-06,
        [0.01170297, 0.01170589, 0.01171142, 0.01171419, 0.01171422, 0.01171426, 0.01171429, 0.01171431],
        id="dense-constant",
    ),
    pytest.param(
        DENSE,
        "sine",
        (1, 3, 64, 64),
        2,
        6218.116,
        0.7590474,
        0.755785,
        [1.447495, 1.445811, 1.442126, 1.446199, 1.453906, 1.457392, 1.456301, 1.455406],
        id="dense-sine",
    ),
    pytest.param(
        VOLUME,
        "constant",
        (1, 4, 16, 16, 16),
        5,
        724.7059,
        0.03538603,
        0.008188153,
        [0.01240934, 0.01451434, 0.01624839, 0.01710499, 0.01732414, 0.01749772, 0.01759588, 0.01763393],
        id="volume-constant",
    ),
    pytest.param(
        VOLUME,
        "sine",
        (1, 4, 16, 16, 16),
        5,
        207.4131,
        0.01012759,
        0.01410321,
        [0.0142317, 0.015269, 0.01385971, 0.01418591, 0.01427681, 0.01433442, 0.01433947, 0.0143597],
        id="volume-sine",
    ),
]


@pytest.mark.parametrize(("config", "filling", "input_shape", "num_classes", "total", "mean", "std", "first"), GOLDENS)
def test_output_equals_the_authors(
    config: kiunet.Config,
    filling: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    total: float,
    mean: float,
    std: float,
    first: list[float],
) -> None:
    _, in_channels, *size = input_shape
    network = kiunet.build(config, Problem(len(size), in_channels, num_classes))
    output = golden_output(network, filling, input_shape)
    assert output.shape == (1, num_classes, *size)
    assert_golden(output, total, mean, std, first)
