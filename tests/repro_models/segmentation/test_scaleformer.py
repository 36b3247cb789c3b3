from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from repro_models.contract import IllegalSizeError, Problem
from repro_models.segmentation import scaleformer
from tests.fillings import num_parameters

PROBLEM = Problem(spatial_dims=2, in_channels=1, num_classes=2)
TINY = scaleformer.VARIANTS["tiny"].config


def inputs_of(module: Any) -> list[Tensor]:
    """Filled by the forward passes with the inputs of `module`."""
    seen: list[Tensor] = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


def test_the_parts_have_the_parameters_of_the_authors() -> None:
    with torch.device("meta"):
        network: Any = scaleformer.build(scaleformer.Config(), Problem(2, 3, 3))
    transformer = [network.intra_scale, network.halvings, network.joins]
    assert num_parameters(network.conv_levels) == 20_249_856
    assert sum(num_parameters(part) for part in transformer) == 70_729_104
    assert num_parameters(network.inter_scale) == 2_235_392
    assert num_parameters(network) == 113_813_587


def test_the_paper_takes_the_stated_multiplications() -> None:
    variant = scaleformer.VARIANTS["paper"]
    assert variant.size is not None
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        scaleformer.build(variant.config, variant.problem).eval()(torch.empty(1, 3, *variant.size))
    assert counter.get_total_flops() == 2 * variant.num_macs  # type: ignore[operator]


def test_a_place_has_eighty_five_tokens_and_sees_no_other_place() -> None:
    network: Any = scaleformer.build(replace(TINY, image_size=(64, 96)), PROBLEM).eval()
    tokens = inputs_of(network.inter_scale.block)
    maps = [
        torch.randn(1, width, 2 * window, 3 * window)
        for width, window in zip((8, 16, 32, 32), (8, 4, 2, 1), strict=True)
    ]
    before = network.inter_scale(maps)
    assert tokens[0].shape == (1, 6, 85, 8)
    maps[1] = maps[1].clone()
    maps[1][:, :, 5, 8] += 1.0  # in row 1 and column 2 of the places
    after = network.inter_scale(maps)
    changed_tokens = (tokens[1] != tokens[0]).any(-1)[0]
    # 64 tokens of the first scale come before the 16 of the second; row 1 of 4, column 0 of 4.
    assert changed_tokens.nonzero().tolist() == [[5, 64 + 4]]
    for old, new, window in zip(before, after, (8, 4, 2, 1), strict=True):
        changed = (old != new).any(1)[0]
        assert changed[window:, 2 * window :].all()
        changed[window:, 2 * window :] = False
        assert not changed.any()


def test_maps_keep_their_order_through_the_exchange_between_scales() -> None:
    network: Any = scaleformer.build(replace(TINY, image_size=(64, 96)), PROBLEM).eval()
    exchange = network.inter_scale
    exchange.block = torch.nn.Identity()
    x = [
        torch.randn(1, width, 2 * window, 3 * window)
        for width, window in zip((8, 16, 32, 32), (8, 4, 2, 1), strict=True)
    ]
    for index, y in enumerate(exchange(x)):
        expected = exchange.outward[index](exchange.inward[index](x[index].movedim(1, -1))).movedim(-1, 1)
        torch.testing.assert_close(y, expected)


def test_the_inter_scale_scores_are_divided_by_the_root_of_a_heads_channels() -> None:
    ours: Any = scaleformer.build(TINY, PROBLEM).eval()
    theirs: Any = scaleformer.build(replace(TINY, has_scaled_inter_attention=False), PROBLEM).eval()
    theirs.load_state_dict(ours.state_dict())
    block, unscaled = ours.inter_scale.block, theirs.inter_scale.block
    tokens = torch.randn(1, 2, 5, 8)
    assert not torch.allclose(block(tokens), unscaled(tokens))
    with torch.no_grad():
        unscaled.query_key_value.weight[:8] /= 2.0  # 4 channels a head
        unscaled.query_key_value.bias[:8] /= 2.0
    torch.testing.assert_close(block(tokens), unscaled(tokens))


def test_each_scale_joins_its_convolutional_map_with_the_halved_scale_before() -> None:
    network: Any = scaleformer.build(TINY, PROBLEM).eval()
    joined = [inputs_of(join) for join in network.joins]
    local: list[Tensor] = []
    for level in network.conv_levels:
        level.register_forward_hook(lambda _, __, output: local.append(output))
    scales: list[Tensor] = []
    for blocks in network.intra_scale:
        blocks.register_forward_hook(lambda _, __, output: scales.append(output))
    with torch.no_grad():
        network(torch.randn(1, 1, 64, 64))
        expected = [*local[3:], network.pool(local[-1])]
        for index, (seen,) in enumerate(joined):
            width = expected[index].shape[1]
            assert torch.equal(seen[:, :width], expected[index])
            torch.testing.assert_close(seen[:, width:], network.halvings[index](scales[index]))


def test_position_biases_start_at_0_and_learn() -> None:
    torch.manual_seed(0)
    network = scaleformer.build(TINY, PROBLEM).train()
    biases = [p for name, p in network.named_parameters() if name.endswith("position_bias")]
    assert len(biases) == 8
    assert not any(bias.any() for bias in biases)
    network(torch.randn(2, 1, 64, 64)).square().mean().backward()
    assert all(bias.grad.any() for bias in biases)  # type: ignore[union-attr]


def test_the_patch_becomes_the_image_size() -> None:
    assert scaleformer.with_patch_size(TINY, [64, 96]) == replace(TINY, image_size=(64, 96))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((64, 96), r"side 96 of axis 1 must be 64, for which this network has biases; cut the image into tiles"),
        ((80, 64), r"side 80 of axis 0 must be a multiple of 32 and at least 64; pad the image to 96"),
    ],
)
def test_another_size_is_refused_with_what_to_do(size: tuple[int, int], message: str) -> None:
    with pytest.raises(IllegalSizeError, match=message):
        scaleformer.build(TINY, PROBLEM)(torch.zeros(1, 1, *size))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "base_features=2: num_heads=3 cannot share 8 channels evenly"),
        ({"inter_scale_features": 9}, "inter_scale_features=9: num_heads=2 cannot share 9 channels evenly"),
        ({"depths": (1, 1, 1)}, r"depths=\(1, 1, 1\): give 4 numbers from 1, one per scale"),
        ({"depths": (1, 0, 1, 1)}, "give 4 numbers from 1"),
        ({"dropout_probability": 1.0}, "dropout_probability=1.0: must be from 0 to less than 1"),
        ({"image_size": (64, 64, 64)}, "has 3 sides; give one int, or 2 of them"),
        ({"image_size": 72}, "side 72 of axis 0 must be a multiple of 32"),
        ({"image_size": 32}, "side 32 of axis 0 must be a multiple of 32 and at least 64"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scaleformer.build(replace(TINY, **changes), PROBLEM)


def test_three_dimensions_are_refused_with_what_to_take() -> None:
    with pytest.raises(ValueError, match="spatial_dims=3: ScaleFormer serves 2; take segmentation/unetr for 3D"):
        scaleformer.build(TINY, Problem(3, 1, 2))


@pytest.mark.slow
def test_exported_network_gives_the_same_logits_for_any_batch() -> None:
    network = scaleformer.build(TINY, PROBLEM).eval()
    batch = torch.export.Dim("batch", min=1, max=8)
    exported = torch.export.export(network, (torch.zeros(2, 1, 64, 64),), dynamic_shapes=({0: batch},)).module()
    x = torch.randn(3, 1, 64, 64)
    torch.testing.assert_close(exported(x), network(x))
