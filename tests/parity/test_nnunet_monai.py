"""Our nnU-Net against MONAI's DynUNet with the same weights.

Two parts differ. MONAI's convolutions have no bias and ours have one; that changes nothing, because instance
normalisation subtracts the mean of every channel: ours are filled at random here, to show it. And MONAI's decoder takes
the kernel size of the stage below, nnU-Net takes that of the skip: kernels are equal in all stages here, strides not.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from repro_models.contract import Problem
from repro_models.segmentation import nnunet

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

STRIDES = [
    pytest.param(3, ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 1)), id="3d"),
    pytest.param(2, ((1, 1), (2, 2), (2, 2), (2, 1)), id="2d"),
]


def copy_blocks(ours: nn.Module, theirs: Any) -> None:
    first_conv, first_norm, _, second_conv, second_norm, _ = ours.children()
    theirs.conv1.conv.load_state_dict({"weight": first_conv.weight})
    theirs.norm1.load_state_dict(first_norm.state_dict())
    theirs.conv2.conv.load_state_dict({"weight": second_conv.weight})
    theirs.norm2.load_state_dict(second_norm.state_dict())


@pytest.mark.parametrize(("spatial_dims", "strides"), STRIDES)
def test_all_outputs_equal_monai(spatial_dims: int, strides: Any) -> None:
    from monai.networks.nets.dynunet import DynUNet

    torch.manual_seed(0)
    kernel_sizes = [(3,) * spatial_dims] * len(strides)
    config = nnunet.with_topology(nnunet.Config(base_features=4, max_features=16), strides, kernel_sizes)
    ours = nnunet.UNet(config, Problem(spatial_dims, 2, 3)).double()
    for parameter in ours.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    theirs = DynUNet(
        spatial_dims,
        in_channels=2,
        out_channels=3,
        kernel_size=kernel_sizes,
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=[4, 8, 16, 16],
        deep_supervision=True,
        deep_supr_num=2,
        trans_bias=True,
    ).double()
    for stage, block in zip(ours.encoder, [theirs.input_block, *theirs.downsamples, theirs.bottleneck], strict=True):
        copy_blocks(stage, block)
    for upsampling, stage, block in zip(ours.upsampling, ours.decoder, theirs.upsamples, strict=True):
        block.transp_conv.conv.load_state_dict(upsampling.state_dict())
        copy_blocks(stage, block.conv_block)
    heads = [theirs.output_block, *theirs.deep_supervision_heads]
    for head, block in zip(reversed(ours.heads), heads, strict=True):
        block.conv.conv.load_state_dict(head.state_dict())

    x = torch.randn(2, 2, *(16, 16, 24)[:spatial_dims], dtype=torch.float64)
    with torch.no_grad():
        expected = [theirs.train()(x)[:, 0], *theirs.heads]
        outputs = ours.train()(x)
        alone = ours.eval()(x)
    # Same operations in float64; only the bias that cancels leaves rounding behind.
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, reference, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(alone, expected[0], rtol=1e-9, atol=1e-9)
