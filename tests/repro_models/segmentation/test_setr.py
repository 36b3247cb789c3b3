from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from repro_models.contract import IllegalSizeError, Problem, SupervisedLogits
from repro_models.segmentation import setr

PROBLEM = Problem(spatial_dims=2, in_channels=1, num_classes=3)
TINY = setr.VARIANTS["tiny"].config
MLA = replace(TINY, decoder="mla")
EVERY_DECODER = pytest.mark.parametrize("decoder", ["naive", "pup", "mla"])


def outputs_of(modules: Any) -> list[Tensor]:
    """Filled by the next forward pass with the output of every module."""
    seen: list[Tensor] = []
    for module in modules:
        module.register_forward_hook(lambda _, __, output: seen.append(output))
    return seen


def inputs_of(modules: Any) -> list[Tensor]:
    """Filled by the next forward pass with the first input of every module."""
    seen: list[Tensor] = []
    for module in modules:
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


@pytest.mark.parametrize("name", ["paper", "pup_main_head", "naive_main_head", "mla_main_head"])
def test_operations_are_as_many_as_in_the_authors_code(name: str) -> None:
    variant = setr.VARIANTS[name]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        setr.build(variant.config, variant.problem).eval()(torch.empty(1, 3, *variant.size))
    assert counter.get_total_flops() == 2 * variant.num_macs


@EVERY_DECODER
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_training_gives_the_main_logits_and_one_for_each_auxiliary_head(decoder: str, spatial_dims: int) -> None:
    config = replace(TINY, decoder=decoder, auxiliary_weight=0.3)
    network = setr.build(config, replace(PROBLEM, spatial_dims=spatial_dims))
    x = torch.randn(2, 1, *(32,) * spatial_dims)
    output = network.train()(x)
    assert isinstance(output, SupervisedLogits)
    assert output.weights == (1.0, 0.3, 0.3)
    assert {tuple(logits.shape) for logits in output.logits} == {(2, 3, *(32,) * spatial_dims)}
    assert isinstance(network.eval()(x), Tensor)


@EVERY_DECODER
def test_every_parameter_gets_a_gradient_whatever_the_decoder(decoder: str) -> None:
    network = setr.build(replace(TINY, decoder=decoder), PROBLEM).train()
    torch.stack([logits.square().mean() for logits in network(torch.randn(2, 1, 32, 32)).logits]).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


@EVERY_DECODER
def test_without_weight_there_are_no_auxiliary_heads(decoder: str) -> None:
    network: Any = setr.build(replace(TINY, decoder=decoder, auxiliary_weight=0.0), PROBLEM)
    assert isinstance(network.train()(torch.randn(2, 1, 32, 32)), Tensor)
    assert [name for name, _ in network.named_parameters() if "auxiliary" in name] == []


@pytest.mark.parametrize("taps", [(1, 3), (1, 2)])
def test_auxiliary_heads_read_the_tapped_blocks_and_the_head_the_last(taps: tuple[int, ...]) -> None:
    network: Any = setr.build(replace(TINY, tapped_blocks=taps), PROBLEM).train()
    blocks = outputs_of(network.transformer.blocks)
    auxiliary = inputs_of(network.decoder.auxiliary_heads)
    main = inputs_of([network.decoder.head])
    network(torch.randn(2, 1, 32, 32))
    assert torch.equal(main[0], blocks[2][:, 1:])
    for seen, number in zip(auxiliary, taps, strict=True):
        assert torch.equal(seen, blocks[number - 1][:, 1:])


def test_the_naive_decoder_is_two_pointwise_layers_and_one_enlargement() -> None:
    network: Any = setr.build(replace(TINY, decoder="naive", image_size=(32, 64)), PROBLEM).eval()
    coarse = outputs_of([network.decoder.head.classes])
    logits = network(torch.randn(1, 1, 32, 64))
    assert coarse[0].shape == (1, 3, 2, 4)
    expected = functional.interpolate(coarse[0], scale_factor=16, mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits, expected)
    assert [m.kernel_size for m in network.decoder.modules() if isinstance(m, nn.Conv2d)] == [(1, 1)] * 6


@pytest.mark.parametrize(("token_side", "num_convs"), [(16, 4), (8, 3), (4, 2)])
def test_pup_doubles_the_sides_between_convolutions_and_the_logits_last(token_side: int, num_convs: int) -> None:
    network: Any = setr.build(replace(TINY, token_side=token_side), PROBLEM).eval()
    convs, classes = outputs_of(network.decoder.head.convs), outputs_of([network.decoder.head.classes])
    network(torch.randn(1, 1, 32, 32))
    sides = [32 // token_side * 2**step for step in range(num_convs)]
    assert [tuple(seen.shape[2:]) for seen in convs] == [(side, side) for side in sides]
    assert classes[0].shape[2:] == (16, 16)


def test_the_pyramid_sums_states_from_the_deepest_up() -> None:
    network: Any = setr.build(replace(MLA, tapped_blocks=(1, 2, 3)), PROBLEM).eval()
    reduced, summed = outputs_of(network.decoder.reductions), inputs_of(network.decoder.pyramid)
    network(torch.randn(1, 1, 32, 32))
    first, second, third = reduced
    torch.testing.assert_close(summed[2], third)
    torch.testing.assert_close(summed[1], third + second)
    torch.testing.assert_close(summed[0], third + second + first)


def test_streams_are_enlarged_four_times_corner_to_corner_and_joined() -> None:
    network: Any = setr.build(MLA, PROBLEM).eval()
    streams, joined = outputs_of(network.decoder.streams), inputs_of([network.decoder.classes])
    network(torch.randn(1, 1, 32, 32))
    assert joined[0].shape == (1, 4, 8, 8)
    for index, stream in enumerate(streams):
        part = joined[0][:, 2 * index : 2 * index + 2]
        torch.testing.assert_close(part[..., ::7, ::7], stream)  # corners of 2 x 2 are corners of 8 x 8


def test_only_the_decoder_mla_has_no_class_token() -> None:
    names = {
        decoder: {name for name, _ in setr.build(replace(TINY, decoder=decoder), PROBLEM).named_parameters()}
        for decoder in ("naive", "pup", "mla")
    }
    assert ["transformer.class_token" in names[decoder] for decoder in ("naive", "pup", "mla")] == [True, True, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": "fpn"}, "decoder='fpn': must be one of naive, pup, mla"),
        ({"token_side": 12}, "token_side=12: must be a power of two"),
        ({"token_side": 2}, "token_side=2: must be a power of two of 4 at least"),
        ({"num_heads": 3}, "hidden_size=16 and num_heads=3"),
        ({"tapped_blocks": ()}, r"tapped_blocks=\(\): must be rising numbers from 1 to num_blocks=3"),
        ({"tapped_blocks": (2, 2)}, "rising numbers"),
        ({"tapped_blocks": (0, 3)}, "rising numbers"),
        ({"tapped_blocks": (1, 4)}, "rising numbers"),
        ({"decoder": "mla", "tapped_blocks": (1, 2)}, "reads the last block, so end tapped_blocks with 3"),
        ({"decoder": "mla", "head_channels": 5}, "make them even"),
        ({"auxiliary_weight": -0.1}, "auxiliary_weight=-0.1: must not be negative"),
        ({"image_size": 40}, "side 40 of axis 0 must be a multiple of 16"),
        ({"image_size": 16}, "side 16 of axis 0 must be a multiple of 16 and at least 32"),
        ({"image_size": (32, 32, 32)}, "has 3 sides, but the network is 2D"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        setr.build(replace(TINY, **changes), PROBLEM)


def test_another_size_is_refused_with_what_to_do() -> None:
    with pytest.raises(IllegalSizeError, match="side 48 of axis 1 must be 32, for which this network has positions"):
        setr.build(TINY, PROBLEM)(torch.zeros(1, 1, 32, 48))


def test_the_patch_becomes_the_image_size() -> None:
    assert setr.with_patch_size(TINY, [32, 48]) == replace(TINY, image_size=(32, 48))


@pytest.mark.slow
@EVERY_DECODER
def test_exported_network_gives_the_same_logits_for_any_batch(decoder: str) -> None:
    network = setr.build(replace(TINY, decoder=decoder), PROBLEM).eval()
    batch = torch.export.Dim("batch", min=1, max=8)
    exported = torch.export.export(network, (torch.zeros(2, 1, 32, 32),), dynamic_shapes=({0: batch},)).module()
    x = torch.randn(3, 1, 32, 32)
    torch.testing.assert_close(exported(x), network(x))
