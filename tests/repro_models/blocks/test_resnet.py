from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from repro_models.blocks.resnet import ResNet
from tests.fillings import num_parameters


def three_by_three(network: ResNet, stage: int) -> list[Any]:
    convolutions = [m for m in network.stages[stage].modules() if isinstance(m, nn.Conv2d)]
    return [conv for conv in convolutions if conv.kernel_size == (3, 3)]


@pytest.mark.parametrize(
    ("num_blocks", "is_bottleneck", "count"),
    [
        # Of the classifiers of ImageNet, less 1000 * (512 or 2048) + 1000 of the last layer.
        pytest.param((2, 2, 2, 2), False, 11_689_512 - 513_000, id="resnet18"),
        pytest.param((3, 4, 6, 3), False, 21_797_672 - 513_000, id="resnet34"),
        pytest.param((3, 4, 6, 3), True, 25_557_032 - 2_049_000, id="resnet50"),
        pytest.param((3, 4, 23, 3), True, 44_549_160 - 2_049_000, id="resnet101"),
    ],
)
def test_published_sizes_have_the_parameters_of_the_classifier_less_its_last_layer(
    num_blocks: tuple[int, ...], is_bottleneck: bool, count: int
) -> None:
    with torch.device("meta"):
        assert num_parameters(ResNet(3, num_blocks, is_bottleneck=is_bottleneck)) == count


@pytest.mark.parametrize(
    ("output_stride", "sides"), [(32, [20, 10, 5, 3, 2]), (16, [20, 10, 5, 3, 3]), (8, [20, 10, 5, 5, 5])]
)
def test_maps_halve_down_to_the_output_stride_rounding_up(output_stride: int, sides: list[int]) -> None:
    network = ResNet(2, (1, 1, 1, 1), base_features=2, is_bottleneck=False, output_stride=output_stride).eval()
    maps = network(torch.randn(1, 2, 39, 40))
    assert [tuple(level.shape[2:]) for level in maps] == [(side, side) for side in sides]
    assert [level.shape[1] for level in maps] == network.channels == [2, 2, 4, 8, 16]


def test_three_stages_end_at_a_sixteenth() -> None:
    network = ResNet(1, (1, 1, 1), base_features=2).eval()
    maps = network(torch.randn(1, 1, 32, 32))
    assert [tuple(level.shape[1:]) for level in maps] == [(2, 16, 16), (8, 8, 8), (16, 4, 4), (32, 2, 2)]


def test_a_stage_that_keeps_its_side_dilates_by_the_stride_it_lost() -> None:
    network = ResNet(1, (1, 1, 2, 3), base_features=2, output_stride=8, multi_grid=(1, 2, 4))
    assert [conv.dilation[0] for conv in three_by_three(network, 2)] == [2, 2]
    assert [conv.dilation[0] for conv in three_by_three(network, 3)] == [4, 8, 16]


def test_the_first_unit_may_keep_the_dilation_of_the_stage_before() -> None:
    network = ResNet(1, (1, 1, 2, 3), base_features=2, output_stride=8, dilates_first_unit=False)
    assert [conv.dilation[0] for conv in three_by_three(network, 2)] == [1, 2]
    assert [conv.dilation[0] for conv in three_by_three(network, 3)] == [2, 4, 4]


@pytest.mark.parametrize(("strides_first_conv", "strides"), [(True, [2, 1, 1]), (False, [1, 2, 1])])
def test_the_stride_stands_in_the_first_or_in_the_second_convolution(
    strides_first_conv: bool, strides: list[int]
) -> None:
    unit: Any = ResNet(1, (1, 1), base_features=2, strides_first_conv=strides_first_conv).stages[1][0]  # type: ignore[index]
    assert [m.stride[0] for m in unit.residual if isinstance(m, nn.Conv2d)] == strides
    assert unit.shortcut[0].stride == (2, 2)


def test_pooling_may_keep_a_last_odd_row() -> None:
    sides = [
        ResNet(1, (1,), base_features=2, pool_rounds_up=rounds_up).eval()(torch.zeros(1, 1, 16, 16))[1].shape[2]
        for rounds_up in (False, True)
    ]
    assert sides == [4, 5]


def test_a_unit_whose_convolutions_give_nothing_passes_its_positive_input() -> None:
    network: Any = ResNet(1, (1,), base_features=2, is_bottleneck=False).eval()
    unit = network.stages[0][0]
    for parameter in unit.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(1, 2, 4, 4)
    assert torch.equal(unit(x), x.relu())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output_stride": 12}, "output_stride=12: must be 4, 8, 16 or 32"),
        ({"multi_grid": (1, 2)}, r"multi_grid=\(1, 2\): the last stage has 3 units and wants a factor for each"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNet(1, **arguments)
