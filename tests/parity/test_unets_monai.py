"""Our U-Net, U-Net++ and V-Net against MONAI's with the same weights, in two and three dimensions.

Ours are set to what MONAI has (`Differs` in their files): instance normalisation and a leaky ReLU in the U-Nets, batch
normalisation and the convolutions of a port in V-Net.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from repro_models.contract import Problem
from repro_models.segmentation import unet, unet_plus_plus, vnet

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

# Same operations in float64, in another order: rounding of some dozen layers.
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}
SIZES = [pytest.param((32, 48, 32), id="3d"), pytest.param((32, 48), id="2d")]
# Levels that do not double, of which the finest two are equal as in MONAI's defaults, or that do.
FEATURES = [pytest.param((4, 4, 8, 16, 32), False, id="default"), pytest.param((4, 8, 16, 32, 64), True, id="doubling")]


def copy(ours: nn.Module, theirs: Any) -> None:
    ours.load_state_dict(theirs.state_dict())


def copy_two_convs(ours: Any, theirs: Any) -> None:
    for conv, norm, their in ((ours[0], ours[1], theirs.conv_0), (ours[3], ours[4], theirs.conv_1)):
        copy(conv, their.conv)
        copy(norm, their.adn.N)


def draw_norms(network: nn.Module) -> None:
    """Scales, shifts and running statistics that are not all the same."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.weight is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            if isinstance(module.running_mean, torch.Tensor) and isinstance(module.running_var, torch.Tensor):
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 1.5)


def image(size: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(1, 2, *size, dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("features", "keeps_top_channels"), FEATURES)
def test_unet_equals_monai(size: tuple[int, ...], features: tuple[int, ...], keeps_top_channels: bool) -> None:
    from monai.networks.nets.basic_unet import BasicUNet

    torch.manual_seed(0)
    config = unet.Config(features=features, norm="instance", negative_slope=0.1, keeps_top_channels=keeps_top_channels)
    ours: Any = unet.build(config, Problem(len(size), 2, 3)).double().eval()
    theirs: Any = BasicUNet(len(size), 2, 3, (*features, features[0])).double().eval()
    draw_norms(theirs)
    downs = [theirs.conv_0, *(down.convs for down in (theirs.down_1, theirs.down_2, theirs.down_3, theirs.down_4))]
    for level, reference in zip(ours.contracting, downs, strict=True):
        copy_two_convs(level, reference)
    ups = [theirs.upcat_4, theirs.upcat_3, theirs.upcat_2, theirs.upcat_1]
    for up, level, reference in zip(ours.upsampling, ours.expanding, ups, strict=True):
        copy(up, reference.upsample.deconv)
        copy_two_convs(level, reference.convs)
    copy(ours.head, theirs.final_conv)
    x = image(size)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), **TOLERANCE)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("features", "keeps_top_channels"), FEATURES)
def test_unet_plus_plus_equals_monai(
    size: tuple[int, ...], features: tuple[int, ...], keeps_top_channels: bool
) -> None:
    from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus

    torch.manual_seed(0)
    config = unet_plus_plus.Config(
        features=features,
        dropout_probability=0.0,
        norm="instance",
        negative_slope=0.1,
        keeps_top_channels=keeps_top_channels,
    )
    ours: Any = unet_plus_plus.build(config, Problem(len(size), 2, 3)).double().train()
    theirs: Any = BasicUNetPlusPlus(len(size), 2, 3, (*features, features[0]), deep_supervision=True).double()
    draw_norms(theirs)
    copy_two_convs(ours.encoder[0], theirs.conv_0_0)
    for i in range(1, 5):
        copy_two_convs(ours.encoder[i], getattr(theirs, f"conv_{i}_0").convs)
        copy(ours.heads[i - 1], getattr(theirs, f"final_conv_0_{i}"))
    for i, (ups, nodes) in enumerate(zip(ours.upsampling, ours.nodes, strict=True)):
        for j, (up, node) in enumerate(zip(ups, nodes, strict=True), start=1):
            reference = getattr(theirs, f"upcat_{i}_{j}")
            copy(up, reference.upsample.deconv)
            copy_two_convs(node, reference.convs)
            # MONAI joins what is upsampled on the right, and the paper's authors on the left.
            node[0].weight.data = node[0].weight.data.roll(up.out_channels, dims=1)
    x = image(size)
    with torch.no_grad():
        for our, their in zip(ours(x).logits, theirs(x)[::-1], strict=True):
            torch.testing.assert_close(our, their, **TOLERANCE)


def copy_residual(ours: Any, convs: Any, last_activation: Any) -> None:
    """Convolution, normalisation and activation of each of MONAI's."""
    layers = list(ours.function)
    for number, reference in enumerate(convs):
        copy(layers[3 * number], reference.conv_block.conv)
        copy(layers[3 * number + 1], reference.conv_block.adn.N)
        copy(layers[3 * number + 2], reference.act_function)
    copy(ours.activation, last_activation)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("activation", ["elu", "prelu"])
def test_vnet_equals_monai(size: tuple[int, ...], activation: str) -> None:
    from monai.networks.nets.vnet import VNet

    torch.manual_seed(0)
    # MONAI's first level has 16 channels.
    config = replace(vnet.VARIANTS["monai"].config, activation=activation)
    ours: Any = vnet.build(config, Problem(len(size), 2, 3)).double().eval()
    theirs: Any = VNet(len(size), 2, 3, act=activation).double().eval()
    draw_norms(theirs)
    copy(ours.first[0], theirs.in_tr.conv_block.conv)
    copy(ours.first[1], theirs.in_tr.conv_block.adn.N)
    copy(ours.first_activation, theirs.in_tr.act_function)
    downs = [theirs.down_tr32, theirs.down_tr64, theirs.down_tr128, theirs.down_tr256]
    for level, reference in zip(ours.left, downs, strict=True):
        for layer, their in zip(
            level.downsampling, (reference.down_conv, reference.bn1, reference.act_function1), strict=True
        ):
            copy(layer, their)
        copy_residual(level.residual, reference.ops, reference.act_function2)
    ups = [theirs.up_tr256, theirs.up_tr128, theirs.up_tr64, theirs.up_tr32]
    for level, reference in zip(ours.right, ups, strict=True):
        for layer, their in zip(
            level.upsampling, (reference.up_conv, reference.bn1, reference.act_function1), strict=True
        ):
            copy(layer, their)
        copy_residual(level.residual, reference.ops, reference.act_function2)
    last = theirs.out_tr
    for layer, their in zip(
        ours.head, (last.conv_block.conv, last.conv_block.adn.N, last.act_function1, last.conv2), strict=True
    ):
        copy(layer, their)
    x = image(size)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), **TOLERANCE)
