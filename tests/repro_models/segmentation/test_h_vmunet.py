from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from repro_models.contract import IllegalSizeError, Problem
from repro_models.segmentation import h_vmunet
from repro_models.segmentation.h_vmunet import HighOrderScan, HVssBlock, LocalScan
from tests.fillings import num_parameters

PROBLEM = Problem(spatial_dims=2, in_channels=1, num_classes=2)
TINY = h_vmunet.VARIANTS["tiny"].config


def test_nothing_reads_the_weights_that_the_authors_code_carries_on() -> None:
    with torch.device("meta"):
        plain, carrying = (
            h_vmunet.build(h_vmunet.Config(has_unused_weights=has_them), Problem(2, 3, 1)) for has_them in (False, True)
        )
    unused = [parameter for name, parameter in carrying.named_parameters() if name.endswith("gates.unused")]
    assert len(unused) == 16  # a block each
    assert num_parameters(carrying) - num_parameters(plain) == sum(each.numel() for each in unused) == 403_392
    network = h_vmunet.build(replace(TINY, has_unused_weights=True), PROBLEM)
    network(torch.randn(1, 1, 8, 8)).sum().backward()
    assert {name.endswith("gates.unused") for name, each in network.named_parameters() if each.grad is None} == {True}


def test_a_map_passes_gates_of_doubling_width_and_a_scan_behind_each() -> None:
    scan: Any = HighOrderScan(16, order=3, num_states=2, has_unused_weights=False)
    widths: list[int] = []
    for each in scan.scans:
        each.register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape[-1]))
    assert scan(torch.randn(1, 3, 4, 16)).shape == (1, 3, 4, 16)
    assert widths == [4, 8, 16]


def test_gates_are_weakened_to_a_third() -> None:
    scan: Any = HighOrderScan(4, order=1, num_states=2, has_unused_weights=False).eval()
    entered: list[torch.Tensor] = []
    scan.scans[0].register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    scan.gates = torch.nn.Identity()
    x = torch.randn(1, 2, 3, 4)
    scan(x)
    first, second = scan.in_projection(x.movedim(-1, 1)).movedim(1, -1).chunk(2, -1)
    torch.testing.assert_close(entered[0], first * second / 3)


def test_channels_of_the_convolved_and_the_scanned_half_alternate() -> None:
    local: Any = LocalScan(8, num_states=2, unused_sides=None)
    local.last_norm = torch.nn.Identity()
    torch.nn.init.zeros_(local.conv.weight)
    y = local(torch.randn(1, 3, 4, 8))
    assert not y[..., ::2].any()
    assert y[..., 1::2].all()


def test_a_block_begins_as_almost_nothing() -> None:
    block = HVssBlock(8, torch.nn.Identity(), 1e-6, 0.0)
    x = torch.randn(2, 4, 4, 8)
    assert 0 < (block(x) - x).abs().max() < 1e-4


def test_depths_and_orders_are_free_and_the_decoder_has_those_of_the_stage_it_undoes() -> None:
    config = h_vmunet.Config(features=(8, 16, 16, 32), depths=(1, 3), orders=(4, 2), drop_path_probability=0.3)
    with torch.device("meta"):
        network: Any = h_vmunet.build(config, Problem(2, 3, 1))

    def described(step: Any) -> tuple[list[int], list[float]]:
        return (
            [len(block.scan.widths) for block in step.blocks],
            [round(block.drop_path.probability, 6) for block in step.blocks],
        )

    assert [described(stage) for stage in network.frame.stages[2:]] == [([4], [0.0]), ([2] * 3, [0.1, 0.2, 0.3])]
    assert [described(step) for step in network.frame.decoder[1:]] == [([4], [0.0]), ([2] * 3, [0.1, 0.2, 0.3])]


def test_without_a_bridge_the_skip_connections_are_plain() -> None:
    with torch.device("meta"):
        with_it, without = (
            num_parameters(h_vmunet.build(h_vmunet.Config(has_bridge=has_one), Problem(2, 3, 1)))
            for has_one in (True, False)
        )
    # Spatial: a convolution of side 7 from two channels. Channel: a convolution of 3, linear layers of 248 features.
    assert with_it - without == (2 * 49 + 1) + 3 + (248 * 248 + 248)


def test_a_side_that_does_not_halve_at_every_stage_is_refused() -> None:
    assert h_vmunet.CONSTRAINTS.per_axis(h_vmunet.Config(), 2) == ((32, 32), (32, 32))
    with pytest.raises(IllegalSizeError, match=r"side 6 of axis 1 must be a multiple of 4 and at least 4"):
        h_vmunet.build(TINY, PROBLEM)(torch.zeros(1, 1, 8, 6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": (8, 6, 8)}, "multiples of 4"),
        ({"features": (8, 8)}, r"features=\(8, 8\): give three or more"),
        (
            {"depths": (1, 1)},
            r"depths=\(1, 1\) and orders=\(2,\): give one of each, 1 or more, for each of the 1 stages",
        ),
        ({"depths": (0,)}, r"depths=\(0,\)"),
        ({"orders": (4,)}, r"order 4 must be at least 1 and 2\^4 divide the 8 channels"),
        ({"orders": (0,)}, "order 0 must be at least 1"),
        ({"drop_path_probability": 1.0}, "drop_path_probability=1.0: must be from 0 to less than 1"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        h_vmunet.build(replace(TINY, **changes), PROBLEM)


def test_three_dimensions_are_refused_with_what_to_take() -> None:
    with pytest.raises(ValueError, match="spatial_dims=3: H-vmunet serves 2; take segmentation/"):
        h_vmunet.build(TINY, Problem(3, 1, 2))
