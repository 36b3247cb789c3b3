from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from repro_models.contract import IllegalSizeError, Problem
from repro_models.segmentation import u_mamba
from tests.fillings import num_parameters

TINY = u_mamba.VARIANTS["tiny"].config
BOTTLENECK = u_mamba.VARIANTS["bottleneck_tiny"].config
in_2d_and_3d = pytest.mark.parametrize("spatial_dims", [2, 3])


def on_meta(config: u_mamba.Config, spatial_dims: int) -> Any:
    with torch.device("meta"):
        return u_mamba.build(config, Problem(spatial_dims, 1, 14))


def mamba_layers(network: Any) -> dict[int, Any]:
    """Encoder stage -> the Mamba layer at its end."""
    return {number: stage[-1] for number, stage in enumerate(network.encoder) if hasattr(stage[-1], "mamba")}


def num_blocks(stages: Any) -> list[int]:
    return [sum(hasattr(block, "shortcut") for block in stage) for stage in stages]


@pytest.mark.parametrize(
    ("variant", "mixed"),
    [
        ("bottleneck_3d", {5: "voxels"}),
        ("bottleneck_2d", {6: "voxels"}),
        # By hand: the last map has 5 x 7 x 6 = 210 voxels for 320 channels, the one before 840.
        ("encoder_3d", {0: "voxels", 1: "voxels", 2: "voxels", 3: "voxels", 4: "voxels", 5: 210}),
        # Maps of 20 x 20 and 5 x 5 voxels have 512 channels.
        ("encoder_2d", {0: "voxels", 2: "voxels", 4: 400, 6: 25}),
    ],
)
def test_mamba_layers_stand_where_the_authors_have_them_and_mix_channels_of_small_maps(
    variant: str, mixed: dict[int, Any]
) -> None:
    layers = mamba_layers(on_meta(u_mamba.VARIANTS[variant].config, 2 if variant.endswith("2d") else 3))
    found = {stage: layer.norm.weight.numel() if layer.mixes_channels else "voxels" for stage, layer in layers.items()}
    assert found == mixed


@pytest.mark.parametrize(
    ("spatial_dims", "period", "stages"),
    [(3, None, [0, 1, 2, 3, 4, 5]), (2, None, [1, 3, 5]), (2, 1, [0, 1, 2, 3, 4, 5]), (3, 4, [1, 5]), (3, 9, [5])],
)
def test_the_period_counts_from_the_last_stage(spatial_dims: int, period: int | None, stages: list[int]) -> None:
    config = u_mamba.Config(form="encoder", mamba_period=period)
    assert list(mamba_layers(on_meta(config, spatial_dims))) == stages


@pytest.mark.parametrize(
    ("num_stages", "is_thinned", "encoder", "decoder"),
    [
        (6, True, [2, 2, 2, 1, 1, 1], [2, 2, 2, 1, 1]),
        (7, True, [2, 2, 2, 2, 1, 1, 1], [2, 2, 2, 2, 1, 1]),
        (4, True, [2, 2, 1, 1], [2, 2, 1]),
        (4, False, [2, 2, 2, 2], [2, 2, 2]),
    ],
)
def test_the_second_half_of_encoder_and_decoder_has_one_block(
    num_stages: int, is_thinned: bool, encoder: list[int], decoder: list[int]
) -> None:
    config = u_mamba.Config(
        features=(4,), strides=(1, *(2,) * (num_stages - 1)), kernel_sizes=(3,) * num_stages, is_thinned=is_thinned
    )
    network = on_meta(config, 3)
    assert (num_blocks([network.stem]), num_blocks(network.encoder)) == ([2], encoder)
    assert num_blocks(network.decoder) == decoder


@pytest.mark.parametrize(("spatial_dims", "kernel_voxels"), [(2, 9), (3, 27)])
def test_only_in_two_dimensions_the_finest_skip_connection_is_missing(spatial_dims: int, kernel_voxels: int) -> None:
    by_default = num_parameters(on_meta(u_mamba.Config(), spatial_dims))
    counts = {
        has_skip: num_parameters(on_meta(u_mamba.Config(has_finest_skip=has_skip), spatial_dims))
        for has_skip in (True, False)
    }
    # 32 more channels in the first convolution and in the projection beside it.
    assert counts[True] - counts[False] == 32 * 32 * (kernel_voxels + 1)
    assert by_default == counts[spatial_dims == 3]


@pytest.mark.parametrize("has_finest_skip", [True, False])
def test_a_skip_connection_carries_what_a_stage_gives_with_its_mamba_layer(has_finest_skip: bool) -> None:
    config = replace(TINY, features=(4, 8, 32), strides=(1, 2, 2), kernel_sizes=(3, 3, 3), image_size=8)
    network: Any = u_mamba.build(replace(config, has_finest_skip=has_finest_skip), Problem(3, 1, 2)).eval()
    given: list[Tensor] = []
    joined: list[Tensor] = []
    for stage in network.encoder:
        stage.register_forward_hook(lambda _, __, output: given.append(output))
    for stage in network.decoder:
        stage.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    with torch.no_grad():
        network(torch.randn(1, 1, 8, 8, 8))
    assert torch.equal(joined[0][:, 8:], given[1])
    assert joined[1].shape[1] == (8 if has_finest_skip else 4)
    assert torch.equal(joined[1][:, 4:], given[0] if has_finest_skip else given[0][:, :0])


def layer(width: int, mixes_channels: bool) -> nn.Module:
    torch.manual_seed(0)
    return u_mamba._MambaLayer(width, mixes_channels).eval()


def test_a_mamba_layer_has_no_shortcut() -> None:
    silent: Any = layer(4, False)
    nn.init.zeros_(silent.mamba.out_projection.weight)
    assert not silent(torch.randn(1, 4, 2, 3)).any()


def test_voxels_are_steps_in_their_order_in_memory() -> None:
    x = torch.randn(1, 4, 2, 3)
    changed = x.clone()
    changed[:, :, 1, 1] += torch.randn(4)
    with torch.no_grad():
        difference = (layer(4, False)(changed) - layer(4, False)(x)).abs().sum(1).flatten()
    assert (difference > 0).tolist() == [False] * 4 + [True] * 2


def test_channels_are_steps_where_they_are_mixed() -> None:
    x = torch.randn(1, 4, 2, 3)
    changed = x.clone()
    changed[:, 2] += torch.randn(2, 3)
    with torch.no_grad():
        difference = (layer(6, True)(changed) - layer(6, True)(x)).abs().sum((2, 3)).flatten()
    assert (difference > 0).tolist() == [False, False, True, True]


def test_a_stage_projects_the_voxels_that_its_stride_takes() -> None:
    shortcut: Any = u_mamba._StridedPointwiseConv(3, 5, (1, 2, 2))
    x = torch.randn(2, 3, 3, 4, 6)
    torch.testing.assert_close(shortcut(x), functional.conv3d(x, shortcut.conv.weight, shortcut.conv.bias, (1, 2, 2)))


def test_only_the_first_block_of_a_stage_projects_its_shortcut_even_where_channels_stay() -> None:
    network = on_meta(u_mamba.Config(features=(4,)), 2)
    for stage in [network.stem, *network.encoder]:
        kinds = [isinstance(block.shortcut, nn.Identity) for block in stage if hasattr(block, "shortcut")]
        assert kinds == [False, True][: len(kinds)]


def test_convolving_before_copying_changes_no_number() -> None:
    upsample = u_mamba._Upsampling(3, 2, (1, 3))
    x = torch.randn(1, 3, 2, 2)
    torch.testing.assert_close(upsample(x), upsample.conv(x.repeat_interleave(3, dim=3)))


def test_training_returns_every_decoder_stage_finest_first() -> None:
    config = replace(BOTTLENECK, strides=(1, (1, 2, 2), 2), kernel_sizes=((1, 3, 3), 3, 3))
    network = u_mamba.build(config, Problem(3, 1, 3))
    x = torch.randn(1, 1, 4, 8, 16)
    outputs = network.train()(x)
    assert [tuple(output.shape) for output in outputs] == [(1, 3, 4, 8, 16), (1, 3, 4, 4, 8)]
    torch.testing.assert_close(network.eval()(x), outputs[0])


def test_without_deep_supervision_there_is_one_head() -> None:
    network: Any = u_mamba.build(replace(BOTTLENECK, deep_supervision=False), Problem(2, 1, 3)).train()
    output = network(torch.randn(2, 1, 8, 8))
    assert output.shape == (2, 3, 8, 8)
    output.square().mean().backward()
    assert len(network.heads) == 1
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    ("features", "spatial_dims", "expected"),
    [(None, 2, [32, 64, 128, 256, 512, 512]), (None, 3, [32, 64, 128, 256, 320, 320]), ((8, 12), 3, [8] + [12] * 5)],
)
def test_stages_beyond_the_last_number_have_as_many_channels(
    features: tuple[int, ...] | None, spatial_dims: int, expected: list[int]
) -> None:
    assert u_mamba.features_per_stage(u_mamba.Config(features=features), spatial_dims) == expected


def test_planning_sets_the_stages_and_of_the_encoder_form_the_patch() -> None:
    config = u_mamba.with_topology(BOTTLENECK, [[1, 1, 1], [1, 2, 2]], [[1, 3, 3], [3, 3, 3]])
    assert config == replace(BOTTLENECK, strides=((1, 1, 1), (1, 2, 2)), kernel_sizes=((1, 3, 3), (3, 3, 3)))
    assert u_mamba.with_patch_size(config, [4, 8, 8]) == config
    assert u_mamba.with_patch_size(TINY, [4, 8, 8]) == replace(TINY, image_size=(4, 8, 8))


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(BOTTLENECK, id="bottleneck"),
        # 4 x 4 voxels of the last stage are more than its 8 channels.
        pytest.param(replace(TINY, features=(4, 8), image_size=8), id="encoder that mixes voxels alone"),
    ],
)
def test_weights_of_voxels_serve_every_size(config: u_mamba.Config) -> None:
    network = u_mamba.build(config, Problem(2, 1, 2)).eval()
    for size in ((8, 8), (16, 12)):
        assert network(torch.zeros(1, 1, *size)).shape == (1, 2, *size)
    with pytest.raises(IllegalSizeError, match="side 9 of axis 1 must be a multiple of"):
        network(torch.zeros(1, 1, 8, 9))


def test_weights_of_channels_serve_one_size() -> None:
    network = u_mamba.build(replace(TINY, image_size=(4, 6)), Problem(2, 1, 2)).eval()
    assert network(torch.zeros(1, 1, 4, 6)).shape == (1, 2, 4, 6)
    with pytest.raises(IllegalSizeError, match="side 6 of axis 0 must be 4"):
        network(torch.zeros(1, 1, 6, 4))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(TINY, form="decoder"), "form='decoder': must be 'bottleneck'"),
        (replace(TINY, num_blocks=0), "num_blocks=0: every stage needs at least 1"),
        (replace(TINY, features=()), r"features=\(\): give whole numbers from 1"),
        (replace(TINY, features=(4, 0)), r"features=\(4, 0\): give whole numbers from 1"),
        (replace(TINY, mamba_period=0), "mamba_period=0: must be at least 1"),
        (replace(TINY, image_size=(4, 4)), r"image_size=\(4, 4\): has 2 sides, but the network is 3D"),
        (replace(TINY, image_size=5), "side 5 of axis 0 must be a multiple of 2"),
        (replace(TINY, strides=(1, (2, 2))), r"\(2, 2\) has 2 entries, but the network is 3D"),
        (replace(TINY, strides=(1, 2, 2), image_size=8), "3 strides and 2 kernel sizes"),
        (replace(BOTTLENECK, kernel_sizes=(3, 3, 2)), "must be odd"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(config: u_mamba.Config, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        u_mamba.build(config, Problem(3, 1, 2))


def test_convolutions_start_kaiming_normal_and_biases_zero() -> None:
    torch.manual_seed(0)
    network: Any = u_mamba.build(replace(BOTTLENECK, features=(4, 8, 64)), Problem(3, 1, 2))
    convolution = network.encoder[2][0].convolutions[3]
    assert convolution.weight.std().item() == pytest.approx(math.sqrt(2 / (1 + 0.01**2) / (64 * 27)), rel=0.02)
    assert not any(m.bias.any() for m in network.modules() if isinstance(m, nn.Conv3d) and m.bias is not None)


# The contract tests run on `tiny`, which is the form `encoder`; the following hold the other to the same.
def bottleneck(spatial_dims: int) -> nn.Module:
    torch.manual_seed(0)
    return u_mamba.build(BOTTLENECK, Problem(spatial_dims, 2, 3))


@in_2d_and_3d
def test_every_weight_of_the_bottleneck_form_gets_a_gradient(spatial_dims: int) -> None:
    network = bottleneck(spatial_dims).train()
    outputs = network(torch.randn(2, 2, *(8,) * spatial_dims))
    torch.stack([output.square().mean() for output in outputs]).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@in_2d_and_3d
def test_samples_of_the_bottleneck_form_do_not_see_each_other(spatial_dims: int) -> None:
    network = bottleneck(spatial_dims).eval()
    batch = torch.randn(3, 2, *(8,) * spatial_dims)
    with torch.no_grad():
        torch.testing.assert_close(network(batch)[1:2], network(batch[1:2]), rtol=1e-4, atol=1e-5)


@in_2d_and_3d
def test_training_step_of_the_bottleneck_form_runs_on_shapes_alone(spatial_dims: int) -> None:
    with FakeTensorMode():
        network = bottleneck(spatial_dims).train()
        outputs = network(torch.empty(2, 2, *(8,) * spatial_dims))
        torch.stack([output.square().mean() for output in outputs]).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@in_2d_and_3d
def test_the_bottleneck_form_is_exported(spatial_dims: int) -> None:
    network = bottleneck(spatial_dims).eval()
    x = torch.randn(1, 2, *(8,) * spatial_dims)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), network(x))
