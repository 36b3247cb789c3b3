"""SegMamba's tri-orientated Mamba against the authors' code with filled parameters (`tests/fillings.py`)."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from repro_models.segmentation import segmamba
from tests.fillings import assert_float32_golden, golden_output, num_parameters


class _OfFourSlices(nn.Module):
    """(B, L, C) -> (B, L, C)."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        return self.mixer(x.unflatten(1, (4, -1))).flatten(1, 2)


@pytest.mark.parametrize(
    ("filling", "total", "mean", "std", "first"),
    [
        ("constant", 0.0004162525, 1.445321e-06, 9.093274e-07, [4.235861e-08] * 8),
        (
            "hashed",
            22.89532,
            0.07949764,
            1.439692,
            [-0.03095155, 0.03502405, 0.0001493511, -0.03207035, 0.02317891, 0.1017647, 0.001163398, 0.02301652],
        ),
    ],
)
def test_a_block_of_12_channels_and_4_slices_equals_the_authors(
    filling: str, total: float, mean: float, std: float, first: list[float]
) -> None:
    output = golden_output(_OfFourSlices(segmamba.tri_oriented_mamba(12)), filling, (1, 24, 12))
    assert output.shape == (1, 24, 12)
    assert_float32_golden(output, total, mean, std, first)


def test_a_block_of_12_channels_has_the_parameters_of_the_authors() -> None:
    assert num_parameters(segmamba.tri_oriented_mamba(12)) == 4_968
