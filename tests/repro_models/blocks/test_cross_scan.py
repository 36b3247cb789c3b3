from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from repro_models.blocks.cross_scan import CrossScan, cross_scan_mixer
from repro_models.blocks.selective_scan import selective_scan
from tests.fillings import num_parameters


def in_turn(scan: CrossScan, x: Tensor) -> Tensor:
    """The same, as the paper draws it: four sequences, laid out, flipped and scanned one by one."""
    x = functional.silu(scan.conv(x.movedim(-1, 1)).movedim(1, -1))
    rank, num_states, _ = scan.sizes
    total = torch.zeros_like(x)
    for direction in range(4):
        laid_out = x.transpose(1, 2) if direction % 2 else x
        u = laid_out.flatten(1, 2)
        u = u.flip(1) if direction >= 2 else u
        steps, b, c = (u @ scan.selection[direction].T).split([rank, num_states, num_states], 2)
        delta = functional.softplus(steps @ scan.step_weight[direction].T + scan.step_bias[direction])
        log_a, d = scan.log_a.chunk(4)[direction], scan.d.chunk(4)[direction]
        y = selective_scan(u, delta, -log_a.exp(), b, c, d)
        y = (y.flip(1) if direction >= 2 else y).reshape(laid_out.shape)
        total = total + (y.transpose(1, 2) if direction % 2 else y)
    return scan.norm(total)


def test_two_scans_of_two_groups_give_what_four_scans_of_flipped_sequences_give() -> None:
    scan = CrossScan(channels=6, num_states=3, kernel_size=3, rank=2).double()
    torch.nn.init.normal_(scan.d)
    x = torch.randn(2, 4, 3, 6, dtype=torch.float64)
    torch.testing.assert_close(scan(x), in_turn(scan, x))


@pytest.mark.parametrize("pixel", [(0, 0), (2, 3), (4, 1)])
def test_every_pixel_sees_every_other(pixel: tuple[int, int]) -> None:
    mixer = cross_scan_mixer(4, num_states=2).double()
    x = torch.randn(1, 5, 4, 4, dtype=torch.float64)
    changed = x.clone()
    changed[0, pixel[0], pixel[1]] += 1
    assert ((mixer(x) - mixer(changed)).abs().amax(-1) > 0).all()


def test_parameters_have_the_shapes_of_the_authors() -> None:
    scan = CrossScan(channels=32, num_states=16, kernel_size=3, rank=1)
    shapes = {name: tuple(parameter.shape) for name, parameter in scan.named_parameters()}
    assert shapes == {
        "conv.weight": (32, 1, 3, 3),
        "conv.bias": (32,),
        "selection": (4, 33, 32),
        "step_weight": (4, 32, 1),
        "step_bias": (4, 32),
        "log_a": (128, 16),
        "d": (128,),
        "norm.weight": (32,),
        "norm.bias": (32,),
    }
    # Behind the inner channels, twice the outer ones: projections in (twice, for the gate) and out.
    assert num_parameters(cross_scan_mixer(16)) == num_parameters(scan) + 3 * 16 * 32
