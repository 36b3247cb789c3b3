"""Outputs of UNet 3+'s published code under two fixed fillings of the parameters, in float64 (`tests/fillings.py`)."""

from __future__ import annotations

import pytest
import torch

from repro_models.contract import Problem
from repro_models.segmentation import unet_3_plus
from tests.fillings import assert_golden, fill, golden_output

PROBLEM = Problem(spatial_dims=2, in_channels=1, num_classes=1)
SIZE = (1, 1, 32, 32)

GOLDENS = [
    pytest.param(
        "constant",
        416.9523,
        0.4071799,
        0.05255804,
        [0.1748994, 0.2618478, 0.2701002, 0.270948, 0.2710403, 0.2711158, 0.2711742, 0.2712191],
        id="constant",
    ),
    pytest.param(
        "sine",
        87.8114,
        0.08575332,
        0.000951008,
        [0.08606149, 0.08608972, 0.08592689, 0.08588141, 0.08583957, 0.08579214, 0.08574504, 0.08569918],
        id="sine",
    ),
]
# Of the side outputs, the finest first; under the constant filling the coarsest is constant.
SIDE_GOLDENS = [
    (
        87.8114,
        0.08575332,
        0.000951008,
        [0.08606149, 0.08608972, 0.08592689, 0.08588141, 0.08583957, 0.08579214, 0.08574504, 0.08569918],
    ),
    (
        87.67483,
        0.08561996,
        0.0005068052,
        [0.08552615, 0.08554303, 0.08557679, 0.08555526, 0.08547845, 0.08542741, 0.08540217, 0.08538913],
    ),
    (
        87.29916,
        0.08525309,
        0.0005945543,
        [0.08507138, 0.08507138, 0.08509104, 0.08513035, 0.08516967, 0.08520898, 0.08519722, 0.08513437],
    ),
    (
        86.79193,
        0.08475775,
        0.001032418,
        [0.08586065, 0.08586065, 0.08586065, 0.08586065, 0.08588132, 0.08592268, 0.08596404, 0.0860054],
    ),
    (
        86.19559,
        0.08417538,
        0.0002110982,
        [0.08415255, 0.08415255, 0.08415255, 0.08415255, 0.08415255, 0.08415255, 0.08415255, 0.08415255],
    ),
]


@pytest.mark.parametrize(("filling", "total", "mean", "std", "first"), GOLDENS)
def test_output_equals_the_authors_code(
    filling: str, total: float, mean: float, std: float, first: list[float]
) -> None:
    network = unet_3_plus.build(unet_3_plus.Config(deep_supervision=False), PROBLEM)
    output = golden_output(network, filling, SIZE)
    assert output.shape == SIZE
    assert_golden(output, total, mean, std, first)


def test_side_outputs_equal_the_authors_code() -> None:
    network = unet_3_plus.build(unet_3_plus.Config(), PROBLEM).double().eval()
    fill(network, "sine")
    # Side outputs, as in training, but running statistics, as the reference has them.
    network.training = True
    with torch.no_grad():
        outputs = network(torch.linspace(0, 1, 1024, dtype=torch.float64).reshape(SIZE)).logits
    for output, (total, mean, std, first) in zip(outputs, SIDE_GOLDENS, strict=True):
        assert output.shape == SIZE
        assert_golden(output, total, mean, std, first)
