from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from repro_models.contract import IllegalSizeError, Problem
from repro_models.segmentation import vm_unet

PROBLEM = Problem(spatial_dims=2, in_channels=1, num_classes=2)
TINY = vm_unet.VARIANTS["tiny"].config
THREE_LEVELS = replace(TINY, depths=(1, 1, 1), decoder_depths=(1, 1, 1))


def test_a_skip_connection_is_the_map_that_enters_a_level_and_is_added_before_that_level_expands() -> None:
    network: Any = vm_unet.build(THREE_LEVELS, PROBLEM).eval()
    entering: list[Tensor] = []
    leaving: list[Tensor] = []
    expanded: list[Tensor] = []
    for blocks in network.encoder:
        blocks.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    for blocks in network.decoder:
        blocks.register_forward_hook(lambda _, __, output: leaving.append(output))
    for expanding in network.expandings:
        expanding.register_forward_pre_hook(lambda _, inputs: expanded.append(inputs[0]))
    with torch.no_grad():
        network(torch.randn(1, 1, 32, 16))
    assert [tuple(level.shape[1:]) for level in entering] == [(8, 4, 4), (4, 2, 8), (2, 1, 16)]
    # The finest level has none.
    for result, before, skip in zip(expanded, leaving, (entering[2], entering[1]), strict=False):
        assert torch.equal(result, before + skip)


def test_blocks_are_left_out_ever_more_along_the_encoder_and_ever_less_along_the_decoder() -> None:
    with torch.device("meta"):
        network: Any = vm_unet.build(vm_unet.Config(), Problem(2, 3, 1))
    encoder, decoder = (
        [block.drop_path.probability for blocks in half for block in blocks]
        for half in (network.encoder, network.decoder)
    )
    assert encoder == pytest.approx([0.2 * number / 7 for number in range(8)])
    assert decoder == pytest.approx([0.2 * (6 - number) / 6 for number in range(7)])


def test_two_sizes_circulate_and_the_released_one_is_the_default() -> None:
    sizes = {vm_unet.VARIANTS[key].num_parameters for key in ("released", "class_defaults")}
    assert sizes == {27_427_561, 44_273_833}
    assert vm_unet.VARIANTS["released"].config == vm_unet.Config()


def test_step_sizes_keep_mambas_start_where_linear_layers_are_drawn_anew() -> None:
    torch.manual_seed(0)
    network: Any = vm_unet.build(vm_unet.VARIANTS["small"].config, PROBLEM)
    mixer = network.encoder[2][0].mixer
    steps = torch.nn.functional.softplus(mixer.scan.step_bias)
    assert 0.0009 < steps.min() < steps.max() < 0.11
    assert mixer.in_projection.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_a_side_that_does_not_halve_at_every_level_is_refused() -> None:
    assert vm_unet.CONSTRAINTS.per_axis(vm_unet.Config(), 2) == ((32, 32), (32, 32))
    with pytest.raises(IllegalSizeError, match=r"side 12 of axis 1 must be a multiple of 8 and at least 8"):
        vm_unet.build(TINY, PROBLEM)(torch.zeros(1, 1, 16, 12))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_depths": (1, 1, 1)}, r"depths=\(1, 1\) and decoder_depths=\(1, 1, 1\): give one of each"),
        ({"depths": (2,), "decoder_depths": (2,)}, "for two levels or more"),
        ({"base_features": 6}, "base_features=6: must be a multiple of 4"),
        ({"drop_path_probability": 1.0}, "drop_path_probability=1.0: must be from 0 to less than 1"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vm_unet.build(replace(TINY, **changes), PROBLEM)


def test_three_dimensions_are_refused_with_what_to_take() -> None:
    with pytest.raises(ValueError, match="spatial_dims=3: VM-UNet serves 2; take segmentation/"):
        vm_unet.build(TINY, Problem(3, 1, 2))
