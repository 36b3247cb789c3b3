from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repro_models.contract import IllegalSizeError, Problem
from repro_models.segmentation import segmamba
from repro_models.segmentation.segmamba import GatedSpatialConv, TriOrientedScan, sliced

PROBLEM = Problem(spatial_dims=3, in_channels=1, num_classes=2)
TINY = segmamba.VARIANTS["tiny"].config
PUBLISHED_SLICES = (64, 32, 16, 8)


def test_a_volume_is_cut_into_its_slices() -> None:
    x = torch.randn(2, 5, 3, 4, 6)
    cut = sliced(x, None)
    assert cut.shape == (2, 3, 24, 5)
    for number in range(3):
        assert torch.equal(cut[:, number], x[:, :, number].flatten(2).transpose(1, 2))


@pytest.mark.parametrize(
    ("size", "voxels_of_a_slice", "voxels_of_a_published_run"),
    [
        ((128, 128, 128), 4096, 4096),
        ((128, 96, 64), 1536, 1536),
        ((96, 96, 96), 2304, 1728),
        ((64, 128, 128), 4096, 2048),
        ((32, 32, 32), 256, 64),
    ],
)
def test_the_published_runs_are_slices_for_128_of_them_alone(
    size: tuple[int, int, int], voxels_of_a_slice: int, voxels_of_a_published_run: int
) -> None:
    x = torch.empty(1, 1, *(side // 2 for side in size), device="meta")
    assert sliced(x, None).shape[2] == voxels_of_a_slice
    assert sliced(x, PUBLISHED_SLICES[0]).shape[2] == voxels_of_a_published_run


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (
            (80, 160, 160),
            r"stage 3 has 500 voxels, .* cuts into 8 equal runs; take num_slices=None, or pad axis 0 to 128",
        ),
        ((112, 112, 80), r"stage 2 has 1960 voxels, .* cuts into 16 equal runs"),
    ],
)
def test_a_size_that_the_published_runs_do_not_divide_is_refused(size: tuple[int, int, int], message: str) -> None:
    segmamba.CONSTRAINTS.check_size(segmamba.Config(), size)
    published = segmamba.Config(num_slices=PUBLISHED_SLICES)
    with pytest.raises(IllegalSizeError, match=message):
        segmamba.CONSTRAINTS.check_size(published, size)
    segmamba.CONSTRAINTS.check_size(published, (128, *size[1:]))


def test_the_network_refuses_such_a_size_before_it_computes() -> None:
    network = segmamba.build(replace(TINY, num_slices=(4, 3)), PROBLEM)
    with pytest.raises(IllegalSizeError, match="stage 1 has 8 voxels"):
        network(torch.zeros(1, 1, 8, 8, 8))


def test_fixed_runs_change_nothing_where_they_are_the_slices_and_something_where_not() -> None:
    x = torch.randn(1, 1, 8, 12, 8)
    outputs = []
    for num_slices in (None, (4, 2), (2, 2)):
        torch.manual_seed(0)
        with torch.no_grad():
            outputs.append(segmamba.build(replace(TINY, num_slices=num_slices), PROBLEM).eval()(x))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])


def test_the_scan_is_the_sum_of_three_orders_by_their_positions() -> None:
    num_slices, num_places, channels = 3, 4, 6
    scan = TriOrientedScan(channels, num_states=2, kernel_size=3, rank=1).double()
    x = torch.randn(2, num_slices, num_places, channels, dtype=torch.float64)
    steps = x.reshape(2, -1, channels)
    raster = list(range(num_slices * num_places))
    across = [piece * num_places + place for place in range(num_places) for piece in range(num_slices)]
    expected = torch.zeros_like(steps)
    for space, order in ((scan.forwards, raster), (scan.backwards, raster[::-1]), (scan.across, across)):
        expected[:, order] += space(steps[:, order])
    torch.testing.assert_close(scan(x), expected.reshape(x.shape))


def test_every_voxel_hears_every_other_one() -> None:
    mixer = segmamba.tri_oriented_mamba(4, num_states=2).double()
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    for place in ((0, 0), (1, 2), (2, 3)):
        (gradient,) = torch.autograd.grad(mixer(x)[0, place[0], place[1]].sum(), x)
        assert (gradient.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("multiplies", [False, True])
def test_the_gated_convolution_joins_its_branches_as_it_is_told(multiplies: bool) -> None:
    conv = GatedSpatialConv(3, multiplies)
    x = torch.randn(1, 3, 4, 4, 4)
    wide, narrow = conv.wide(x), conv.narrow(x)
    joined = wide * narrow if multiplies else wide + narrow
    torch.testing.assert_close(conv(x), x + conv.out(joined))


def test_both_ways_of_joining_the_branches_have_the_same_parameters() -> None:
    shapes = []
    for multiplies in (False, True):
        network: Any = segmamba.build(replace(TINY, multiplies_branches=multiplies), PROBLEM)
        assert network.stages[0][0].multiplies_branches is multiplies
        shapes.append({name: parameter.shape for name, parameter in network.named_parameters()})
    assert shapes[0] == shapes[1]


def test_the_next_stage_takes_the_map_itself_and_the_decoder_its_normalised_form() -> None:
    network: Any = segmamba.build(TINY, PROBLEM).eval()
    seen: dict[str, Tensor] = {}

    def remember(name: str, module: nn.Module, is_output: bool = False) -> None:
        module.register_forward_hook(
            lambda _, inputs, output: seen.update({name: (output if is_output else inputs[0]).clone()})
        )

    remember("stage", network.stages[0], is_output=True)
    remember("halving", network.halvings[1])
    remember("image", network.image_path)
    remember("channels", network.outlets[0][1])
    x = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        network(x)
    assert torch.equal(seen["image"], x)
    assert torch.equal(seen["halving"], seen["stage"])
    normalised = nn.functional.instance_norm(seen["stage"])
    torch.testing.assert_close(seen["channels"], normalised)


def test_a_layer_adds_to_its_map() -> None:
    network: Any = segmamba.build(TINY, PROBLEM).eval()
    layer = network.stages[0][1]
    nn.init.zeros_(layer.mixer.out_projection.weight)
    x = torch.randn(1, 4, 2, 3, 4)
    assert torch.equal(layer(x), x)


@pytest.mark.parametrize("size", [(8, 12, 16), (16, 8, 12)])
def test_unequal_sides_are_served(size: tuple[int, int, int]) -> None:
    with torch.no_grad():
        assert segmamba.build(TINY, PROBLEM).eval()(torch.randn(1, 1, *size)).shape == (1, 2, *size)


def test_a_side_halves_once_per_stage_to_two_at_least() -> None:
    assert segmamba.CONSTRAINTS.per_axis(segmamba.Config(), 3) == ((16,) * 3, (32,) * 3)
    assert segmamba.CONSTRAINTS.per_axis(TINY, 3) == ((4,) * 3, (8,) * 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": (4, 6)}, r"features=\(4, 6\) and depths=\(1, 1\): give one number of features more than stages"),
        ({"features": (4,), "depths": ()}, r"depths=\(\): give one stage or more"),
        ({"depths": (1, 0)}, r"depths=\(1, 0\): give one stage or more, of one layer or more each"),
        ({"num_slices": (4,)}, r"num_slices=\(4,\): give a number of 1 or more for each of the 2 stages, or None"),
        ({"num_slices": (4, 0)}, r"num_slices=\(4, 0\): give a number of 1 or more"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segmamba.build(replace(TINY, **changes), PROBLEM)


def test_two_dimensions_are_refused_with_what_to_take() -> None:
    with pytest.raises(ValueError, match="spatial_dims=2: SegMamba serves 3; take segmentation/swin_unet for 2D"):
        segmamba.build(TINY, Problem(2, 1, 2))
