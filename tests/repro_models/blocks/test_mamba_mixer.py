from __future__ import annotations

import math

import pytest
import torch

from repro_models.blocks.mamba_mixer import StateSpace, mamba
from tests.fillings import assert_float32_golden, golden_output, num_parameters


@pytest.mark.parametrize(
    ("arguments", "count"), [((768,), 3_770_880), ((192,), 251_520), ((16,), 3_360), ((20, 8, 3, 3), 5_640)]
)
def test_parameters_are_those_of_the_authors_block(arguments: tuple[int, ...], count: int) -> None:
    assert num_parameters(mamba(*arguments)) == count


@pytest.mark.parametrize(
    ("arguments", "shape", "filling", "golden"),
    [
        ((16,), (1, 8, 16), "constant", (0.0001150185, 8.985818e-07, 6.197693e-07, [7.727902e-08] * 8)),
        (
            (16,),
            (1, 8, 16),
            "hashed",
            (
                23.18189,
                0.1811085,
                1.810434,
                [0.2399444, -0.07980556, 0.4461956, -0.1363984, -0.1068753, 0.2025948, -0.1751934, 0.02337407],
            ),
        ),
        ((20, 8, 3, 3), (2, 7, 20), "constant", (0.0006140831, 2.193154e-06, 1.535578e-06, [1.042497e-07] * 8)),
        (
            (20, 8, 3, 3),
            (2, 7, 20),
            "hashed",
            (
                48.78655,
                0.1742377,
                0.55544,
                [0.01429718, 0.04032989, 0.02131744, 0.005477127, -0.008282769, 0.0305032, -0.00765932, -0.01534733],
            ),
        ),
    ],
)
def test_output_equals_the_authors(
    arguments: tuple[int, ...],
    shape: tuple[int, ...],
    filling: str,
    golden: tuple[float, float, float, list[float]],
) -> None:
    output = golden_output(mamba(*arguments), filling, shape)
    assert output.shape == shape
    assert_float32_golden(output, *golden)


def test_reversed_is_what_flipping_input_and_result_gives() -> None:
    space = StateSpace(channels=6, num_states=4, kernel_size=3, rank=2).double()
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    torch.testing.assert_close(space(x, is_reversed=True), space(x.flip(1)).flip(1))


def test_no_step_sees_a_later_one() -> None:
    block = mamba(8).eval()
    x = torch.randn(1, 12, 8)
    changed = x.clone()
    changed[:, 7:] += 1
    before, after = block(x), block(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7], after[:, 7])


def test_step_sizes_begin_between_a_thousandth_and_a_tenth() -> None:
    torch.manual_seed(0)
    begin = torch.nn.functional.softplus(StateSpace(4096, 16, 4, 8).step_size.bias).log10()
    assert -3.0001 <= begin.min() < -2.99
    assert -1.01 < begin.max() <= -0.9999
    # Evenly on a logarithmic scale: mean in the middle, deviation 2 / sqrt(12).
    assert begin.mean().item() == pytest.approx(-2, abs=0.05)
    assert begin.std().item() == pytest.approx(2 / math.sqrt(12), abs=0.03)
