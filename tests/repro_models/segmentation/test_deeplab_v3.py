from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from repro_models.contract import IllegalSizeError, Problem, SupervisedLogits
from repro_models.segmentation import deeplab_v3

PROBLEM = Problem(spatial_dims=2, in_channels=1, num_classes=2)
TINY = deeplab_v3.VARIANTS["tiny"].config


def pyramid_rates(network: Any) -> list[int]:
    convolutions = [m for m in network.pyramid.modules() if isinstance(m, nn.Conv2d)]
    return [conv.dilation[0] for conv in convolutions if conv.kernel_size == (3, 3)]


@pytest.mark.parametrize(
    ("output_stride", "atrous_rates", "rates"),
    [(16, None, [6, 12, 18]), (8, None, [12, 24, 36]), (8, (6, 12, 18), [6, 12, 18])],
)
def test_rates_double_at_an_eighth_unless_given(
    output_stride: int, atrous_rates: tuple[int, ...] | None, rates: list[int]
) -> None:
    config = replace(TINY, output_stride=output_stride, atrous_rates=atrous_rates)
    assert pyramid_rates(deeplab_v3.build(config, PROBLEM)) == rates


@pytest.mark.parametrize(("output_stride", "dilations"), [(16, [2, 4, 8]), (8, [4, 8, 16])])
def test_multi_grid_multiplies_the_dilations_of_the_last_stage(output_stride: int, dilations: list[int]) -> None:
    config = replace(TINY, num_blocks=(1, 1, 1, 3), multi_grid=(1, 2, 4), output_stride=output_stride)
    network: Any = deeplab_v3.build(config, PROBLEM)
    convolutions = [m for m in network.encoder.stages[3].modules() if isinstance(m, nn.Conv2d)]
    assert [conv.dilation[0] for conv in convolutions if conv.kernel_size == (3, 3)] == dilations


@pytest.mark.parametrize(("output_stride", "sides"), [(16, (3, 5)), (8, (5, 9))])
def test_scores_lie_at_the_output_stride(output_stride: int, sides: tuple[int, int]) -> None:
    network: Any = deeplab_v3.build(replace(TINY, output_stride=output_stride), PROBLEM).eval()
    assert network.scores(torch.zeros(1, 1, 33, 65)).shape == (1, 2, *sides)
    assert network(torch.zeros(1, 1, 33, 65)).shape == (1, 2, 33, 65)


def test_without_its_image_pooling_the_output_is_another() -> None:
    network: Any = deeplab_v3.build(TINY, PROBLEM).eval()
    x = torch.randn(1, 1, 33, 33)
    before = network(x)
    nn.init.zeros_(network.pyramid.branches[-1].norm.weight)
    nn.init.zeros_(network.pyramid.branches[-1].norm.bias)
    assert not torch.allclose(network(x), before)


def test_the_auxiliary_head_speaks_in_training_only() -> None:
    network = deeplab_v3.build(TINY, PROBLEM)
    output = network.train()(torch.randn(2, 1, 17, 20))
    assert isinstance(output, SupervisedLogits)
    assert [tuple(logits.shape) for logits in output.logits] == [(2, 2, 17, 20)] * 2
    assert output.weights == (1.0, 0.5)
    assert isinstance(network.eval()(torch.randn(1, 1, 17, 20)), torch.Tensor)


def test_one_image_alone_can_be_trained_with() -> None:
    network = deeplab_v3.build(replace(TINY, has_auxiliary_head=False), PROBLEM).train()
    network(torch.randn(1, 1, 17, 17)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("output_stride", [8, 16])
def test_a_side_that_ends_in_one_pixel_is_refused(output_stride: int) -> None:
    network = deeplab_v3.build(replace(TINY, output_stride=output_stride), PROBLEM)
    with pytest.raises(IllegalSizeError, match=f"side {output_stride} of axis 1 .* at least {output_stride + 1}"):
        network(torch.zeros(1, 1, 33, output_stride))


@pytest.mark.parametrize(
    ("problem", "changes", "message"),
    [
        (Problem(3, 1, 2), {}, "spatial_dims=3: DeepLab V3 serves 2; take `configuration: 2d`"),
        (PROBLEM, {"backbone": "vgg16"}, "backbone='vgg16': must be 'resnet' or 'mobilenet_v3'"),
        (PROBLEM, {"output_stride": 32}, "output_stride=32: must be 8 or 16 for backbone='resnet'"),
        (
            PROBLEM,
            {"backbone": "mobilenet_v3", "output_stride": 8},
            "output_stride=8: must be 16 for backbone='mobilenet_v3'",
        ),
        (PROBLEM, {"backbone": "mobilenet_v3"}, "has_auxiliary_head=True: the auxiliary head stands on a ResNet"),
        (PROBLEM, {"multi_grid": (1, 2, 4)}, "the last stage has 1 units and wants a factor for each"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(problem: Problem, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deeplab_v3.build(replace(TINY, **changes), problem)
