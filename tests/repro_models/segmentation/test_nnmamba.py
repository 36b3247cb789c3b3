from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repro_models.blocks.mamba_mixer import MambaMixer
from repro_models.contract import Problem
from repro_models.segmentation import nnmamba
from repro_models.segmentation.nnmamba import ChannelScale, SiameseMixer
from tests.fillings import num_parameters

PROBLEM = Problem(spatial_dims=3, in_channels=1, num_classes=2)
TINY = nnmamba.VARIANTS["tiny"].config


def test_the_mixer_takes_the_mean_of_four_orders_flipped_back() -> None:
    mixer = SiameseMixer(6, num_states=3, kernel_size=3, expand=2).double()
    x = torch.randn(2, 24, 6, dtype=torch.float64)
    flips: list[list[int]] = [[], [2], [1], [1, 2]]
    plain = MambaMixer(6, 12, mixer.block.scan.space)  # type: ignore[arg-type]
    plain.in_projection, plain.out_projection = mixer.block.in_projection, mixer.block.out_projection
    expected = torch.stack([plain(x.flip(axes)).flip(axes) for axes in flips]).mean(0)
    torch.testing.assert_close(mixer(x), expected)


def test_a_stage_has_one_mamba_layer_however_many_units_hear_it() -> None:
    counts = []
    for num_units in (2, 3, 4):
        with torch.device("meta"):
            network: Any = nnmamba.build(replace(TINY, num_units=num_units), PROBLEM)
        assert sum(isinstance(module, SiameseMixer) for module in network.modules()) == TINY.num_stages
        counts.append(num_parameters(network))
    # Of each stage, two convolutions of side 3 and their normalisations.
    of_a_unit = sum(2 * (27 * width**2 + 2 * width) for width in (8, 16))
    assert counts == [counts[0], counts[0] + of_a_unit, counts[0] + 2 * of_a_unit]


def test_the_layer_hears_what_each_unit_but_the_first_takes() -> None:
    network: Any = nnmamba.build(TINY, PROBLEM).eval()
    stage = network.stages[0]
    heard: list[Tensor] = []
    taken: list[Tensor] = []
    joined: list[Tensor] = []

    def hear(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        heard.append(inputs[0])
        joined.append(output)

    stage.mamba.register_forward_hook(hear)
    for unit in stage.others:
        unit.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    with torch.no_grad():
        y = stage(torch.randn(1, 4, 4, 4, 4))
        last = stage.others[-1]
        expected = (last.residual(taken[-1]) + joined[-1] + taken[-1]).relu()
    assert len(heard) == len(taken) == TINY.num_units - 1
    for one, other in zip(heard, taken, strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(y, expected)


def test_a_channel_is_scaled_by_the_means_of_all() -> None:
    scale = ChannelScale(32)
    assert num_parameters(scale) == 32 * 2 + 2 + 2 * 32 + 32
    x = torch.randn(2, 32, 2, 3, 4)
    factors = scale.scale(x.flatten(2).mean(2))
    assert ((factors > 0) & (factors < 1)).all()
    torch.testing.assert_close(scale(x), torch.einsum("bcxyz,bc->bcxyz", x, factors))


def test_a_scale_of_few_channels_keeps_one_hidden_unit() -> None:
    assert num_parameters(ChannelScale(4)) == 4 + 1 + 4 + 4


def test_skip_connections_are_scaled_and_the_way_down_is_not() -> None:
    network: Any = nnmamba.build(TINY, PROBLEM).eval()
    entering: list[Tensor] = []
    skips: list[Tensor] = []
    joined: list[Tensor] = []
    for stage, scale in zip(network.stages, network.scales, strict=True):
        stage.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
        scale.register_forward_hook(lambda _, inputs, output: skips.extend((inputs[0], output)))
    for convs in network.decoder:
        convs.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    with torch.no_grad():
        network(torch.randn(1, 1, 16, 16, 16))
    unscaled, scaled = skips[::2], skips[1::2]
    for level in range(TINY.num_stages):
        assert torch.equal(entering[level], unscaled[level])
        # The expanded map comes first, twice as wide.
        width = scaled[level].shape[1]
        assert torch.equal(joined[-1 - level][:, 2 * width :], scaled[level])


def test_logits_may_be_negative_unless_they_are_activated() -> None:
    x = torch.randn(2, 1, 16, 16, 16)
    outputs = []
    for is_activated in (False, True):
        torch.manual_seed(0)
        with torch.no_grad():
            outputs.append(nnmamba.build(replace(TINY, has_activated_logits=is_activated), PROBLEM)(x))
    assert outputs[0].min() < 0
    assert torch.equal(outputs[1], outputs[0].relu())


@pytest.mark.parametrize("size", [(16, 24, 32), (32, 16, 24)])
def test_unequal_sides_are_served(size: tuple[int, int, int]) -> None:
    with torch.no_grad():
        assert nnmamba.build(TINY, PROBLEM).eval()(torch.randn(1, 1, *size)).shape == (1, 2, *size)


def test_one_image_alone_of_the_smallest_size_trains() -> None:
    assert nnmamba.CONSTRAINTS.per_axis(nnmamba.Config(), 3) == ((16,) * 3, (32,) * 3)
    network = nnmamba.build(TINY, PROBLEM).train()
    network(torch.randn(1, 1, 16, 16, 16)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_stages": 0}, "num_stages=0: must be at least 1"),
        ({"num_units": 1}, "num_units=1: must be at least 2, because the first of a stage has no Mamba layer"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nnmamba.build(replace(TINY, **changes), PROBLEM)


def test_two_dimensions_are_refused_with_what_to_take() -> None:
    with pytest.raises(ValueError, match="spatial_dims=2: nnMamba serves 3; take segmentation/swin_unet for 2D"):
        nnmamba.build(TINY, Problem(2, 1, 2))
