from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from repro_models.blocks.aligned_xception import AlignedXception
from tests.fillings import num_parameters


def unit(*channels: int) -> int:
    """Parameters of separable convolutions, each with two normalisations."""
    return sum(9 * a + 2 * a + a * b + 2 * b for a, b in pairwise(channels))


def test_parameters_add_up_by_hand() -> None:
    stem = 3 * 32 * 9 + 2 * 32 + 32 * 64 * 9 + 2 * 64
    entry = unit(64, 128, 128, 128) + unit(128, 256, 256, 256) + unit(256, 728, 728, 728)
    shortcuts = sum(a * b + 2 * b for a, b in ((64, 128), (128, 256), (256, 728), (728, 1024)))
    middle = 16 * unit(728, 728, 728, 728)
    exit_flow = unit(728, 728, 1024, 1024) + unit(1024, 1536, 1536, 2048)
    with torch.device("meta"):
        assert num_parameters(AlignedXception(3)) == stem + entry + shortcuts + middle + exit_flow == 37_867_312


@pytest.mark.parametrize(("output_stride", "side", "dilations"), [(16, 3, {1, 2}), (8, 5, {1, 2, 4})])
def test_the_last_map_lies_at_the_output_stride(output_stride: int, side: int, dilations: set[int]) -> None:
    encoder = AlignedXception(1, base_features=2, output_stride=output_stride).eval()
    maps = encoder(torch.zeros(1, 1, 33, 40))
    assert [level.shape[1] for level in maps] == encoder.channels == [8, 128]
    assert maps[0].shape[2:] == (9, 10)
    assert maps[1].shape[2] == side
    assert {m.dilation[0] for m in encoder.modules() if isinstance(m, nn.Conv2d)} == dilations


def test_another_stride_is_refused() -> None:
    with pytest.raises(ValueError, match="output_stride=32: must be 8 or 16"):
        AlignedXception(1, output_stride=32)
