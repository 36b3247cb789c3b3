from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from repro_models.contract import Problem
from repro_models.segmentation import vnet
from tests.counted_macs import num_macs
from tests.fillings import num_parameters

PROBLEM = Problem(spatial_dims=3, in_channels=1, num_classes=2)
TINY = vnet.VARIANTS["tiny"].config
MONAI = vnet.VARIANTS["monai"].config


def on_meta(config: vnet.Config, problem: Problem = PROBLEM) -> Any:
    with torch.device("meta"):
        return vnet.build(config, problem)


@pytest.mark.parametrize(
    ("activation", "in_channels", "num_classes", "expected"),
    [("elu", 4, 3, 45_607_906), ("prelu", 1, 2, 45_601_516), ("elu", 1, 2, 45_597_898)],
)
def test_monai_s_form_has_monai_s_parameters(
    activation: str, in_channels: int, num_classes: int, expected: int
) -> None:
    config = replace(MONAI, activation=activation)
    assert num_parameters(on_meta(config, Problem(3, in_channels, num_classes))) == expected


def test_the_published_description_has_3170_slopes_and_the_stated_operations() -> None:
    variant = vnet.VARIANTS["prototxt"]
    network = on_meta(variant.config)
    slopes = [
        parameter for module in network.modules() if isinstance(module, nn.PReLU) for parameter in [module.weight]
    ]
    assert sum(slope.numel() for slope in slopes) == 3170
    assert variant.size is not None
    assert num_macs(network, 1, variant.size) == variant.num_macs


@pytest.mark.parametrize(
    ("num_channels", "expected"), [(1, [0, 0, 0, 0]), (2, [0, 1, 0, 1]), (3, [0, 1, 2, 0]), (5, [0, 1, 2, 3])]
)
def test_the_first_level_is_added_to_the_image_repeated(num_channels: int, expected: list[int]) -> None:
    network: Any = vnet.build(TINY, Problem(3, num_channels, 2))
    for parameter in network.first.parameters():
        nn.init.zeros_(parameter)
    seen: list[torch.Tensor] = []
    network.first_activation.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(2, num_channels, 8, 8, 8)
    network(x)
    assert torch.equal(seen[0], x[:, expected])


def test_a_level_that_convolves_to_nothing_passes_on_what_it_got() -> None:
    network: Any = vnet.build(TINY, PROBLEM)
    for level in [*network.left, *network.right]:
        for parameter in level.residual.function.parameters():
            nn.init.zeros_(parameter)
        nn.init.ones_(level.residual.activation.weight)
        nn.init.ones_(level.downsampling[-1].weight if level in network.left else level.upsampling[-1].weight)
    x = torch.randn(1, 8, 4, 4, 4)
    down, up = network.left[1], network.right[0]
    torch.testing.assert_close(down(x), down.downsampling[0](x))
    coarse = torch.randn(1, 16, 4, 4, 4)
    torch.testing.assert_close(up(coarse, torch.ones(1, 8, 8, 8, 8))[:, 8:], torch.ones(1, 8, 8, 8, 8))


@pytest.mark.parametrize(("activates_all", "num_activations"), [(False, 1), (True, 2)])
def test_the_last_convolution_is_activated_after_the_sum_alone_unless_asked(
    activates_all: bool, num_activations: int
) -> None:
    network: Any = vnet.build(replace(TINY, activates_all=activates_all), PROBLEM)
    function = network.left[1].residual.function
    assert sum(isinstance(module, nn.PReLU) for module in function) == num_activations
    assert isinstance(function[-1], nn.PReLU) is activates_all


def test_monai_s_dropout_drops_whole_channels_of_the_two_lowest_levels_and_of_all_skips() -> None:
    network: Any = vnet.build(replace(MONAI, base_features=2), PROBLEM)
    assert [level.dropout.p for level in network.left] == [0.0, 0.0, 0.5, 0.5]
    assert [level.dropout.p for level in network.right] == [0.5, 0.5, 0.0, 0.0]
    assert [level.skip_dropout.p for level in network.right] == [0.5] * 4
    dropped = network.right[0].skip_dropout.train()(torch.ones(1, 64, 2, 2, 2)).flatten(2)
    assert set(dropped.sum(dim=2).unique().tolist()) == {0.0, 16.0}


@pytest.mark.parametrize(
    ("changes", "dims", "message"),
    [
        ({"norm": "group"}, 3, "norm='group': must be one of batch, instance, or None"),
        ({"activation": "relu"}, 3, "activation='relu': must be one of prelu, elu"),
        ({"decoder_convs": (1,)}, 3, r"decoder_convs=\(1,\): each side has as many levels as the other"),
        ({}, 1, "spatial_dims=1: V-Net serves 2 and 3"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(changes: dict[str, Any], dims: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vnet.build(replace(vnet.Config(), **changes), Problem(dims, 1, 2))


@pytest.mark.slow
def test_exported_network_gives_the_same_logits() -> None:
    network = vnet.build(TINY, PROBLEM).eval()
    x = torch.randn(1, 1, 8, 8, 8)
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), network(x))
