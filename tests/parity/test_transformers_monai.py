"""Our UNETR and Swin UNETR against MONAI's with the same weights, in two and three dimensions.

Ours are set to what MONAI has: skip connections one block later than the paper's, and the bias of small windows looked
up as its authors do (`Differs` in both files). MONAI's layer normalisations that nothing reads have no counterpart.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from repro_models.contract import Problem
from repro_models.segmentation import swin_unetr, unetr

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

# Same operations in float64, in another order: rounding of some hundred layers.
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


def copy_all(pairs: list[tuple[nn.Module, Any]]) -> None:
    for ours, theirs in pairs:
        ours.load_state_dict(theirs.state_dict())


def copy_residual_block(ours: Any, theirs: Any) -> None:
    copy_all([(ours.residual[0], theirs.conv1.conv), (ours.residual[3], theirs.conv2.conv)])
    if not isinstance(ours.shortcut, nn.Identity):
        copy_all([(ours.shortcut[0], theirs.conv3.conv)])


def copy_decoder_step(ours: Any, theirs: Any) -> None:
    copy_all([(ours.upsampling, theirs.transp_conv.conv)])
    copy_residual_block(ours.block, theirs.conv_block)


def assert_same_outputs(ours: nn.Module, theirs: nn.Module, size: tuple[int, ...]) -> None:
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), **TOLERANCE)


@pytest.mark.parametrize("size", [(32, 48, 16), (48, 32)], ids=["3d", "2d"])
def test_unetr_equals_monai(size: tuple[int, ...]) -> None:
    from monai.networks.nets.unetr import UNETR

    torch.manual_seed(0)
    dims = len(size)
    config = unetr.Config(
        image_size=size, base_features=4, hidden_size=24, mlp_size=36, num_heads=3, skip_blocks=(4, 7, 10)
    )
    ours: Any = unetr.build(config, Problem(dims, 2, 3)).double()
    theirs: Any = UNETR(2, 3, size, 4, 24, 36, 3, spatial_dims=dims).double()
    nn.init.normal_(theirs.vit.patch_embedding.position_embeddings)
    ours.positions.data.copy_(theirs.vit.patch_embedding.position_embeddings.data)
    copy_all(
        [
            (ours.embedding, theirs.vit.patch_embedding.patch_embeddings),
            (ours.norm, theirs.vit.norm),
            (ours.head, theirs.out.conv.conv),
        ]
    )
    for block, reference in zip(ours.blocks, theirs.vit.blocks, strict=True):
        copy_all(
            [
                (block.attention_norm, reference.norm1),
                (block.query_key_value, reference.attn.qkv),
                (block.projection, reference.attn.out_proj),
                (block.mlp_norm, reference.norm2),
                (block.mlp[0], reference.mlp.linear1),
                (block.mlp[2], reference.mlp.linear2),
            ]
        )
    copy_residual_block(ours.image_path, theirs.encoder1.layer)
    for path, reference in zip(ours.skip_paths, [theirs.encoder2, theirs.encoder3, theirs.encoder4], strict=True):
        first, *others = path
        copy_all([(first, reference.transp_conv_init.conv)])
        for (upsampling, block), (their_upsampling, their_block) in zip(others, reference.blocks, strict=True):
            copy_all([(upsampling, their_upsampling.conv)])
            copy_residual_block(block, their_block)
    steps = [theirs.decoder2, theirs.decoder3, theirs.decoder4, theirs.decoder5]
    for step, reference in zip(ours.decoder, steps, strict=True):
        copy_decoder_step(step, reference)
    assert_same_outputs(ours, theirs, size)


# Sides of the maps: the window is larger than the map on some axes only, as long as it on others, and needs padding.
@pytest.mark.parametrize(
    ("size", "has_stage_convs"),
    [
        pytest.param((64, 96, 64), True, id="3d-v2"),
        pytest.param((96, 64), True, id="2d-v2"),
        pytest.param((96, 64), False, id="2d"),
    ],
)
def test_swin_unetr_equals_monai(size: tuple[int, ...], has_stage_convs: bool) -> None:
    from monai.networks.nets.swin_unetr import SwinUNETR

    torch.manual_seed(0)
    dims, window, heads = len(size), 5, (1, 2, 3, 4)
    config = swin_unetr.Config(
        base_features=12,
        depths=(2, 1, 2, 2),
        num_heads=heads,
        window=window,
        has_stage_convs=has_stage_convs,
        has_authors_bias_index=True,
    )
    ours: Any = swin_unetr.build(config, Problem(dims, 2, 3)).double()
    theirs: Any = SwinUNETR(
        2,
        3,
        depths=(2, 1, 2, 2),
        num_heads=heads,
        window_size=window,
        feature_size=12,
        spatial_dims=dims,
        use_v2=has_stage_convs,
    ).double()
    encoder = theirs.swinViT
    copy_all([(ours.embedding, encoder.patch_embed.proj), (ours.head, theirs.out.conv.conv)])
    for number, stage in enumerate(ours.stages, start=1):
        reference = getattr(encoder, f"layers{number}")[0]
        if has_stage_convs:
            copy_residual_block(stage.conv, getattr(encoder, f"layers{number}c")[0].layer)
        copy_all(
            [(stage.merging.norm, reference.downsample.norm), (stage.merging.reduction, reference.downsample.reduction)]
        )
        for block, their_block in zip(stage.blocks, reference.blocks, strict=True):
            nn.init.normal_(their_block.attn.relative_position_bias_table)
            block.attention.bias_table.data.copy_(their_block.attn.relative_position_bias_table.data)
            copy_all(
                [
                    (block.attention_norm, their_block.norm1),
                    (block.attention.query_key_value, their_block.attn.qkv),
                    (block.attention.projection, their_block.attn.proj),
                    (block.mlp_norm, their_block.norm2),
                    (block.mlp[0], their_block.mlp.linear1),
                    (block.mlp[2], their_block.mlp.linear2),
                ]
            )
    paths = [theirs.encoder2, theirs.encoder3, theirs.encoder4, None, theirs.encoder10]
    for path, reference in zip([ours.image_path, *ours.skip_paths], [theirs.encoder1, *paths], strict=True):
        if reference is not None:
            copy_residual_block(path, reference.layer)
    steps = [theirs.decoder1, theirs.decoder2, theirs.decoder3, theirs.decoder4, theirs.decoder5]
    for step, reference in zip(ours.decoder, steps, strict=True):
        copy_decoder_step(step, reference)
    assert_same_outputs(ours, theirs, size)
