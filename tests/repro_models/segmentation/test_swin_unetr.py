from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from repro_models.contract import IllegalSizeError, Problem
from repro_models.segmentation import swin_unetr

PROBLEM = Problem(spatial_dims=3, in_channels=1, num_classes=2)
TINY = swin_unetr.VARIANTS["tiny"].config


def test_maps_are_normalised_over_channels_and_the_last_but_one_goes_in_as_it_is() -> None:
    network: Any = swin_unetr.build(replace(TINY, depths=(1, 1, 1), num_heads=(1, 1, 1)), PROBLEM).eval()
    maps: list[Tensor] = []
    seen: dict[str, Tensor] = {}
    for module in (network.embedding, *network.stages):
        module.register_forward_hook(lambda _, __, output: maps.append(output))
    for level, path in enumerate(network.skip_paths):
        path.register_forward_pre_hook(lambda _, inputs, level=level: seen.update({f"map {level}": inputs[0]}))
    network.decoder[-1].register_forward_pre_hook(lambda _, inputs: seen.update(skip=inputs[1]))
    with torch.no_grad():
        network(torch.randn(1, 1, 32, 32, 32))
    assert [tuple(level.shape[1:]) for level in maps] == [(4, *[16] * 3), (8, *[8] * 3), (16, *[4] * 3), (32, *[2] * 3)]
    for level, raw in enumerate(maps):
        last = raw.movedim(1, -1)
        expected = functional.layer_norm(last, last.shape[-1:]).movedim(-1, 1)
        torch.testing.assert_close(seen[f"map {level}"], expected)
    assert torch.equal(seen["skip"], seen["map 2"])


def test_every_second_block_is_shifted() -> None:
    network: Any = swin_unetr.build(swin_unetr.Config(base_features=12, depths=(2, 3, 2, 2)), PROBLEM)
    shifts = [[block.attention.is_shifted for block in stage.blocks] for stage in network.stages]
    assert shifts == [[False, True], [False, True, False], [False, True], [False, True]]


@pytest.mark.parametrize(
    ("spatial_dims", "corners"),
    [
        (2, [(0, 0), (1, 0), (0, 1), (1, 1)]),
        (3, [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)]),
    ],
)
def test_merging_takes_every_neighbour_once_in_the_reference_order(
    spatial_dims: int, corners: list[tuple[int, ...]]
) -> None:
    network: Any = swin_unetr.build(TINY, Problem(spatial_dims, 1, 2))
    assert network.stages[0].merging.corners == corners


@pytest.mark.parametrize("size", [(16, 24, 16), (48, 16, 32)])
def test_the_number_of_stages_sets_the_divisor(size: tuple[int, ...]) -> None:
    assert swin_unetr.CONSTRAINTS.per_axis(TINY, 3) == ((8,) * 3, (16,) * 3)
    assert swin_unetr.CONSTRAINTS.per_axis(swin_unetr.Config(), 3) == ((32,) * 3, (64,) * 3)
    with torch.no_grad():
        assert swin_unetr.build(TINY, PROBLEM).eval()(torch.zeros(1, 1, *size)).shape == (1, 2, *size)


def test_a_side_of_one_voxel_at_the_lowest_level_is_refused() -> None:
    with pytest.raises(IllegalSizeError, match="side 8 of axis 2 must be a multiple of 8 and at least 16"):
        swin_unetr.build(TINY, PROBLEM)(torch.zeros(1, 1, 16, 16, 8))


def test_the_authors_index_changes_images_whose_last_maps_are_smaller_than_a_window() -> None:
    torch.manual_seed(0)
    config = replace(TINY, window=5)
    ours: Any = swin_unetr.build(config, PROBLEM).eval()
    theirs: Any = swin_unetr.build(replace(config, has_authors_bias_index=True), PROBLEM).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert not torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": (2, 2, 2)}, r"depths=\(2, 2, 2\) and num_heads=\(1, 2\): give one of each per stage"),
        ({"depths": (), "num_heads": ()}, "give one of each per stage"),
        ({"num_heads": (1, 3)}, "3 heads cannot share the 8 channels of stage 1 evenly"),
        ({"window": 1}, "window=1: must be at least 2"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        swin_unetr.build(replace(TINY, **changes), PROBLEM)


@pytest.mark.slow
def test_exported_network_gives_the_same_logits_for_any_batch() -> None:
    network = swin_unetr.build(TINY, PROBLEM).eval()
    batch = torch.export.Dim("batch", min=1, max=8)
    exported = torch.export.export(network, (torch.zeros(2, 1, 16, 16, 16),), dynamic_shapes=({0: batch},)).module()
    x = torch.randn(3, 1, 16, 16, 16)
    torch.testing.assert_close(exported(x), network(x))
