from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from repro_models.blocks.dense_crf import DenseCRF
from repro_models.contract import IllegalSizeError, Problem, SupervisedLogits
from repro_models.segmentation import deeplab
from tests.fillings import num_parameters

PROBLEM = Problem(spatial_dims=2, in_channels=1, num_classes=2)
TINY = replace(deeplab.VARIANTS["tiny"].config, input_scales=())
TINY_VGG = replace(TINY, backbone="vgg16", fc_features=8, dropout=0.0)


def test_count_of_one_unit_a_stage_is_the_published_ports() -> None:
    with torch.device("meta"):
        network = deeplab.build(deeplab.Config(num_blocks=(1, 1, 1, 1)), Problem(2, 3, 5))
    assert num_parameters(network) == 8_384_596


@pytest.mark.parametrize("config", [TINY, TINY_VGG], ids=["resnet", "vgg16"])
@pytest.mark.parametrize("side", [9, 17, 41])
def test_scores_lie_at_every_eighth_pixel(config: deeplab.Config, side: int) -> None:
    network: Any = deeplab.build(config, PROBLEM).eval()
    with torch.no_grad():
        x = torch.randn(1, 1, side, side)
        torch.testing.assert_close(network(x)[..., ::8, ::8], network.scores(x), rtol=1e-4, atol=1e-6)


def test_between_scores_logits_are_linear_and_beyond_the_last_one_constant() -> None:
    scores = torch.tensor([0.0, 8.0]).expand(1, 1, 2, 2)
    row = deeplab.spread(scores, torch.Size((3, 12)))[0, 0, 0]
    torch.testing.assert_close(row, torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8]))


@pytest.mark.parametrize("config", [TINY, TINY_VGG], ids=["resnet", "vgg16"])
@pytest.mark.parametrize("size", [(9, 16), (18, 31), (12, 23)])
def test_logits_have_the_size_of_the_image(config: deeplab.Config, size: tuple[int, int]) -> None:
    assert deeplab.build(config, PROBLEM).eval()(torch.randn(1, 1, *size)).shape == (1, 2, *size)


def test_vgg_keeps_its_sides_at_the_last_two_poolings() -> None:
    network: Any = deeplab.build(TINY_VGG, PROBLEM)
    assert [pool.stride for pool in network.scores.pools] == [2, 2, 2, 1, 1]
    assert [m.dilation[0] for m in network.scores.stages[4] if isinstance(m, nn.Conv2d)] == [2, 2, 2]


def test_branches_of_the_pyramid_are_added() -> None:
    network: Any = deeplab.build(TINY_VGG, PROBLEM).eval()
    for branch, bias in zip(network.scores.branches, (1.0, 2.0, 4.0, 8.0), strict=True):
        nn.init.zeros_(branch[-1].weight)
        nn.init.constant_(branch[-1].bias, bias)
    torch.testing.assert_close(network(torch.randn(1, 1, 9, 9)), torch.full((1, 2, 9, 9), 15.0))
    assert [branch[0].dilation[0] for branch in network.scores.branches] == [6, 12, 18, 24]


def test_only_v1_averages_before_its_large_field_of_view() -> None:
    pools = [
        isinstance(deeplab.build(config, PROBLEM).scores.average, nn.AvgPool2d)  # type: ignore[union-attr]
        for config in (replace(TINY_VGG, has_average_pooling=True), TINY_VGG)
    ]
    assert pools == [True, False]
    assert deeplab.VARIANTS["v1"].config.has_average_pooling


def test_smaller_images_are_fused_by_the_maximum_and_each_has_a_loss() -> None:
    torch.manual_seed(0)
    network: Any = deeplab.build(replace(TINY, input_scales=(0.75, 0.5)), PROBLEM)
    x = torch.randn(2, 1, 33, 24)
    output = network.train()(x)
    assert isinstance(output, SupervisedLogits)
    assert output.weights == (1.0, 1.0, 1.0, 1.0)
    assert [tuple(logits.shape) for logits in output.logits] == [(2, 2, 33, 24)] * 4
    with torch.no_grad():
        logits = network.eval()(x)
        alone = network.scores(x)
        half = network.scores(functional.interpolate(x, size=(17, 12), mode="bilinear"))
        half = functional.interpolate(half, size=alone.shape[2:], mode="bilinear")
    # At its scores' own pixels the fusion is no less than either.
    assert (logits[..., ::8, ::8] >= torch.maximum(alone, half)[..., :3] - 1e-5).all()


def test_the_smallest_image_of_several_scales_must_be_legal() -> None:
    network = deeplab.build(replace(TINY, input_scales=(0.5,)), PROBLEM)
    assert network.train()(torch.randn(1, 1, 18, 18)).logits[0].shape == (1, 2, 18, 18)
    with pytest.raises(IllegalSizeError, match=r"side 17 of axis 1 .* at least 18"):
        network(torch.zeros(1, 1, 18, 17))


def test_the_field_refines_by_the_image_after_training_only() -> None:
    torch.manual_seed(0)
    config = replace(TINY, num_crf_iterations=2, crf_weights=(1.0, 2.0), crf_stds_pixels=(5.0, 1.5))
    plain, refining = deeplab.build(TINY, PROBLEM), deeplab.build(config, PROBLEM)
    refining.load_state_dict(plain.state_dict())
    x = torch.randn(2, 1, 9, 12)
    with torch.no_grad():
        expected = DenseCRF(1.0, 5.0, config.crf_intensity_std, 2.0, 1.5, 2)(plain.eval()(x), x)
        torch.testing.assert_close(refining.eval()(x), expected)
        torch.testing.assert_close(refining.train()(x), plain.train()(x))


@pytest.mark.parametrize(
    ("problem", "changes", "message"),
    [
        (Problem(3, 1, 2), {}, "spatial_dims=3: DeepLab serves 2; take `configuration: 2d`"),
        (PROBLEM, {"backbone": "xception"}, "backbone='xception': must be 'resnet' or 'vgg16'"),
        (PROBLEM, {"rates": ()}, r"rates=\(\): give one rate or more, each 1 or more"),
        (PROBLEM, {"input_scales": (1.0,)}, r"input_scales=\(1.0,\): must lie between 0 and 1"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(problem: Problem, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deeplab.build(replace(TINY, **changes), problem)
