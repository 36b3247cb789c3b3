from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from repro_models.blocks.mobilenet import MobileNetV2, MobileNetV3
from tests.fillings import num_parameters


@pytest.mark.parametrize(
    ("network", "count"),
    [
        # Published classifiers of ImageNet less what follows the last map that is used here.
        pytest.param(MobileNetV2, 3_504_872 - (320 * 1280 + 2 * 1280) - (1280 * 1000 + 1000), id="v2"),
        pytest.param(MobileNetV3, 5_483_032 - (960 * 1280 + 1280) - (1280 * 1000 + 1000), id="v3"),
    ],
)
def test_encoder_has_the_parameters_of_the_classifier_less_its_end(network: Any, count: int) -> None:
    with torch.device("meta"):
        assert num_parameters(network(3)) == count


@pytest.mark.parametrize(("network", "channels"), [(MobileNetV2, [24, 320]), (MobileNetV3, [24, 960])])
def test_maps_lie_at_a_quarter_and_a_sixteenth(network: Any, channels: list[int]) -> None:
    encoder = network(1).eval()
    maps = encoder(torch.zeros(1, 1, 33, 48))
    assert [tuple(level.shape[1:]) for level in maps] == [(channels[0], 9, 12), (channels[1], 3, 3)]
    assert encoder.channels == channels


def dilations(encoder: nn.Module) -> list[int]:
    depthwise = [m for m in encoder.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    return [conv.dilation[0] for conv in depthwise]


def test_v2_leaves_the_first_unit_that_would_stride_undilated_and_v3_does_not() -> None:
    assert dilations(MobileNetV2(1)) == [1] * 14 + [2] * 3
    assert dilations(MobileNetV3(1)) == [1] * 12 + [2] * 3


def test_port_padding_lets_biases_into_the_frame_of_the_expanded_map() -> None:
    """Zeros around the input become ReLU6(bias) around the expanded map, and the first convolution loses a frame."""
    encoder: Any = MobileNetV2(1, has_port_padding=True).eval()
    assert encoder.stem(torch.zeros(1, 1, 33, 33)).shape[2:] == (16, 16)
    expand_norm = encoder.stages[1][1].convs[1]
    nn.init.constant_(expand_norm.bias, 3.0)
    seen: list[torch.Tensor] = []
    encoder.stages[1][1].convs[3].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder.stages[1][1](torch.zeros(1, 24, 4, 4))
    assert seen[0].shape[2:] == (6, 6)
    assert seen[0][:, :, 0].eq(3.0).all()
