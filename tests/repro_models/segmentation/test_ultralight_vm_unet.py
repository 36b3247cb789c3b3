from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repro_models.blocks.mamba_mixer import MambaMixer
from repro_models.contract import IllegalSizeError, Problem
from repro_models.segmentation import ultralight_vm_unet
from repro_models.segmentation.ultralight_vm_unet import Config, PvmLayer
from tests.counted_macs import num_macs
from tests.fillings import num_parameters

PROBLEM = Problem(spatial_dims=2, in_channels=1, num_classes=2)
SKIN = Problem(spatial_dims=2, in_channels=3, num_classes=1)
TINY = ultralight_vm_unet.VARIANTS["tiny"].config


def on_meta(config: Config) -> nn.Module:
    with torch.device("meta"):
        return ultralight_vm_unet.build(config, SKIN)


def without_mamba(network: nn.Module) -> nn.Module:
    """`network`, changed in place: what Mamba would mix passes as it is."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, MambaMixer):
                setattr(module, name, nn.Identity())
    return network


@pytest.mark.parametrize(("num_groups", "count"), [(1, 98_128), (2, 31_448), (4, 11_316)])
def test_parting_channels_is_what_makes_mamba_small(num_groups: int, count: int) -> None:
    network = on_meta(Config(num_groups=num_groups))
    mixers = [module for module in network.modules() if isinstance(module, MambaMixer)]
    assert len(mixers) == 6
    assert sum(num_parameters(mixer) for mixer in mixers) == count


def test_a_mamba_of_its_own_for_every_group_has_four_times_the_parameters() -> None:
    assert num_parameters(on_meta(Config(is_mamba_shared=False))) == 49_457 + 3 * 11_316


def test_a_bridge_over_stage_6_sees_and_weighs_64_channels_more() -> None:
    # The five linear layers take 64 values more, and a sixth takes all 192 to 64.
    assert num_parameters(on_meta(Config(bridges_stage_6=True))) == 49_457 + 64 * 128 + 192 * 64 + 64


@pytest.mark.parametrize("num_groups", [1, 2, 4])
def test_called_convolutions_and_linear_layers_outside_mamba_are_the_published_0_060_gflops(num_groups: int) -> None:
    # thop hooks layers and counts multiply-accumulates when they are called. The authors' Mamba hands its weights to
    # fused kernels and calls none, so that their ablation has 0.060 in all three lines. Some versions of thop also
    # count layer norms (4 operations a value) and global means, 0.64 M here: 0.060 as well.
    network = without_mamba(on_meta(Config(num_groups=num_groups)))
    macs = num_macs(network, 3, (256, 256))
    assert macs == 59_597_824
    assert f"{macs / 1e9:.3f}" == "0.060"


class _NoProduct(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x.expand(*x.shape[:-1], self.channels)


def test_torchs_counter_gives_0_0659_where_the_products_of_a_rank_of_one_are_not_counted() -> None:
    network = on_meta(Config())
    assert num_macs(network, 3, (256, 256)) == 65_995_776
    # As by einsum, which multiplies without a matrix product where it sums over one value.
    for module in network.modules():
        if isinstance(module, MambaMixer):
            layer: Any = module.scan.step_size
            assert layer.in_features == 1
            module.scan.step_size = _NoProduct(layer.out_features)
    macs = num_macs(network, 3, (256, 256))
    assert macs == 65_995_776 - 102_400
    assert f"{macs / 1e9:.4f}" == "0.0659"


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_pvm_layer_mixes_each_group_alone_and_normalises_twice_by_one_norm(is_shared: bool) -> None:
    layer = PvmLayer(8, 5, num_groups=2, is_shared=is_shared, num_states=2).double()
    nn.init.constant_(layer.skip_scale, 0.3)
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    tokens = layer.norm(x.flatten(2).transpose(1, 2))
    mixers = list(layer.mixers) * (2 if is_shared else 1)
    mixed = [mixer(tokens[..., start : start + 4]) for mixer, start in zip(mixers, (0, 4), strict=True)]
    expected = layer.projection(layer.norm(torch.cat(mixed, 2) + 0.3 * tokens)).transpose(1, 2).reshape(2, 5, 3, 4)
    torch.testing.assert_close(layer(x), expected)


def test_stages_and_the_steps_that_undo_them_are_of_one_kind() -> None:
    network: Any = on_meta(Config())
    assert [isinstance(stage, PvmLayer) for stage in network.frame.stages] == [False] * 3 + [True] * 3
    assert [isinstance(step, PvmLayer) for step in network.frame.decoder] == [False] * 2 + [True] * 3


@pytest.mark.parametrize("redraws_mamba", [False, True])
def test_step_sizes_keep_their_start_unless_the_authors_is_asked_for(redraws_mamba: bool) -> None:
    network = ultralight_vm_unet.build(replace(TINY, redraws_mamba=redraws_mamba), PROBLEM)
    biases = [each for name, each in network.named_parameters() if name.endswith("step_size.bias")]
    # Step sizes of a tenth at most are exponentials of less than -2.
    assert [bool((bias < -2).all()) for bias in biases] == [not redraws_mamba] * 4
    assert [bool(bias.any()) for bias in biases] == [not redraws_mamba] * 4


def test_a_side_that_does_not_halve_at_every_stage_is_refused() -> None:
    assert ultralight_vm_unet.CONSTRAINTS.per_axis(Config(), 2) == ((32, 32), (32, 32))
    with pytest.raises(IllegalSizeError, match=r"side 6 of axis 1 must be a multiple of 4 and at least 4"):
        ultralight_vm_unet.build(TINY, PROBLEM)(torch.zeros(1, 1, 8, 6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": (8, 6, 8)}, "multiples of 4"),
        ({"num_conv_stages": 0}, "num_conv_stages=0: must be 1 to 3"),
        ({"num_conv_stages": 4}, "num_conv_stages=4: must be 1 to 3"),
        ({"num_groups": 3}, r"num_groups=3: must divide the features \(8, 8, 8\)"),
        ({"num_groups": 0}, "num_groups=0: must divide"),
        ({"bridge": "linear"}, "bridge='linear': must be one of 'none', 'fc', 'conv'"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ultralight_vm_unet.build(replace(TINY, **changes), PROBLEM)


def test_three_dimensions_are_refused_with_what_to_take() -> None:
    with pytest.raises(ValueError, match="spatial_dims=3: UltraLight VM-UNet serves 2; take segmentation/"):
        ultralight_vm_unet.build(TINY, Problem(3, 1, 2))
