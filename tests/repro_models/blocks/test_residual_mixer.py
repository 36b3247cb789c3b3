from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from repro_models.blocks.mamba_mixer import mamba
from repro_models.blocks.residual_mixer import ResidualMixer, shrink_out_projections


def test_the_mixer_sees_the_normalised_input_and_its_result_is_added() -> None:
    block = ResidualMixer(6, mamba(6)).double().eval()
    nn.init.uniform_(block.norm.weight, 0.5, 1.5)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    normalised = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * block.norm.weight
    torch.testing.assert_close(block(x), x + block.mixer(normalised))


def test_the_sum_is_float32_where_the_mixer_computes_in_less() -> None:
    block = ResidualMixer(8, mamba(8)).eval()
    x = torch.randn(2, 5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = block(x)
    assert half.dtype == torch.float32
    # What the mixer adds is rounded to 8 bits, the sum is not.
    assert (half - x).abs().max() > 0
    torch.testing.assert_close(half, block(x), atol=2e-2, rtol=0)
    assert ResidualMixer(8, mamba(8)).bfloat16()(x.bfloat16()).dtype == torch.float32


def test_a_dropped_mixer_leaves_the_input() -> None:
    torch.manual_seed(0)
    block = ResidualMixer(4, mamba(4), drop_path_probability=0.5).train()
    x = torch.randn(64, 3, 4)
    dropped = (block(x) == x).flatten(1).all(1)
    assert 16 < dropped.sum() < 48
    assert not (block.eval()(x) == x).flatten(1).all(1).any()


def test_out_projections_shrink_by_the_root_of_their_number() -> None:
    blocks: Any = nn.ModuleList(ResidualMixer(4, mamba(4)) for _ in range(9))
    before = [block.mixer.out_projection.weight.clone() for block in blocks]
    shrink_out_projections(blocks)
    for block, weight in zip(blocks, before, strict=True):
        torch.testing.assert_close(block.mixer.out_projection.weight, weight / math.sqrt(9))
