from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from repro_models.contract import IllegalSizeError, Problem, SupervisedLogits
from repro_models.segmentation import fcn
from tests.fillings import num_parameters

PROBLEM = Problem(spatial_dims=2, in_channels=1, num_classes=2)
TINY = replace(fcn.VARIANTS["tiny"].config, dropout=0.0)


def test_bilinear_kernel_of_stride_2_by_hand() -> None:
    kernel = fcn.bilinear_kernel(2, 2)
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    torch.testing.assert_close(kernel[0, 0], torch.outer(line, line))
    torch.testing.assert_close(kernel[1, 1], kernel[0, 0])
    assert kernel[0, 1].eq(0).all()
    assert kernel[1, 0].eq(0).all()


@pytest.mark.parametrize(("stride", "frozen"), [(8, 127_008), (16, 458_640), (32, 1_806_336)])
def test_frozen_parameters_are_those_of_the_bilinear_enlargements(stride: int, frozen: int) -> None:
    with torch.device("meta"):
        network = fcn.build(fcn.Config(stride=stride), Problem(2, 3, 21))
    assert sum(p.numel() for p in network.parameters() if not p.requires_grad) == frozen


@pytest.mark.parametrize(
    ("stride", "count"), [(8, 134_292_079), (16, 134_309_594), (32, 134_383_429)], ids=["8s", "16s", "32s"]
)
def test_counts_for_five_classes_are_the_published_ports(stride: int, count: int) -> None:
    with torch.device("meta"):
        assert num_parameters(fcn.build(fcn.Config(stride=stride), Problem(2, 3, 5))) == count


def only_coarse_scores(network: Any) -> None:
    """Scores of finer poolings give nothing, those of the coarsest map 1 and 2 whatever the image."""
    for score in network.scores:
        nn.init.zeros_(score.weight)
        nn.init.zeros_(score.bias)
    network.scores[0].bias.data.copy_(torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("has_wide_padding", [True, False])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_bilinear_enlargement_keeps_constants_away_from_the_frame(stride: int, has_wide_padding: bool) -> None:
    network: Any = fcn.build(replace(TINY, stride=stride, has_wide_padding=has_wide_padding), PROBLEM).eval()
    only_coarse_scores(network)
    with torch.no_grad():
        output = network(torch.randn(1, 1, 160, 160))
    # Nearer to it, a score has zeros for neighbours.
    inner = output[:, :, 48:-48, 48:-48]
    torch.testing.assert_close(inner, torch.tensor([1.0, 2.0])[None, :, None, None].expand_as(inner))


@pytest.mark.parametrize("has_wide_padding", [True, False])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_scores_lie_over_the_pixels_they_see(stride: int, has_wide_padding: bool) -> None:
    """Mirror a network and its image, and the logits are mirrored: paddings and cuts are the same on both sides."""
    torch.manual_seed(0)
    config = replace(TINY, stride=stride, has_wide_padding=has_wide_padding)
    network: Any = fcn.build(config, PROBLEM).eval()
    # With a padding of 100 the poolings have no rest on the far side where a side is 32 n + 26.
    side = 58 if has_wide_padding else 64
    for score in network.scores:
        nn.init.normal_(score.weight)
    x = torch.randn(1, 1, side, side)
    with torch.no_grad():
        straight = network(x)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.flip(2, 3)
        mirrored = network(x.flip(2, 3)).flip(2, 3)
    torch.testing.assert_close(straight, mirrored, rtol=1e-4, atol=1e-5)
    assert straight.std() > 1e-3


def test_skip_scales_multiply_the_poolings_and_not_their_biases() -> None:
    plain: Any = fcn.build(TINY, PROBLEM).eval()
    scaled: Any = fcn.build(replace(TINY, skip_scales=(0.5, 0.25)), PROBLEM).eval()
    scaled.load_state_dict(plain.state_dict())
    plain.scores[1].weight.data *= 0.25
    plain.scores[2].weight.data *= 0.5
    x = torch.randn(1, 1, 40, 33)
    with torch.no_grad():
        torch.testing.assert_close(scaled(x), plain(x))


@pytest.mark.parametrize(("learns_doubling", "learned"), [(False, 0), (True, 2)])
def test_the_first_papers_doublings_are_learned_and_the_last_enlargement_never_is(
    learns_doubling: bool, learned: int
) -> None:
    network: Any = fcn.build(replace(TINY, learns_doubling=learns_doubling), PROBLEM)
    assert sum(layer.weight.requires_grad for layer in network.doublings) == learned
    assert not network.to_image.weight.requires_grad


def test_torchvisions_network_guesses_twice_in_training_and_once_after_it() -> None:
    config = fcn.Config(backbone="resnet", base_features=4, num_blocks=(1, 1, 1, 1))
    network = fcn.build(config, PROBLEM)
    output = network.train()(torch.randn(2, 1, 17, 20))
    assert isinstance(output, SupervisedLogits)
    assert [tuple(logits.shape) for logits in output.logits] == [(2, 2, 17, 20)] * 2
    assert output.weights == (1.0, 0.5)
    assert network.eval()(torch.randn(1, 1, 17, 20)).shape == (1, 2, 17, 20)
    with pytest.raises(IllegalSizeError, match="side 8 of axis 0 must be a multiple of 1 and at least 9"):
        network(torch.zeros(1, 1, 8, 16))


@pytest.mark.parametrize(
    ("problem", "changes", "message"),
    [
        (Problem(3, 1, 2), {}, "spatial_dims=3: FCN serves 2; take `configuration: 2d`"),
        (PROBLEM, {"stride": 4}, "stride=4: must be 8, 16 or 32"),
        (PROBLEM, {"backbone": "vgg19"}, "backbone='vgg19': must be 'vgg16' or 'resnet'"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(problem: Problem, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fcn.build(replace(TINY, **changes), problem)
