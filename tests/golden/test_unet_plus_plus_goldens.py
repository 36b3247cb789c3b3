"""Outputs of a transcription of U-Net++'s code under two fixed fillings, in float64 (`tests/fillings.py`)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from repro_models.segmentation import unet_plus_plus
from tests.fillings import assert_golden, golden_output

# Of the heads of X(0, 1), X(0, 2), X(0, 3), X(0, 4).
GOLDENS = [
    pytest.param(
        "constant",
        0,
        10.99324,
        0.01073559,
        6.642774e-05,
        [0.01050364, 0.01056013, 0.01056903, 0.01056977, 0.01056997, 0.01057006, 0.01057014, 0.01057021],
        id="constant-head-1",
    ),
    pytest.param(
        "constant",
        1,
        11.08997,
        0.01083005,
        8.379669e-05,
        [0.01052782, 0.01059981, 0.01061495, 0.01061675, 0.01061726, 0.01061744, 0.01061758, 0.01061768],
        id="constant-head-2",
    ),
    pytest.param(
        "constant",
        2,
        11.20493,
        0.01094232,
        0.0001063999,
        [0.0105543, 0.01064356, 0.01066605, 0.01066944, 0.01067054, 0.01067095, 0.01067129, 0.01067149],
        id="constant-head-3",
    ),
    pytest.param(
        "constant",
        3,
        11.3865,
        0.01111962,
        0.0001512797,
        [0.01058579, 0.01069624, 0.01072901, 0.01073583, 0.01073918, 0.0107409, 0.01074256, 0.01074367],
        id="constant-head-4",
    ),
    pytest.param(
        "sine",
        0,
        298.4611,
        0.291466,
        0.05844344,
        [0.2376585, 0.2366666, 0.2480503, 0.2581865, 0.2562923, 0.2561217, 0.2513974, 0.2506828],
        id="sine-head-1",
    ),
    pytest.param(
        "sine",
        1,
        211.2332,
        0.2062824,
        0.1100041,
        [0.1832634, 0.1775461, 0.1694328, 0.1616247, 0.1573614, 0.1547664, 0.1537112, 0.1530882],
        id="sine-head-2",
    ),
    pytest.param(
        "sine",
        2,
        213.2697,
        0.2082712,
        0.03803557,
        [0.2025375, 0.2019622, 0.2000719, 0.1998758, 0.1993076, 0.1989445, 0.1986172, 0.1989299],
        id="sine-head-3",
    ),
    pytest.param(
        "sine",
        3,
        224.656,
        0.2193906,
        0.06632781,
        [0.2156573, 0.2047715, 0.2000655, 0.2013835, 0.194957, 0.1911657, 0.1878057, 0.1869802],
        id="sine-head-4",
    ),
]


@pytest.mark.parametrize(("filling", "head", "total", "mean", "std", "first"), GOLDENS)
def test_output_equals_the_reference_transcription(
    filling: str, head: int, total: float, mean: float, std: float, first: list[float]
) -> None:
    variant = unet_plus_plus.VARIANTS["reference_small"]
    network = unet_plus_plus.build(replace(variant.config, dropout_probability=0.0), variant.problem)
    outputs = golden_output(network, filling, (1, 1, 32, 32), is_training=True).logits[::-1]
    assert len(outputs) == 4
    assert outputs[head].shape == (1, 1, 32, 32)
    assert_golden(outputs[head], total, mean, std, first)
