from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.contract import IllegalSizeError, Problem
from repro_models.segmentation import deeplab_v3_plus

PROBLEM = Problem(spatial_dims=2, in_channels=1, num_classes=2)
TINY = deeplab_v3_plus.VARIANTS["tiny"].config


def input_of(module: nn.Module) -> list[Tensor]:
    seen: list[Tensor] = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


@pytest.mark.parametrize("size", [(33, 48), (50, 19)])
def test_the_decoder_joins_features_and_low_level_map_at_a_quarter(size: tuple[int, int]) -> None:
    network: Any = deeplab_v3_plus.build(TINY, PROBLEM).eval()
    seen = input_of(network.decoder)
    assert network(torch.zeros(1, 1, *size)).shape == (1, 2, *size)
    assert seen[0].shape == (1, 8 + 4, -(-size[0] // 4), -(-size[1] // 4))


@pytest.mark.parametrize(("joins_low_level_first", "start"), [(False, 8), (True, 0)])
def test_the_low_level_map_comes_last_or_first(joins_low_level_first: bool, start: int) -> None:
    config = replace(TINY, joins_low_level_first=joins_low_level_first)
    network: Any = deeplab_v3_plus.build(config, PROBLEM).eval()
    seen, reduced = input_of(network.decoder), []
    network.reduction.register_forward_hook(lambda _, __, output: reduced.append(output))
    network(torch.randn(1, 1, 17, 17))
    assert torch.equal(seen[0][:, start : start + 4], reduced[0])


@pytest.mark.parametrize("aligns_centres", [False, True])
def test_maps_are_enlarged_by_their_corners_or_by_the_centres_there(aligns_centres: bool) -> None:
    network: Any = deeplab_v3_plus.build(replace(TINY, aligns_centres=aligns_centres), PROBLEM).eval()
    coarse: list[Tensor] = []
    network.classifier.register_forward_hook(lambda _, __, output: coarse.append(output))
    logits = network(torch.randn(1, 1, 32, 48))
    expected = functional.interpolate(coarse[0], size=(32, 48), mode="bilinear", align_corners=aligns_centres)
    assert torch.equal(logits, expected)


@pytest.mark.parametrize(
    ("separable", "groups"), [("no", {1}), ("plain", {1, 8, 12, 128}), ("normalised", {1, 8, 12, 128})]
)
def test_pyramid_and_decoder_are_separable_where_asked(separable: str, groups: set[int]) -> None:
    network: Any = deeplab_v3_plus.build(replace(TINY, separable=separable), PROBLEM)
    convolutions = [m for part in (network.pyramid, network.decoder) for m in part.modules()]
    assert {m.groups for m in convolutions if isinstance(m, nn.Conv2d)} == groups


@pytest.mark.parametrize("num_convs", [1, 2, 3])
def test_the_decoder_has_the_convolutions_it_was_asked_for(num_convs: int) -> None:
    network: Any = deeplab_v3_plus.build(replace(TINY, separable="no", num_decoder_convs=num_convs), PROBLEM)
    assert len([m for m in network.decoder if isinstance(m, nn.Conv2d)]) == num_convs


@pytest.mark.parametrize("backbone", ["xception", "mobilenet_v2"])
def test_other_encoders_serve_the_same_sides(backbone: str) -> None:
    network = deeplab_v3_plus.build(replace(TINY, backbone=backbone, base_features=2), PROBLEM)
    network.train()(torch.randn(2, 1, 17, 20)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert network.eval()(torch.zeros(1, 1, 33, 40)).shape == (1, 2, 33, 40)


def test_the_ports_unpadded_start_needs_two_pixels_more() -> None:
    config = replace(TINY, backbone="mobilenet_v2", has_port_padding=True)
    network = deeplab_v3_plus.build(config, PROBLEM).train()
    assert network(torch.randn(2, 1, 19, 19)).shape == (2, 2, 19, 19)
    with pytest.raises(IllegalSizeError, match=r"side 18 of axis 0 .* at least 19"):
        network(torch.zeros(2, 1, 18, 19))


@pytest.mark.parametrize(
    ("problem", "changes", "message"),
    [
        (Problem(3, 1, 2), {}, r"spatial_dims=3: DeepLab V3\+ serves 2; take `configuration: 2d`"),
        (PROBLEM, {"backbone": "vgg16"}, "backbone='vgg16': must be one of resnet, xception, mobilenet_v2"),
        (PROBLEM, {"output_stride": 32}, "output_stride=32: must be 8 or 16 for backbone='resnet'"),
        (
            PROBLEM,
            {"backbone": "mobilenet_v2", "output_stride": 8},
            "output_stride=8: must be 16 for backbone='mobilenet_v2'",
        ),
        (PROBLEM, {"separable": "yes"}, "separable='yes': must be one of no, plain, normalised"),
        (PROBLEM, {"has_port_padding": True}, "has_port_padding=True: only the port's MobileNetV2 pads so"),
        (PROBLEM, {"num_decoder_convs": 0}, "num_decoder_convs=0: must be 1 or more; the paper has 2"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(problem: Problem, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deeplab_v3_plus.build(replace(TINY, **changes), problem)
