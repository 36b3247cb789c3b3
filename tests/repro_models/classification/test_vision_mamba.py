from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from repro_models.blocks.mamba_mixer import StateSpace
from repro_models.classification.vision_mamba import VARIANTS, BothDirections, Config, build, with_patch_size
from repro_models.contract import IllegalSizeError, Problem

TINY = VARIANTS["tiny"].config


def tiny(**changes: Any) -> Any:
    torch.manual_seed(0)
    return build(dataclasses.replace(TINY, **changes), Problem(2, 1, 3)).eval()


def test_both_directions_are_the_mean_of_a_scan_and_one_of_the_flipped_sequence() -> None:
    there, back = StateSpace(6, 4, 3, 2).double(), StateSpace(6, 4, 3, 2).double()
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    expected = (there(x) + back(x.flip(1)).flip(1)) / 2
    torch.testing.assert_close(BothDirections(there, back)(x), expected)


def test_the_class_token_sees_every_patch_from_the_middle() -> None:
    network = tiny(num_blocks=1)
    x = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        before = network(x)
        for row in (0, 4):
            for column in (0, 4):
                changed = x.clone()
                changed[..., row : row + 4, column : column + 4] += 1
                assert not torch.equal(network(changed), before)


def test_the_class_token_stands_behind_half_of_the_patches() -> None:
    network = tiny(image_size=(8, 12))
    seen: list[torch.Tensor] = []
    network.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.randn(2, 1, 8, 12)
    with torch.no_grad():
        network(x)
        tokens = seen[0] - network.positions
        patches = network.embedding(x)
    assert tokens.shape == (2, 7, 8)
    torch.testing.assert_close(tokens[:, 3], network.class_token[0].expand(2, -1))
    # Row by row: three patches of the first, three of the second.
    torch.testing.assert_close(tokens[:, :3], patches[:, :, 0].transpose(1, 2))
    torch.testing.assert_close(tokens[:, 4:], patches[:, :, 1].transpose(1, 2))


@pytest.mark.parametrize(
    ("size", "patch", "stride", "num_patches"),
    [(224, 16, 16, 196), (224, 16, 8, 729), (32, 4, 4, 64), ((8, 12), 4, 2, 15)],
)
def test_a_stride_below_the_patch_makes_patches_overlap(size: Any, patch: int, stride: int, num_patches: int) -> None:
    with torch.device("meta"):
        network: Any = build(dataclasses.replace(TINY, image_size=size, patch=patch, stride=stride), Problem(2, 1, 2))
    assert network.positions.shape == (1, num_patches + 1, 8)


def test_the_last_block_is_left_out_most_often_and_the_first_never() -> None:
    network = tiny(num_blocks=5, drop_path_probability=0.2)
    assert [block.drop_path.probability for block in network.blocks] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_weights_start_as_in_the_authors_code() -> None:
    torch.manual_seed(0)
    network: Any = build(dataclasses.replace(TINY, image_size=32, hidden_size=128, num_blocks=4), Problem(2, 3, 100))
    assert network.embedding.weight.std().item() == pytest.approx((3 * 4 * 4) ** -0.5, rel=0.05)
    for parameter in (network.positions, network.head.weight):
        assert parameter.std().item() == pytest.approx(0.02, rel=0.05)
    assert network.class_token.std().item() == pytest.approx(0.02, rel=0.3)
    assert not network.head.bias.any()
    assert not network.embedding.bias.any()
    # Torch's default to 1 / 16, divided by the root of 4 blocks.
    assert network.blocks[0].mixer.out_projection.weight.abs().max().item() == pytest.approx(1 / 32, rel=0.01)


def test_it_is_made_for_the_size_it_is_told() -> None:
    config = with_patch_size(Config(), (32, 48))
    assert config.image_size == (32, 48)
    assert dataclasses.replace(config, image_size=224) == Config()


@pytest.mark.parametrize(
    ("changes", "problem", "message"),
    [
        ({}, Problem(3, 1, 2), "spatial_dims=3: Vision Mamba serves 2; give it the slices"),
        ({"stride": 3}, Problem(2, 1, 2), "patch=4 and stride=3: the stride divides the patch.*set stride to 4"),
        ({"stride": 8}, Problem(2, 1, 2), "patch=4 and stride=8"),
        ({"num_states": 0}, Problem(2, 1, 2), "num_states=0: must be 1 or more"),
        ({"drop_path_probability": 1.0}, Problem(2, 1, 2), r"drop_path_probability=1.0: must be from 0"),
        ({"image_size": (8, 8, 8)}, Problem(2, 1, 2), r"image_size=\(8, 8, 8\): has 3 sides, but the network is 2D"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(changes: dict[str, Any], problem: Problem, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(dataclasses.replace(TINY, **changes), problem)


def test_a_side_without_a_whole_number_of_strides_is_refused() -> None:
    with pytest.raises(IllegalSizeError, match="side 10 of axis 1 must be a multiple of 4"):
        tiny(image_size=(8, 10))
