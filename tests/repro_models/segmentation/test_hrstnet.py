from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from repro_models.contract import IllegalSizeError, Problem
from repro_models.segmentation import hrstnet
from tests.fillings import num_parameters

PROBLEM = Problem(spatial_dims=3, in_channels=1, num_classes=2)
TINY = hrstnet.VARIANTS["tiny"].config
REFERENCE_SMALL = hrstnet.VARIANTS["reference_small"].config


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"num_heads": (2, 3, 4, 6), "fusion": "mlp"}, 4_155_678),
        ({"fusion": "mlp", "has_stem": True}, 220_758),
    ],
)
def test_parameters_are_those_of_the_authors_small_networks(changes: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        assert num_parameters(hrstnet.build(replace(REFERENCE_SMALL, **changes), Problem(3, 2, 3))) == count


@pytest.mark.parametrize("name", ["paper", "stages_3", "stages_4"])
def test_a_variant_takes_the_stated_multiplications(name: str) -> None:
    variant = hrstnet.VARIANTS[name]
    assert variant.size is not None
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        hrstnet.build(variant.config, variant.problem).eval()(torch.empty(1, 4, *variant.size))
    assert counter.get_total_flops() == 2 * variant.num_macs  # type: ignore[operator]


@pytest.mark.parametrize(
    ("has_stem", "expected"),
    [
        (False, [[(8, 8)], [(8, 8), (16, 4)], [(8, 8), (16, 4), (32, 2)]]),
        (True, [[(4, 16), (8, 8)], [(4, 16), (8, 8), (16, 4)], [(4, 16), (8, 8), (16, 4), (32, 2)]]),
    ],
)
def test_every_stage_has_a_coarser_map_more(has_stem: bool, expected: list[list[tuple[int, int]]]) -> None:
    network: Any = hrstnet.build(replace(TINY, num_heads=(1, 2, 4), has_stem=has_stem), PROBLEM).eval()
    seen: list[list[tuple[int, int]]] = []
    for exchange in network.exchanges:
        exchange.register_forward_pre_hook(
            lambda _, inputs: seen.append([(level.shape[-1], level.shape[1]) for level in inputs[0]])
        )
    with torch.no_grad():
        network(torch.randn(1, 1, 32, 32, 32))
    assert seen == expected


def test_maps_meet_with_the_finest_source_first_and_the_levels_own_unchanged() -> None:
    network: Any = hrstnet.build(replace(TINY, num_heads=(1, 2, 4), has_stem=False), PROBLEM).eval()
    exchange = network.exchanges[-1]
    sources: list[Tensor] = []
    met: list[Tensor] = []
    exchange.register_forward_pre_hook(lambda _, inputs: sources.extend(inputs[0]))
    for fusion in exchange.fusions:
        fusion.register_forward_pre_hook(lambda _, inputs: met.append(inputs[0]))
    with torch.no_grad():
        network(torch.randn(1, 1, 32, 32, 32))
        for level, together in enumerate(met):
            assert torch.equal(together.chunk(3, dim=-1)[level], sources[level])
        halved, quartered = met[1].chunk(3, dim=-1)[0], met[2].chunk(3, dim=-1)[0]
        torch.testing.assert_close(exchange.mergings[0][0](sources[0]), halved)
        torch.testing.assert_close(exchange.mergings[0][1](halved), quartered)
        doubled, full = met[1].chunk(3, dim=-1)[2], met[0].chunk(3, dim=-1)[2]
        torch.testing.assert_close(exchange.expandings[2][0](sources[2]), doubled)
        torch.testing.assert_close(exchange.expandings[2][1](doubled), full)


def test_the_first_exchange_without_stem_makes_a_coarser_map_of_the_only_one() -> None:
    network: Any = hrstnet.build(replace(TINY, has_stem=False), PROBLEM).eval()
    exchange = network.exchanges[0]
    x = torch.randn(1, 4, 4, 4, 8)
    same, coarser = exchange([x])
    assert torch.equal(same, x)
    torch.testing.assert_close(coarser, exchange.mergings[0][0](x))


def test_merging_takes_every_neighbour_once_unless_the_authors_is_asked_for() -> None:
    ours, theirs = (
        hrstnet.build(replace(TINY, has_authors_merging=has_authors), PROBLEM) for has_authors in (False, True)
    )
    corners = ours.exchanges[0].mergings[0][0].corners  # type: ignore[index, union-attr]
    assert len(set(corners)) == 8
    # MONAI issue 4757: two neighbours come twice, (1, 1, 0) and (0, 1, 1) never.
    corners = theirs.exchanges[0].mergings[0][0].corners  # type: ignore[index, union-attr]
    assert len(corners) == 8
    assert {corner for corner in corners if corners.count(corner) == 2} == {(0, 1, 0), (0, 0, 1)}
    assert not {(1, 1, 0), (0, 1, 1)} & set(corners)


def test_blocks_of_a_level_are_left_out_as_often_in_every_stage() -> None:
    with torch.device("meta"):
        network: Any = hrstnet.build(hrstnet.VARIANTS["stages_4_stem"].config, Problem(3, 4, 3))
    levels = [[block.drop_path.probability for block in blocks] for blocks in network.stages[-1]]
    steps = [0.2 * number / 7 for number in range(8)]
    assert [p for level in levels[1:] for p in level] == pytest.approx(steps)
    assert levels[0] == levels[1]
    for stage in network.stages:
        assert [[block.drop_path.probability for block in blocks] for blocks in stage] == levels[: len(stage)]


def test_one_voxel_is_refused_where_it_would_be_normalised() -> None:
    four = replace(TINY, base_features=8, num_heads=(1, 1, 1, 1), has_stem=False)
    assert hrstnet.CONSTRAINTS.per_axis(four, 3) == ((32,) * 3, (32,) * 3)
    convolutional = replace(four, fusion="residual_conv")
    with torch.device("meta"):
        x = torch.empty(1, 1, 64, 64, 32)
        with pytest.raises(IllegalSizeError, match="side 32 of axis 2 must be a multiple of 32 and at least 64"):
            hrstnet.build(convolutional, PROBLEM)(x)
        assert hrstnet.build(four, PROBLEM)(x).shape == (1, 2, 64, 64, 32)


def test_training_works_at_the_smallest_size_of_a_network_with_convolutions() -> None:
    torch.manual_seed(0)
    config = replace(TINY, fusion="residual_conv", drop_path_probability=0.2)
    network = hrstnet.build(config, PROBLEM).train()
    network(torch.randn(1, 1, 16, 16, 16)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": (1,)}, r"num_heads=\(1,\): give the heads of two levels or more"),
        ({"num_heads": (1, 3)}, "3 heads cannot share 16 channels evenly"),
        ({"stem_num_heads": 3}, "3 heads cannot share 4 channels evenly"),
        ({"base_features": 9, "num_heads": (1, 1)}, "base_features=9: must be even"),
        ({"window": 1}, "window=1: must be at least 2"),
        ({"fusion": "sum"}, "fusion='sum': must be residual_conv or mlp"),
        ({"drop_path_probability": -0.1}, "drop_path_probability=-0.1: must be from 0 to less than 1"),
        ({"dropout_probability": 1.0}, "dropout_probability=1.0: must be from 0 to less than 1"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hrstnet.build(replace(TINY, **changes), PROBLEM)


def test_two_dimensions_are_refused_with_what_to_take() -> None:
    with pytest.raises(ValueError, match="spatial_dims=2: HRSTNet serves 3; take segmentation/swin_unet"):
        hrstnet.build(TINY, Problem(2, 1, 2))


@pytest.mark.slow
def test_exported_network_gives_the_same_logits_for_any_batch() -> None:
    network = hrstnet.build(TINY, PROBLEM).eval()
    batch = torch.export.Dim("batch", min=1, max=8)
    exported = torch.export.export(network, (torch.zeros(2, 1, 16, 16, 16),), dynamic_shapes=({0: batch},)).module()
    x = torch.randn(3, 1, 16, 16, 16)
    torch.testing.assert_close(exported(x), network(x))
