from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from repro_models.blocks.vgg import vgg_convs, vgg_stages, vgg_widths
from tests.fillings import num_parameters


def test_thirteen_convolutions_have_the_parameters_of_vgg_16_without_its_fully_connected_layers() -> None:
    with torch.device("meta"):
        stages = vgg_stages(3)
    # 138,357,544 in all; 102,764,544, 16,781,312 and 4,097,000 of them fully connected.
    assert num_parameters(stages) == 138_357_544 - 102_764_544 - 16_781_312 - 4_097_000
    assert [len([m for m in stage if isinstance(m, nn.Conv2d)]) for stage in stages] == [2, 2, 3, 3, 3]  # type: ignore[union-attr]


def test_only_the_last_stage_dilates_and_only_the_first_convolution_pads_otherwise() -> None:
    stages: Any = vgg_stages(1, 2, last_dilation=2, first_padding=7)
    convolutions = [m for stage in stages for m in stage if isinstance(m, nn.Conv2d)]
    assert [conv.dilation[0] for conv in convolutions] == [1] * 10 + [2] * 3
    assert [conv.padding[0] for conv in convolutions] == [7] + [1] * 9 + [2] * 3


def test_widths_double_three_times() -> None:
    assert vgg_widths(3) == [3, 6, 12, 24, 24]


@pytest.mark.parametrize(
    ("has_norm", "has_relu", "kinds"),
    [
        (True, True, [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2),
        (True, False, [nn.Conv2d, nn.BatchNorm2d] * 2),
        (False, True, [nn.Conv2d, nn.ReLU] * 2),
    ],
)
def test_what_follows_a_convolution_is_what_was_asked_for(has_norm: bool, has_relu: bool, kinds: list[type]) -> None:
    convs = vgg_convs([1, 2, 3], 7, has_norm=has_norm, has_relu=has_relu)
    assert [type(module) for module in convs] == kinds
    assert convs(torch.zeros(2, 1, 5, 6)).shape == (2, 3, 5, 6)
