"""The encoder of our Swin-Unet against torchvision's Swin transformer with the same weights.

torchvision pads a map that is smaller than the window and attends to what was padded; ours cuts the window. So all maps
here are as long as the window or longer.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repro_models.contract import Problem
from repro_models.segmentation import swin_unet

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

# Same operations in float64, in another order: rounding of some tens of layers.
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


def copy_all(pairs: list[tuple[nn.Module, Any]]) -> None:
    for ours, theirs in pairs:
        ours.load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("size", [(128, 192), (96, 160)], ids=["whole_windows", "padded"])
def test_swin_unet_encoder_equals_torchvision(size: tuple[int, int]) -> None:
    from torchvision.models.swin_transformer import SwinTransformer

    torch.manual_seed(0)
    depths, heads, window = (2, 2, 2), (1, 2, 3), 4
    config = swin_unet.Config(base_features=12, depths=depths, num_heads=heads, window=window, num_skips=2)
    ours: Any = swin_unet.build(config, Problem(2, 3, 4)).double().eval()
    theirs: Any = SwinTransformer([4, 4], 12, list(depths), list(heads), [window, window]).double().eval()
    embedding, *levels = theirs.features
    copy_all(
        [
            (ours.embedding.projection, embedding[0]),
            (ours.embedding.norm, embedding[2]),
            (ours.encoder_norm, theirs.norm),
        ]
    )
    for merging, reference in zip(ours.mergings, levels[1::2], strict=True):
        copy_all([(merging.norm, reference.norm), (merging.reduction, reference.reduction)])
    for stage, reference in zip(ours.stages, levels[::2], strict=True):
        for block, their_block in zip(stage, reference, strict=True):
            nn.init.normal_(their_block.attn.relative_position_bias_table)
            block.attention.bias_table.data.copy_(their_block.attn.relative_position_bias_table.data)
            copy_all(
                [
                    (block.attention_norm, their_block.norm1),
                    (block.attention.query_key_value, their_block.attn.qkv),
                    (block.attention.projection, their_block.attn.proj),
                    (block.mlp_norm, their_block.norm2),
                    (block.mlp[0], their_block.mlp[0]),
                    (block.mlp[2], their_block.mlp[3]),
                ]
            )
    seen: list[Tensor] = []
    ours.encoder_norm.register_forward_hook(lambda _, __, output: seen.append(output))
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        ours(x)
        torch.testing.assert_close(seen[0], theirs.norm(theirs.features(x)), **TOLERANCE)
