"""Outputs of the authors' TransFuse-S under two fixed fillings of the parameters, in float64 (`tests/fillings.py`)."""

from __future__ import annotations

import pytest
import torch

from repro_models.segmentation import transfuse
from tests.fillings import assert_golden, fill

# Of each output: sum, mean, standard deviation and first eight values. The order is the authors': of the coarsest
# fusion, of the transformer, of the finest fusion.
_CONSTANT = [
    (
        3419.104,
        0.06956185,
        0.00670703,
        [0.03740325, 0.03821881, 0.03903437, 0.03984993, 0.04066549, 0.04148105, 0.04229661, 0.04311217],
    ),
    (
        3642.971,
        0.07411643,
        0.004134173,
        [0.03800631, 0.04152042, 0.04503452, 0.04854862, 0.05206273, 0.05233288, 0.05244083, 0.05254878],
    ),
    (
        3650.336,
        0.07426629,
        0.004151111,
        [0.03804164, 0.04156146, 0.04508128, 0.0486011, 0.05212092, 0.05239371, 0.05250415, 0.05261459],
    ),
]
_SINE = [
    (
        5754.163,
        0.1170688,
        0.01204563,
        [0.1120556, 0.112633, 0.1132104, 0.1137878, 0.1143652, 0.1149426, 0.11552, 0.1160973],
    ),
    (
        5471.571,
        0.1113194,
        0.005162281,
        [0.09596079, 0.0979737, 0.09998661, 0.1019995, 0.1040124, 0.1057086, 0.107389, 0.1090693],
    ),
    (
        8463.844,
        0.1721974,
        0.01859434,
        [0.08471991, 0.1068484, 0.1289768, 0.1511053, 0.1732338, 0.1750961, 0.175945, 0.176794],
    ),
]


@pytest.mark.parametrize(("filling", "expected"), [("constant", _CONSTANT), ("sine", _SINE)])
def test_all_three_outputs_equal_the_authors_code(
    filling: str, expected: list[tuple[float, float, float, list[float]]]
) -> None:
    variant = transfuse.VARIANTS["paper"]
    network = transfuse.build(variant.config, variant.problem).double().eval()
    network.training = True  # of the whole alone: all outputs, but statistics and dropout of evaluation
    fill(network, filling)
    with torch.no_grad():
        output = network(torch.linspace(0, 1, 3 * 192 * 256, dtype=torch.float64).reshape(1, 3, 192, 256))
    for logits, golden in zip(reversed(output.logits), expected, strict=True):
        assert logits.shape == (1, 1, 192, 256)
        assert_golden(logits, *golden)
