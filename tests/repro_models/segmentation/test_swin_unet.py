from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from repro_models.contract import IllegalSizeError, Problem
from repro_models.segmentation import swin_unet
from tests.fillings import num_parameters

PROBLEM = Problem(spatial_dims=2, in_channels=1, num_classes=2)
TINY = swin_unet.VARIANTS["tiny"].config
THREE_LEVELS = replace(TINY, depths=(1, 1, 1), num_heads=(1, 2, 4), num_skips=2)


@pytest.mark.parametrize(("num_skips", "joined"), [(0, []), (1, [0]), (2, [0, 1]), (3, [0, 1, 2])])
def test_skip_connections_are_dropped_from_the_coarsest_on_as_in_the_papers_ablation(
    num_skips: int, joined: list[int]
) -> None:
    with torch.device("meta"):
        network: Any = swin_unet.build(swin_unet.Config(num_skips=num_skips), Problem(2, 3, 9))
    assert [level for level, step in enumerate(network.decoder) if step.join is not None] == joined
    # Of each, a linear layer from twice the channels and its biases.
    dropped = [2 * width**2 + width for level, width in enumerate((96, 192, 384)) if level not in joined]
    assert num_parameters(network) == 27_168_900 - sum(dropped)


def test_a_skip_connection_leaves_before_the_blocks_of_its_level_and_stands_behind_the_expanded_map() -> None:
    network: Any = swin_unet.build(THREE_LEVELS, PROBLEM).eval()
    entering: list[Tensor] = []
    joined: list[Tensor] = []
    for stage in network.stages:
        stage.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    for step in network.decoder:
        step.join.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    with torch.no_grad():
        network(torch.randn(1, 1, 32, 16))
    assert [tuple(level.shape[1:]) for level in entering] == [(8, 4, 8), (4, 2, 16), (2, 1, 32)]
    for step, level in zip(joined, (1, 0), strict=True):
        assert torch.equal(step[..., step.shape[-1] // 2 :], entering[level])


def test_without_skip_connections_the_bottleneck_alone_decides() -> None:
    network: Any = swin_unet.build(replace(THREE_LEVELS, num_skips=0), PROBLEM).eval()
    network.encoder_norm.register_forward_hook(lambda _, __, output: torch.ones_like(output))
    with torch.no_grad():
        assert torch.equal(network(torch.randn(1, 1, 16, 16)), network(torch.randn(1, 1, 16, 16)))


def test_the_decoder_leaves_blocks_out_as_often_as_the_encoder_at_its_level() -> None:
    with torch.device("meta"):
        network: Any = swin_unet.build(swin_unet.Config(), Problem(2, 3, 9))

    def probabilities(blocks: Any) -> list[float]:
        return [block.drop_path.probability for block in blocks]

    encoder = [probability for stage in network.stages for probability in probabilities(stage)]
    assert encoder == pytest.approx([0.2 * number / 7 for number in range(8)])
    for step, stage in zip(network.decoder, network.stages, strict=False):
        assert probabilities(step.blocks) == probabilities(stage)


def test_every_second_block_is_shifted() -> None:
    with torch.device("meta"):
        network: Any = swin_unet.build(swin_unet.Config(depths=(2, 2, 6, 2)), Problem(2, 3, 9))
    shifts = [[block.attention.is_shifted for block in stage] for stage in network.stages]
    assert shifts == [[False, True], [False, True], [False, True] * 3, [False, True]]


def test_the_paper_takes_the_stated_multiplications() -> None:
    variant = swin_unet.VARIANTS["paper"]
    assert variant.size is not None
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        swin_unet.build(variant.config, variant.problem).eval()(torch.empty(1, 3, *variant.size))
    assert counter.get_total_flops() == 2 * variant.num_macs  # type: ignore[operator]


@pytest.mark.parametrize("size", [(8, 24), (40, 16)])
def test_maps_that_are_no_multiple_of_the_window_are_served(size: tuple[int, int]) -> None:
    with torch.no_grad():
        assert swin_unet.build(TINY, PROBLEM).eval()(torch.zeros(1, 1, *size)).shape == (1, 2, *size)


def test_a_side_that_does_not_halve_at_every_level_is_refused() -> None:
    assert swin_unet.CONSTRAINTS.per_axis(swin_unet.Config(), 2) == ((32, 32), (32, 32))
    with pytest.raises(
        IllegalSizeError, match=r"side 12 of axis 1 must be a multiple of 8 and at least 8; pad .* to 16"
    ):
        swin_unet.build(TINY, PROBLEM)(torch.zeros(1, 1, 16, 12))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": (2, 2, 2)}, r"depths=\(2, 2, 2\) and num_heads=\(1, 2\): give one of each per level"),
        ({"depths": (2,), "num_heads": (1,)}, "for two levels or more"),
        ({"num_heads": (1, 3)}, "3 heads cannot share the 16 channels of level 1 evenly"),
        ({"window": 1}, "window=1: must be at least 2"),
        ({"num_skips": 2}, "num_skips=2: must be 0 to 1"),
        ({"num_skips": -1}, "num_skips=-1: must be 0 to 1"),
        ({"drop_path_probability": 1.0}, "drop_path_probability=1.0: must be from 0 to less than 1"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        swin_unet.build(replace(TINY, **changes), PROBLEM)


def test_three_dimensions_are_refused_with_what_to_take() -> None:
    with pytest.raises(ValueError, match="spatial_dims=3: Swin-Unet serves 2; take segmentation/swin_unetr"):
        swin_unet.build(TINY, Problem(3, 1, 2))


@pytest.mark.slow
def test_exported_network_gives_the_same_logits_for_any_batch() -> None:
    network = swin_unet.build(TINY, PROBLEM).eval()
    batch = torch.export.Dim("batch", min=1, max=8)
    exported = torch.export.export(network, (torch.zeros(2, 1, 16, 16),), dynamic_shapes=({0: batch},)).module()
    x = torch.randn(3, 1, 16, 16)
    torch.testing.assert_close(exported(x), network(x))
