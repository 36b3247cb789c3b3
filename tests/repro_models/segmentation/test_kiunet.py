from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from repro_models.contract import IllegalSizeError, Problem
from repro_models.segmentation import kiunet
from tests.fillings import num_parameters

PROBLEM = Problem(spatial_dims=2, in_channels=1, num_classes=2)
TINY = kiunet.VARIANTS["tiny"].config
NORMALISED = replace(TINY, has_norm=True)
# The authors' two convolutions of 64 channels and their normalisations that nothing reads.
UNREAD_2D = 2 * (9 * 64**2 + 64 + 2 * 64)


@pytest.mark.parametrize(
    ("config", "in_channels", "theirs"),
    [
        (kiunet.Config(), 1, 290_658),
        (kiunet.Config(block="residual"), 3, 302_162),
        (kiunet.Config(block="dense", has_shared_dense_norms=True), 3, 488_634),
    ],
)
def test_parameters_in_2d_are_the_authors_less_what_nothing_reads(
    config: kiunet.Config, in_channels: int, theirs: int
) -> None:
    with torch.device("meta"):
        assert num_parameters(kiunet.build(config, Problem(2, in_channels, 2))) == theirs - UNREAD_2D


@pytest.mark.parametrize(
    ("n", "in_channels", "num_classes", "theirs"), [(1, 4, 5, 2850), (16, 4, 5, 563_700), (2, 1, 2, 9010)]
)
def test_parameters_in_3d_are_the_authors_less_what_nothing_reads(
    n: int, in_channels: int, num_classes: int, theirs: int
) -> None:
    config = replace(
        kiunet.VARIANTS["paper_3d"].config,
        u_features=(n, 2 * n, 4 * n, 2 * n, 2 * n, in_channels),
        ki_features=(n, 2 * n, 2 * n, 2 * n, 2 * n, in_channels),
    )
    problem = Problem(3, in_channels, num_classes)
    with torch.device("meta"):
        network = kiunet.KiUNet(config, problem)
        assert num_parameters(network) == theirs - 54 * n**2 - 2 * n
        if n > 1:  # theirs can be made then, but not run
            with pytest.raises(
                ValueError, match=rf"the {n} channels after step 1 are added to the {2 * n} after step 5"
            ):
                kiunet.build(config, problem)


@pytest.mark.parametrize("name", ["paper", "residual", "dense"])
def test_a_variant_takes_the_stated_multiplications(name: str) -> None:
    variant = kiunet.VARIANTS[name]
    assert variant.size is not None
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        kiunet.build(variant.config, variant.problem).eval()(torch.empty(1, variant.problem.in_channels, *variant.size))
    assert counter.get_total_flops() == 2 * variant.num_macs  # type: ignore[operator]


def test_the_residual_network_saves_what_the_authors_compute_and_throw_away() -> None:
    # Their first convolution of 3 to 16 channels once more, at full size.
    assert kiunet.VARIANTS["residual"].num_macs == 72_521_613_312 - 128**2 * 9 * 3 * 16


def test_the_3d_network_takes_the_stated_multiplications() -> None:
    variant = kiunet.VARIANTS["paper_3d"]
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        kiunet.build(variant.config, variant.problem).eval()(torch.empty(1, 4, 64, 64, 64))
    # 51.66 billion are stated.
    assert counter.get_total_flops() / 2 == pytest.approx(51.66e9, abs=0.005e9)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_one_branch_goes_down_and_the_other_up_to_eight_times_the_sides(spatial_dims: int) -> None:
    network: Any = kiunet.build(TINY, Problem(spatial_dims, 1, 2)).eval()
    sides: dict[str, list[int]] = {"u": [], "ki": []}
    for name, steps in (("u", network.u_steps), ("ki", network.ki_steps)):
        for step in steps:
            step.register_forward_hook(lambda _, __, output, name=name: sides[name].append(output.shape[-1]))
    with torch.no_grad():
        network(torch.randn(1, 1, *[8] * spatial_dims))
    assert sides == {"u": [4, 2, 1, 2, 4, 8], "ki": [16, 32, 64, 32, 16, 8]}


def test_branches_exchange_what_they_were_before_the_exchange() -> None:
    torch.manual_seed(0)
    network: Any = kiunet.build(NORMALISED, PROBLEM).eval()
    fusion = network.fusions[1]
    u, ki = torch.randn(1, 4, 2, 2), torch.randn(1, 2, 32, 32)
    new_u, new_ki = fusion(u, ki)
    centres = fusion.from_ki(ki)
    # Sampled between the two middle voxels of the sixteen, with no smoothing.
    middle = [7, 8, 23, 24]
    expected = nn.functional.avg_pool2d(centres[:, :, middle][:, :, :, middle], 2)
    torch.testing.assert_close(new_u, u + expected)
    resized = nn.functional.interpolate(fusion.from_u(u), scale_factor=16, mode="bilinear")
    torch.testing.assert_close(new_ki, ki + resized)


def test_encoder_maps_are_added_in_both_branches_after_the_exchange() -> None:
    network: Any = kiunet.build(TINY, PROBLEM).eval()
    fused: list[tuple[Tensor, Tensor]] = []
    entering: dict[str, list[Tensor]] = {"u": [], "ki": []}
    for fusion in network.fusions:
        fusion.register_forward_hook(lambda _, __, output: fused.append(output))
    for name, steps in (("u", network.u_steps), ("ki", network.ki_steps)):
        for step in steps:
            step.register_forward_pre_hook(lambda _, inputs, name=name: entering[name].append(inputs[0]))
    with torch.no_grad():
        network(torch.randn(1, 1, 16, 16))
    for branch, name in enumerate(("u", "ki")):
        assert torch.equal(entering[name][3], fused[2][branch])
        torch.testing.assert_close(entering[name][4], fused[3][branch] + fused[1][branch])
        torch.testing.assert_close(entering[name][5], fused[4][branch] + fused[0][branch])


def test_logits_go_below_0_unless_the_authors_relu_is_asked_for() -> None:
    torch.manual_seed(0)
    ours = kiunet.build(NORMALISED, PROBLEM).eval()
    theirs = kiunet.build(replace(NORMALISED, has_relu_on_logits=True), PROBLEM).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        logits = ours(x)
        assert (logits < 0).any()
        assert torch.equal(theirs(x), logits.clamp(min=0))


def test_shortcuts_are_there_on_every_step_but_the_one_that_the_authors_throw_away() -> None:
    config = kiunet.Config(block="residual")

    def num_shortcuts(config: kiunet.Config) -> list[int]:
        network: Any = kiunet.build(config, PROBLEM)
        return [
            sum(name.endswith("shortcut.weight") for name, _ in steps.named_parameters())
            for steps in (network.u_steps, network.ki_steps)
        ]

    assert num_shortcuts(config) == [6, 6]
    assert num_shortcuts(replace(config, has_first_ki_shortcut=False)) == [6, 5]
    assert num_shortcuts(kiunet.Config()) == [0, 0]


@pytest.mark.parametrize("block", ["residual", "dense"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_every_parameter_of_the_other_blocks_gets_a_gradient(block: str, spatial_dims: int) -> None:
    torch.manual_seed(0)
    config = kiunet.Config(u_features=(4,) * 6, ki_features=(4,) * 6, block=block)
    if spatial_dims == 3:
        config = replace(config, has_norm=False, has_bias=False)
    network = kiunet.build(config, Problem(spatial_dims, 1, 2)).train()
    network(torch.randn(2, 1, *[16 if spatial_dims == 2 else 8] * spatial_dims)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_a_dense_block_adds_what_its_layers_saw() -> None:
    torch.manual_seed(0)
    block: Any = kiunet.build(kiunet.Config(block="dense"), PROBLEM).u_steps[0][1].eval()  # type: ignore[index, union-attr]
    x = torch.randn(1, 16, 5, 5)
    first = block.norms[0](block.convs[0](block.bottleneck_norms[0](block.bottlenecks[0](x)).relu())).relu()
    second_input = torch.cat([x, first], dim=1)
    second = block.norms[1](block.convs[1](block.bottleneck_norms[1](block.bottlenecks[1](second_input)).relu())).relu()
    y = block(x)
    torch.testing.assert_close(y[:, :4], x[:, :4] + first)
    torch.testing.assert_close(y[:, 4:8], x[:, 4:8] + second)


def test_one_voxel_is_refused_where_it_would_be_normalised() -> None:
    x = torch.zeros(1, 1, 8, 16)
    with pytest.raises(IllegalSizeError, match="side 8 of axis 0 must be a multiple of 8 and at least 16"):
        kiunet.build(NORMALISED, PROBLEM)(x)
    with torch.no_grad():
        assert kiunet.build(TINY, PROBLEM)(x).shape == (1, 2, 8, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block": "dens"}, "block='dens': must be one of plain, residual, dense"),
        ({"u_features": (4, 4, 4)}, r"u_features=\(4, 4, 4\): give 6 numbers, one per step"),
        ({"ki_features": (2, 4, 1, 2, 2, 2)}, "the 4 channels after step 2 are added to the 2 after step 4"),
        ({"u_features": (4, 4, 4, 4, 4, 4)}, "the last numbers must be equal"),
        ({"block": "dense"}, r"u_features=\(4, 4, 4, 4, 4, 2\): must be multiples of 4"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kiunet.build(replace(TINY, **changes), PROBLEM)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(16, 24), (8, 8, 8)], ids=["2d", "3d"])
def test_exported_network_gives_the_same_logits_for_any_batch(size: tuple[int, ...]) -> None:
    network = kiunet.build(TINY, Problem(len(size), 1, 2)).eval()
    batch = torch.export.Dim("batch", min=1, max=8)
    exported = torch.export.export(network, (torch.zeros(2, 1, *size),), dynamic_shapes=({0: batch},)).module()
    x = torch.randn(3, 1, *size)
    torch.testing.assert_close(exported(x), network(x))
