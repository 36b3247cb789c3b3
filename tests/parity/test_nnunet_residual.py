"""Our residual encoder against the network that nnU-Net itself builds, with the same weights.

The package asks for `timm` too, which only its transformers import; the lock leaves it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repro_models.contract import Problem
from repro_models.segmentation import nnunet

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
# Stages with and without a change of channels (the limit is 16) and of sides; more stages than numbers of blocks.
TOPOLOGIES = [
    pytest.param(3, "111 122 222 221", "133 333 333 333", (1, 3, 2), id="3d"),
    pytest.param(2, "11 22 22 21", "33 33 13 33", (2, 1), id="2d"),
]


def stages(words: str) -> list[tuple[int, ...]]:
    """Read `111 122` as (1, 1, 1), (1, 2, 2)."""
    return [tuple(int(digit) for digit in word) for word in words.split()]


def nnunets_own(
    config: nnunet.Config, problem: Problem, blocks: Sequence[int], is_deeply_supervised: bool = True
) -> Any:
    """The residual network as nnU-Net's plans describe it, `blocks` in every stage."""
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    dims, num_stages = problem.spatial_dims, len(config.strides)
    limit = config.max_features or {2: 512, 3: 320}[dims]
    return ResidualEncoderUNet(
        input_channels=problem.in_channels,
        n_stages=num_stages,
        features_per_stage=[min(config.base_features * 2**stage, limit) for stage in range(num_stages)],
        conv_op=CONV[dims],
        kernel_sizes=list(config.kernel_sizes),
        strides=list(config.strides),
        n_blocks_per_stage=list(blocks),
        num_classes=problem.num_classes,
        n_conv_per_stage_decoder=[1] * (num_stages - 1),
        conv_bias=True,
        norm_op=NORM[dims],
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=is_deeply_supervised,
    )


def copy_conv_block(ours: Sequence[nn.Module], theirs: Any) -> None:
    conv, norm = ours
    theirs.conv.load_state_dict(conv.state_dict())
    theirs.norm.load_state_dict(norm.state_dict())


def copy_weights(ours: nnunet.UNet, theirs: Any) -> None:
    """Every parameter of ours into its counterpart; a part that is missing on one side is an error."""
    copy_conv_block(list(ours.stem.children())[:2], theirs.encoder.stem.convs[0])
    for stage, their_stage in zip(ours.encoder, theirs.encoder.stages, strict=True):
        for block, their_block in zip(stage.children(), their_stage.blocks, strict=True):
            conv1, norm1, _, conv2, norm2 = block.convolutions.children()
            copy_conv_block([conv1, norm1], their_block.conv1)
            copy_conv_block([conv2, norm2], their_block.conv2)
            projection = [module for module in block.shortcut.children() if list(module.parameters())]
            if projection:
                copy_conv_block(projection, their_block.skip[-1])
    decoder = theirs.decoder
    for upsampling, their_upsampling in zip(ours.upsampling, decoder.transpconvs, strict=True):
        their_upsampling.load_state_dict(upsampling.state_dict())
    for stage, their_stage in zip(ours.decoder, decoder.stages, strict=True):
        copy_conv_block(list(stage.children())[:2], their_stage.convs[0])
    for head, their_head in zip(ours.heads, decoder.seg_layers, strict=True):
        their_head.load_state_dict(head.state_dict())


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("spatial_dims", "strides", "kernel_sizes", "blocks"), TOPOLOGIES)
def test_outputs_and_gradients_of_the_image_equal_nnunets_own_network(
    spatial_dims: int, strides: str, kernel_sizes: str, blocks: tuple[int, ...]
) -> None:
    config = nnunet.Config(
        base_features=4,
        max_features=16,
        strides=stages(strides),
        kernel_sizes=stages(kernel_sizes),
        num_conv_per_stage=1,
        residual_blocks=blocks,
    )
    problem = Problem(spatial_dims, 2, 3)
    torch.manual_seed(0)
    ours = nnunet.UNet(config, problem).double().train()
    # Biases and normalisations too: as built, every residual block is only its shortcut.
    for parameter in ours.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    theirs = nnunets_own(config, problem, (*blocks, *blocks[-1:] * (len(strides.split()) - len(blocks))))
    theirs = theirs.double().train()
    copy_weights(ours, theirs)
    assert num_parameters(ours) == num_parameters(theirs)

    x = torch.randn(2, 2, *(16, 16, 24)[:spatial_dims], dtype=torch.float64)
    images = x.clone().requires_grad_(), x.clone().requires_grad_()
    outputs, expected = ours(images[0]), theirs(images[1])
    # Same operations in float64, in the same order.
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, reference, rtol=1e-9, atol=1e-9)

    def gradient(logits: Sequence[Tensor], image: Tensor) -> Tensor:
        (values,) = torch.autograd.grad(torch.stack([part.square().mean() for part in logits]).sum(), image)
        return values

    torch.testing.assert_close(gradient(outputs, images[0]), gradient(expected, images[1]), rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), expected[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("variant", "blocks"), [("residual", (1, 3, 4, 6, 6, 6)), ("residual_hippocampus_3d", (1, 3, 4, 6))]
)
def test_counted_variants_have_the_parameters_of_nnunets_own_network(variant: str, blocks: tuple[int, ...]) -> None:
    described = nnunet.VARIANTS[variant]
    with torch.device("meta"):
        theirs = nnunets_own(described.config, described.problem, blocks)
    assert num_parameters(theirs) == described.num_parameters


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_fresh_residual_block_is_its_shortcut_as_in_nnunet(spatial_dims: int) -> None:
    theirs = nnunets_own(nnunet.VARIANTS["residual_tiny"].config, Problem(spatial_dims, 1, 2), (1, 2, 2))
    theirs.apply(theirs.initialize)
    norms = [block.conv2.norm for stage in theirs.encoder.stages for block in stage.blocks]
    ours = nnunet.build(nnunet.VARIANTS["residual_tiny"].config, Problem(spatial_dims, 1, 2))
    our_norms = [list(block.convolutions.children())[-1] for stage in ours.encoder for block in stage]
    for norm in [*norms, *our_norms]:
        assert not norm.weight.any()
        assert not norm.bias.any()
    assert len(norms) == len(our_norms) == 5
