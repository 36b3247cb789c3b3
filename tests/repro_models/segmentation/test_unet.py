from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from repro_models.blocks.fan_in_init import num_incoming
from repro_models.contract import IllegalSizeError, Problem
from repro_models.segmentation import unet
from tests.counted_macs import num_macs
from tests.fillings import num_parameters

PROBLEM = Problem(spatial_dims=2, in_channels=1, num_classes=2)


def on_meta(config: unet.Config, problem: Problem = PROBLEM) -> Any:
    with torch.device("meta"):
        return unet.build(config, problem)


@pytest.mark.parametrize(("in_channels", "num_classes", "expected"), [(3, 1, 31_031_745), (4, 5, 31_032_581)])
def test_channels_and_classes_count_as_in_the_transcription(in_channels: int, num_classes: int, expected: int) -> None:
    assert num_parameters(on_meta(unet.Config(), Problem(2, in_channels, num_classes))) == expected


def test_the_paper_s_network_has_23_convolutions_and_the_stated_operations() -> None:
    variant = unet.VARIANTS["paper"]
    network = on_meta(variant.config)
    assert sum(isinstance(module, nn.modules.conv._ConvNd) for module in network.modules()) == 23
    assert variant.size is not None
    assert num_macs(network, 1, variant.size) == variant.num_macs


@pytest.mark.parametrize(("size", "expected"), [((572, 572), (388, 388)), ((188, 204), (4, 20))])
def test_unpadded_output_loses_184_pixels_an_axis(size: tuple[int, ...], expected: tuple[int, ...]) -> None:
    network = on_meta(unet.Config(is_padded=False)).eval()
    assert network(torch.empty(1, 1, *size, device="meta")).shape == (1, 2, *expected)


@pytest.mark.parametrize(("side", "fix"), [(172, 188), (187, 188), (189, 204), (192, 204), (572, 572)])
def test_an_illegal_unpadded_side_is_refused_with_the_next_legal_one(side: int, fix: int) -> None:
    config = unet.Config(is_padded=False)
    if side != fix:
        with pytest.raises(IllegalSizeError, match=f"side {side} of axis 1 .* pad the image to {fix},"):
            unet.CONSTRAINTS.check_size(config, (188, side))
    unet.CONSTRAINTS.check_size(config, (188, fix))


def test_a_level_less_needs_a_smaller_unpadded_image() -> None:
    config = unet.Config(features=(2, 4, 4), is_padded=False)
    network = unet.build(config, PROBLEM).eval()
    assert network(torch.zeros(1, 1, 44, 48)).shape == (1, 2, 4, 8)


def test_padding_is_all_that_differs_inside() -> None:
    # Logits of pixels far from the border do not see the padding, where poolings lie on one grid.
    networks: list[Any] = []
    for is_padded in (True, False):
        torch.manual_seed(0)
        networks.append(unet.build(unet.Config(features=(2, 4), is_padded=is_padded), PROBLEM).double().eval())
    x = torch.randn(1, 1, 24, 28, dtype=torch.float64)
    padded, valid = (network(x) for network in networks)
    # 16 pixels fewer: 8 on each side.
    assert valid.shape[2:] == (8, 12)
    torch.testing.assert_close(padded[:, :, 8:16, 8:20], valid)


def test_the_lowest_level_is_dropped_from_in_training_alone() -> None:
    torch.manual_seed(0)
    network: Any = unet.build(replace(unet.VARIANTS["tiny"].config, dropout_probability=0.5), PROBLEM)
    seen: list[torch.Tensor] = []
    network.upsampling[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(1, 1, 32, 32)
    network.train()(x)
    network.eval()(x)
    dropped, kept = seen
    assert (dropped[kept > 0] == 0).float().mean().item() == pytest.approx(0.5, abs=0.1)
    torch.testing.assert_close(dropped[dropped > 0], 2 * kept[dropped > 0])


def test_weights_start_with_a_variance_of_two_over_incoming_values() -> None:
    torch.manual_seed(0)
    network: Any = unet.build(unet.Config(features=(16, 32, 64)), PROBLEM)
    up, conv = network.upsampling[0], network.contracting[2][2]
    assert (num_incoming(up), num_incoming(conv)) == (64, 64 * 9)
    assert up.weight.var().item() == pytest.approx(2 / 64, rel=0.1)
    assert conv.weight.var().item() == pytest.approx(2 / 576, rel=0.1)
    assert (conv.bias == 0).all()


@pytest.mark.parametrize(
    ("changes", "dims", "message"),
    [
        ({"norm": "group"}, 2, "norm='group': must be one of batch, instance, or None"),
        ({"features": (8,)}, 2, r"features=\(8,\): must be the channels of two levels or more"),
        ({}, 1, "spatial_dims=1: U-Net serves 2 and 3"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(changes: dict[str, Any], dims: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unet.build(replace(unet.Config(), **changes), Problem(dims, 1, 2))


@pytest.mark.slow
def test_exported_network_gives_the_same_logits() -> None:
    network = unet.build(unet.VARIANTS["tiny"].config, PROBLEM).eval()
    x = torch.randn(1, 1, 16, 16)
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), network(x))
