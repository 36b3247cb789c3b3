from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from repro_models.contract import IllegalSizeError, Problem
from repro_models.segmentation import transunet

PROBLEM = Problem(spatial_dims=2, in_channels=1, num_classes=3)
TINY = transunet.VARIANTS["tiny"].config


def outputs_of(modules: Any) -> list[Tensor]:
    """Filled by the next forward pass with the output of every module."""
    seen: list[Tensor] = []
    for module in modules:
        module.register_forward_hook(lambda _, __, output: seen.append(output))
    return seen


@pytest.mark.parametrize("name", ["paper", "vit_only"])
def test_operations_are_as_many_as_in_the_authors_code(name: str) -> None:
    variant = transunet.VARIANTS[name]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        transunet.build(variant.config, variant.problem).eval()(torch.empty(1, 3, *variant.size))
    assert counter.get_total_flops() == 2 * variant.num_macs


def test_maps_of_the_resnet_have_a_half_to_a_sixteenth_of_the_sides() -> None:
    network: Any = transunet.build(replace(TINY, image_size=(64, 96)), PROBLEM).eval()
    maps = network.resnet(torch.randn(1, 1, 64, 96))
    assert [tuple(level.shape[1:]) for level in maps] == [(32, 32, 48), (128, 16, 24), (256, 8, 12), (512, 4, 6)]


def test_the_map_at_a_quarter_ends_in_a_row_and_a_column_of_zeros() -> None:
    network: Any = transunet.build(TINY, PROBLEM).eval()
    unpadded = outputs_of(network.resnet.stages)
    _, quarter, _, _ = network.resnet(torch.randn(1, 1, 32, 32))
    assert unpadded[0].shape[2:] == (7, 7)
    assert torch.equal(quarter[..., :7, :7], unpadded[0])
    assert not quarter[..., 7, :].any()
    assert not quarter[..., :, 7].any()


def test_filters_of_the_resnet_are_standardised() -> None:
    network: Any = transunet.build(TINY, PROBLEM).eval()
    x = torch.randn(1, 1, 32, 32)
    before = network(x)
    with torch.no_grad():
        weight = network.resnet.stem[0].weight
        weight.mul_(300).add_(7)
    torch.testing.assert_close(network(x), before, rtol=1e-3, atol=1e-4)


def test_a_unit_that_changes_the_shape_normalises_each_channel_of_its_shortcut_by_itself() -> None:
    network: Any = transunet.build(replace(TINY, resnet_depths=(2, 1, 1)), PROBLEM)
    first, second = network.resnet.stages[0]
    assert first.shortcut[1].num_groups == first.shortcut[1].num_channels == 128
    assert isinstance(second.shortcut, nn.Identity)
    assert {part[1].num_groups for part in (first.reduction, first.conv, first.expansion)} == {32}


@pytest.mark.parametrize(
    ("num_skips", "in_channels"),
    [(3, (272, 136, 40, 4)), (2, (272, 136, 8, 4)), (1, (272, 8, 8, 4)), (0, (16, 8, 8, 4))],
)
def test_skip_connections_join_from_the_coarsest_on(num_skips: int, in_channels: tuple[int, ...]) -> None:
    network: Any = transunet.build(replace(TINY, num_skips=num_skips), PROBLEM).eval()
    assert tuple(step.convs[0][0].in_channels for step in network.decoder) == in_channels
    assert network(torch.randn(1, 1, 32, 32)).shape == (1, 3, 32, 32)


def test_without_a_resnet_tokens_are_squares_of_the_image() -> None:
    network: Any = transunet.build(replace(TINY, resnet_depths=(), num_skips=0), PROBLEM).eval()
    assert network.transformer.embedding.kernel_size == (16, 16)
    assert network(torch.randn(1, 1, 32, 32)).shape == (1, 3, 32, 32)


def test_with_a_resnet_a_token_is_a_place_of_its_last_map() -> None:
    network: Any = transunet.build(TINY, PROBLEM)
    assert network.transformer.embedding.weight.shape == (16, 512, 1, 1)


def test_the_decoder_reads_the_normalised_last_state() -> None:
    network: Any = transunet.build(TINY, PROBLEM).eval()
    blocks = outputs_of(network.transformer.blocks)
    seen: list[Tensor] = []
    network.bottleneck.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.randn(1, 1, 32, 32))
    torch.testing.assert_close(seen[0].flatten(2).mT, network.norm(blocks[-1]))


def test_dropout_acts_in_training_only() -> None:
    network = transunet.build(replace(TINY, dropout=0.5), PROBLEM)
    x = torch.randn(2, 1, 32, 32)
    assert not torch.equal(network.train()(x), network(x))
    assert torch.equal(network.eval()(x), network(x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "hidden_size=16 and num_heads=3"),
        ({"resnet_depths": (1, 1)}, r"resnet_depths=\(1, 1\): give three numbers of units"),
        ({"resnet_depths": (1, 0, 1)}, "1 at least, or "),
        ({"resnet_width": 48}, "resnet_width=48: must be a multiple of 32"),
        ({"decoder_channels": (8, 8, 4)}, r"decoder_channels=\(8, 8, 4\): give four, one for each doubling"),
        ({"num_skips": 4}, "num_skips=4: must be 0 to 3, the maps of the ResNet"),
        ({"resnet_depths": ()}, "num_skips=3: must be 0 to 0"),
        ({"image_size": 40}, "side 40 of axis 0 must be a multiple of 16"),
        ({"image_size": 16}, "side 16 of axis 0 must be a multiple of 16 and at least 32"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transunet.build(replace(TINY, **changes), PROBLEM)


def test_volumes_are_refused_with_what_to_take() -> None:
    with pytest.raises(ValueError, match="spatial_dims=3: TransUNet serves 2; take segmentation/unetr"):
        transunet.build(TINY, Problem(3, 1, 2))


def test_another_size_is_refused_with_what_to_do() -> None:
    with pytest.raises(IllegalSizeError, match="side 48 of axis 1 must be 32, for which this network has positions"):
        transunet.build(TINY, PROBLEM)(torch.zeros(1, 1, 32, 48))


def test_the_patch_becomes_the_image_size() -> None:
    assert transunet.with_patch_size(TINY, [32, 48]) == replace(TINY, image_size=(32, 48))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"resnet_depths": (), "num_skips": 0}], ids=["hybrid", "vit"])
def test_exported_network_gives_the_same_logits_for_any_batch(changes: dict[str, Any]) -> None:
    network = transunet.build(replace(TINY, **changes), PROBLEM).eval()
    batch = torch.export.Dim("batch", min=1, max=8)
    exported = torch.export.export(network, (torch.zeros(2, 1, 32, 32),), dynamic_shapes=({0: batch},)).module()
    x = torch.randn(3, 1, 32, 32)
    torch.testing.assert_close(exported(x), network(x), rtol=1e-4, atol=1e-5)
