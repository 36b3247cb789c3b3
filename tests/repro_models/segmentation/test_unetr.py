from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from repro_models.contract import IllegalSizeError, Problem
from repro_models.segmentation import unetr

PROBLEM = Problem(spatial_dims=3, in_channels=1, num_classes=2)
TINY = unetr.VARIANTS["tiny"].config


def inputs_of(modules: Any) -> list[Tensor]:
    """Filled by the next forward pass with the first input of every module."""
    seen: list[Tensor] = []
    for module in modules:
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


@pytest.mark.parametrize("skip_blocks", [(3, 6, 9), (4, 7, 10)])
def test_skip_connections_leave_after_the_blocks_that_are_named(skip_blocks: tuple[int, int, int]) -> None:
    config = replace(TINY, num_blocks=12, skip_blocks=skip_blocks)
    network: Any = unetr.build(config, PROBLEM).eval()
    after: list[Tensor] = []
    for block in network.blocks:
        block.register_forward_hook(lambda _, __, output: after.append(output))
    skips = inputs_of(path[0] for path in network.skip_paths)
    deepest = inputs_of([network.decoder[-1]])
    with torch.no_grad():
        network(torch.randn(1, 1, 16, 16, 16))
        for skip, number in zip(skips, skip_blocks, strict=True):
            assert torch.equal(skip.flatten(2), after[number - 1].transpose(1, 2))
        torch.testing.assert_close(deepest[0].flatten(2), network.norm(after[11]).transpose(1, 2))


def test_the_default_is_the_papers_not_its_codes() -> None:
    assert unetr.Config().skip_blocks == (3, 6, 9)


def test_a_token_has_the_place_of_its_cube() -> None:
    network: Any = unetr.build(replace(TINY, image_size=(32, 16, 48)), PROBLEM).eval()
    tokens, maps = inputs_of(network.blocks[:1]), inputs_of(network.decoder[-1:])
    x = torch.zeros(1, 1, 32, 16, 48)
    with torch.no_grad():
        network(x)
        x[:, :, 16:, :, 32:] = 1.0
        network(x)
        changed = (tokens[1] - tokens[0]).abs().sum(-1)[0] > 0
        assert changed.tolist() == [False] * 5 + [True]
        assert maps[0].shape == (1, 16, 2, 1, 3)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((16, 32, 16), r"side 32 of axis 1 must be 16, for which this network has positions; cut the image into tiles"),
        ((16, 16, 24), r"side 24 of axis 2 must be a multiple of 16 and at least 16; pad the image to 32"),
    ],
)
def test_another_size_is_refused_with_what_to_do(size: tuple[int, ...], message: str) -> None:
    with pytest.raises(IllegalSizeError, match=message):
        unetr.build(TINY, PROBLEM)(torch.zeros(1, 1, *size))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "hidden_size=16 and num_heads=3: .* set hidden_size to a multiple of 3"),
        ({"skip_blocks": (1, 2, 5)}, r"skip_blocks=\(1, 2, 5\): must be three rising numbers from 1 to num_blocks=4"),
        ({"skip_blocks": (0, 1, 2)}, "three rising numbers"),
        ({"skip_blocks": (2, 2, 3)}, "three rising numbers"),
        ({"image_size": (16, 16)}, "has 2 sides, but the network is 3D; give one int, or 3 of them"),
        ({"image_size": 40}, "side 40 of axis 0 must be a multiple of 16"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unetr.build(replace(TINY, **changes), PROBLEM)


def test_the_patch_becomes_the_image_size() -> None:
    assert unetr.with_patch_size(TINY, [32, 48]) == replace(TINY, image_size=(32, 48))


@pytest.mark.slow
def test_exported_network_gives_the_same_logits_for_any_batch() -> None:
    network = unetr.build(TINY, PROBLEM).eval()
    batch = torch.export.Dim("batch", min=1, max=8)
    exported = torch.export.export(network, (torch.zeros(2, 1, 16, 16, 16),), dynamic_shapes=({0: batch},)).module()
    x = torch.randn(3, 1, 16, 16, 16)
    torch.testing.assert_close(exported(x), network(x))
