"""Our vision transformer and the residual units of TransUNet against timm's with the same weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from repro_models.blocks.vision_transformer import LAYER_NORM_EPSILON, VisionTransformer
from repro_models.contract import Problem
from repro_models.segmentation import setr, transunet

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

# Same operations in float64, in another order: rounding of some tens of layers.
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


def timm_transformer(size: tuple[int, int], in_channels: int, token_side: int, has_class_token: bool) -> Any:
    from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer

    theirs = TimmVisionTransformer(
        img_size=size,
        patch_size=token_side,
        in_chans=in_channels,
        num_classes=0,
        global_pool="token" if has_class_token else "avg",
        fc_norm=False,
        class_token=has_class_token,
        embed_dim=24,
        depth=4,
        num_heads=3,
        mlp_ratio=2,
        norm_layer=partial(nn.LayerNorm, eps=LAYER_NORM_EPSILON),
    )
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    return theirs.double().eval()


def copy_transformer(ours: VisionTransformer, theirs: Any) -> None:
    ours.embedding.load_state_dict(theirs.patch_embed.proj.state_dict())
    ours.positions.data.copy_(theirs.pos_embed.data)
    if ours.has_class_token:
        ours.class_token.data.copy_(theirs.cls_token.data)
    for block, reference in zip(ours.blocks, theirs.blocks, strict=True):
        for part, their_part in (
            (block.attention_norm, reference.norm1),
            (block.query_key_value, reference.attn.qkv),
            (block.projection, reference.attn.proj),
            (block.mlp_norm, reference.norm2),
            (block.mlp[0], reference.mlp.fc1),
            (block.mlp[2], reference.mlp.fc2),
        ):
            part.load_state_dict(their_part.state_dict())


@pytest.mark.parametrize("decoder", ["pup", "mla"])
def test_hidden_states_of_setr_equal_timm(decoder: str) -> None:
    torch.manual_seed(0)
    size, has_class_token = (32, 64), decoder != "mla"
    config = setr.Config(
        decoder, size, hidden_size=24, mlp_size=48, num_heads=3, num_blocks=4, tapped_blocks=(2, 4), head_channels=4
    )
    ours: Any = setr.build(config, Problem(2, 2, 3)).double().eval()
    theirs = timm_transformer(size, 2, 16, has_class_token)
    copy_transformer(ours.transformer, theirs)
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    with torch.no_grad():
        states = ours.transformer(x, (1, 2, 4))
        expected = theirs.forward_intermediates(x, indices=[0, 1, 3], output_fmt="NLC", intermediates_only=True)
    for state, reference in zip(states, expected, strict=True):
        torch.testing.assert_close(state, reference, **TOLERANCE)


def test_normalised_tokens_of_transunet_without_a_resnet_equal_timm() -> None:
    torch.manual_seed(0)
    size = (64, 32)
    config = transunet.Config(
        size, resnet_depths=(), hidden_size=24, mlp_size=48, num_heads=3, num_blocks=4, num_skips=0
    )
    ours: Any = transunet.build(config, Problem(2, 3, 2)).double().eval()
    theirs = timm_transformer(size, 3, 16, has_class_token=False)
    copy_transformer(ours.transformer, theirs)
    ours.norm.load_state_dict(theirs.norm.state_dict())
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        tokens = ours.norm(ours.transformer(x, {4})[0])
        torch.testing.assert_close(tokens, theirs.forward_features(x), **TOLERANCE)


@pytest.mark.parametrize(("in_channels", "stride"), [(128, 1), (64, 1), (64, 2)])
def test_residual_units_of_transunet_equal_timm(in_channels: int, stride: int) -> None:
    """The shortcut of a unit that changes the shape is normalised by channels in TransUNet, by groups in timm."""
    from timm.layers import GroupNormAct, StdConv2d
    from timm.models.resnetv2 import Bottleneck, DownsampleConv

    torch.manual_seed(0)
    changes_shape = (in_channels, stride) != (128, 1)
    ours: Any = transunet._Bottleneck(in_channels, 32, stride)
    theirs: Any = Bottleneck(
        in_channels,
        128,
        stride=stride,
        conv_layer=partial(StdConv2d, eps=1e-5),
        norm_layer=partial(GroupNormAct, num_groups=32, eps=1e-6),
        proj_layer=DownsampleConv if changes_shape else None,
    )
    pairs = [
        (ours.reduction, (theirs.conv1, theirs.norm1)),
        (ours.conv, (theirs.conv2, theirs.norm2)),
        (ours.expansion, (theirs.conv3, theirs.norm3)),
    ]
    if changes_shape:
        theirs.downsample.norm = nn.GroupNorm(128, 128)
        pairs.append((ours.shortcut, (theirs.downsample.conv, theirs.downsample.norm)))
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    for part, (conv, norm) in pairs:
        part[0].load_state_dict(conv.state_dict())
        part[1].load_state_dict(norm.state_dict())
    x = torch.randn(2, in_channels, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours.double()(x), theirs.double()(x), **TOLERANCE)
