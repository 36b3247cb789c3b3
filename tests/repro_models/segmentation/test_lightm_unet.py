from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repro_models.contract import IllegalSizeError, Problem
from repro_models.segmentation import lightm_unet

PROBLEM = Problem(spatial_dims=2, in_channels=1, num_classes=2)
TINY = lightm_unet.VARIANTS["tiny"].config
THREE_LEVELS = replace(TINY, encoder_blocks=(1, 2, 1), decoder_blocks=(2, 1))


def layer(in_channels: int, out_channels: int) -> Any:
    torch.manual_seed(0)
    return lightm_unet._MambaLayer(in_channels, out_channels).eval()


def test_the_shortcut_of_a_mamba_layer_carries_its_input_before_the_normalisation() -> None:
    """Where the input is large, what the scan adds to it is lost; had it been normalised, size would not matter."""
    mixing = layer(8, 4)
    x = torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        without_scan = mixing.projection(mixing.norm(x.movedim(1, -1))).movedim(-1, 1)
        torch.testing.assert_close(mixing(1e6 * x), without_scan, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(mixing(x), without_scan, atol=1e-3)


def test_the_shortcut_of_a_mamba_layer_is_scaled_by_one_number() -> None:
    mixing = layer(8, 4)
    nn.init.zeros_(mixing.skip_scale)
    nn.init.zeros_(mixing.mamba.out_projection.weight)
    with torch.no_grad():
        output = mixing(torch.randn(1, 8, 2, 2))
    # Nothing is left but the biases of the normalisation, which are 0, and of the projection.
    torch.testing.assert_close(output, mixing.projection.bias.reshape(1, 4, 1, 1).expand(1, 4, 2, 2))


def test_voxels_are_steps_in_their_order_in_memory() -> None:
    x = torch.randn(1, 8, 2, 3)
    changed = x.clone()
    changed[:, :, 1, 1] += torch.randn(8)
    with torch.no_grad():
        difference = (layer(8, 4)(changed) - layer(8, 4)(x)).abs().sum(1).flatten()
    assert (difference > 0).tolist() == [False] * 4 + [True] * 2


def test_blocks_are_those_of_the_configuration() -> None:
    with torch.device("meta"):
        network: Any = lightm_unet.build(lightm_unet.Config(), Problem(3, 1, 3))

    def num_blocks(levels: Any, kind: type[nn.Module]) -> list[int]:
        return [sum(isinstance(module, kind) for module in level.modules()) for level in levels]

    assert num_blocks(network.encoder, lightm_unet._MambaBlock) == [1, 2, 2, 4]
    # Two in a block, and one where channels double.
    assert num_blocks(network.encoder, lightm_unet._MambaLayer) == [2, 5, 5, 9]
    assert num_blocks(network.decoder, lightm_unet._DecoderBlock) == [1, 1, 1]


def test_channels_double_before_sides_halve() -> None:
    network: Any = lightm_unet.build(THREE_LEVELS, PROBLEM).eval()
    seen: list[tuple[int, ...]] = []
    for level in network.encoder[1:]:
        level[0].register_forward_hook(lambda _, inputs, output: seen.append((*inputs[0].shape, *output.shape)))
    with torch.no_grad():
        network(torch.randn(1, 1, 8, 12))
    assert seen == [(1, 8, 8, 12, 1, 16, 8, 12), (1, 16, 4, 6, 1, 32, 4, 6)]


def test_skip_connections_are_added_to_the_interpolated_map() -> None:
    network: Any = lightm_unet.build(THREE_LEVELS, PROBLEM).eval()
    given: list[Tensor] = []
    grown: list[Tensor] = []
    joined: list[Tensor] = []
    for module, outputs in ((network.encoder, given), (network.upsampling, grown)):
        for step in module:
            step.register_forward_hook(lambda _, __, output, outputs=outputs: outputs.append(output))
    for step in network.decoder:
        step.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    with torch.no_grad():
        network(torch.randn(1, 1, 8, 8))
    for number, skip in enumerate((given[1], given[0])):
        assert torch.equal(joined[number], grown[number] + skip)


def test_a_decoder_block_scales_its_shortcut() -> None:
    block: Any = lightm_unet._DecoderBlock(2, 8)
    x = torch.randn(1, 8, 4, 4)
    nn.init.zeros_(block.convolution[2][1].weight)
    with torch.no_grad():
        torch.testing.assert_close(block(x), block.last(x))
        nn.init.constant_(block.skip_scale, -1)
        torch.testing.assert_close(block(x), block.last(-x))


def test_maps_grow_by_linear_interpolation_without_weights() -> None:
    network: Any = lightm_unet.build(TINY, Problem(3, 1, 2))
    (upsampling,) = network.upsampling
    projection, interpolation = upsampling
    assert [tuple(parameter.shape) for parameter in upsampling.parameters()] == [(8, 16, 1, 1, 1)]
    # By hand: voxels of half the size lie a quarter of a side from the old centres.
    row = interpolation(torch.tensor([0.0, 4.0]).reshape(1, 1, 1, 1, 2))[0, 0, 0, 0]
    assert row.tolist() == [0.0, 1.0, 3.0, 4.0]
    assert projection.bias is None


def test_the_bottleneck_may_be_one_voxel() -> None:
    config = replace(TINY, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1))
    assert lightm_unet.CONSTRAINTS.per_axis(config, 2) == ((4, 4), (4, 4))
    network = lightm_unet.build(config, PROBLEM).train()
    assert network(torch.randn(1, 1, 4, 4)).isfinite().all()
    with pytest.raises(IllegalSizeError, match=r"side 6 of axis 1 must be a multiple of 4 and at least 4; pad .* to 8"):
        network(torch.zeros(1, 1, 4, 6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_features": 12}, "base_features=12: must be a multiple of 8"),
        ({"base_features": 0}, "base_features=0: must be a multiple of 8"),
        ({"encoder_blocks": (1,), "decoder_blocks": ()}, "give two levels or more"),
        ({"decoder_blocks": (1, 1)}, r"encoder_blocks=\(1, 1\) and decoder_blocks=\(1, 1\): .* the decoder one less"),
        ({"encoder_blocks": (0, 1)}, "every level needs at least 1 block"),
        ({"decoder_blocks": (0,)}, "every level needs at least 1 block"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lightm_unet.build(replace(TINY, **changes), PROBLEM)
