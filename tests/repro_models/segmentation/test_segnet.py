from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.contract import IllegalSizeError, Problem
from repro_models.segmentation import segnet
from tests.fillings import num_parameters

PROBLEM = Problem(spatial_dims=2, in_channels=1, num_classes=2)
TINY = segnet.VARIANTS["tiny"].config


@pytest.mark.parametrize(
    ("in_channels", "num_classes", "count"), [(3, 12, 29_449_932), (1, 2, 29_443_010), (4, 5, 29_446_469)]
)
def test_counts_for_other_problems_are_the_transcriptions(in_channels: int, num_classes: int, count: int) -> None:
    with torch.device("meta"):
        assert num_parameters(segnet.build(segnet.Config(), Problem(2, in_channels, num_classes))) == count


def test_convolutions_alone_have_what_the_transcription_counts_of_them() -> None:
    variant = segnet.VARIANTS["paper"]
    with torch.device("meta"):
        network = segnet.build(variant.config, variant.problem)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert sum(p.numel() for conv in convolutions for p in conv.parameters()) == 29_433_483
    assert num_parameters(network.encoder) == 14_723_136  # type: ignore[arg-type]
    assert num_parameters(network.decoder) == 14_719_872  # type: ignore[arg-type]


def test_a_value_returns_to_where_its_maximum_was() -> None:
    x = torch.tensor([[1.0, 5.0, 2.0], [3.0, 4.0, 9.0], [7.0, 6.0, 8.0]])[None, None]
    pooled, positions = functional.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
    assert pooled[0, 0].tolist() == [[5.0, 9.0], [7.0, 8.0]]
    back = segnet._unpool(-pooled, positions, x.shape[2:])
    assert back[0, 0].tolist() == [[0.0, -5.0, 0.0], [0.0, 0.0, -9.0], [-7.0, 0.0, -8.0]]


@pytest.mark.parametrize(("is_basic", "sides"), [(False, [3, 5, 9, 18, 35]), (True, [5, 9, 18, 35])])
def test_each_stage_of_the_decoder_works_at_the_sides_of_its_encoder(is_basic: bool, sides: list[int]) -> None:
    network: Any = segnet.build(replace(TINY, is_basic=is_basic), PROBLEM).eval()
    seen: list[Tensor] = []
    for stage in network.decoder:
        stage.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.randn(1, 1, 35, 35))
    assert [x.shape[2] for x in seen] == sides
    # At most one value in each field of a pooling is not zero.
    for x in seen:
        assert (functional.avg_pool2d((x != 0).float(), 2, ceil_mode=True, divisor_override=1) <= 1).all()


def test_only_the_encoder_of_basic_has_relus() -> None:
    network: Any = segnet.build(replace(TINY, is_basic=True), PROBLEM)
    relus = [[m for m in part.modules() if isinstance(m, nn.ReLU)] for part in (network.encoder, network.decoder)]
    assert [len(of_part) for of_part in relus] == [4, 0]


def test_basic_divides_its_input_by_the_size_of_neighbouring_channels() -> None:
    network: Any = segnet.build(replace(TINY, is_basic=True), Problem(2, 3, 2))
    x = torch.full((1, 3, 1, 1), 100.0)
    # Squares of three channels, 30000, times 1e-4 / 5, and 1.
    torch.testing.assert_close(network.input_norm(x), x / (1 + 0.6) ** 0.75)


@pytest.mark.parametrize(("is_basic", "least"), [(False, 17), (True, 9)])
def test_a_side_that_ends_in_one_pixel_is_refused(is_basic: bool, least: int) -> None:
    network = segnet.build(replace(TINY, is_basic=is_basic), PROBLEM).train()
    assert network(torch.randn(1, 1, least, least)).shape == (1, 2, least, least)
    with pytest.raises(IllegalSizeError, match=f"side {least - 1} of axis 1 .* at least {least}"):
        network(torch.randn(1, 1, least, least - 1))


def test_three_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="spatial_dims=3: SegNet serves 2; take `configuration: 2d`"):
        segnet.build(TINY, Problem(3, 1, 2))
