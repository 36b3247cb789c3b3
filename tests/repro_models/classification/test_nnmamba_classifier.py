"""Of the authors' network a count is stored and no output, so each part is compared with what it should be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from repro_models.blocks.mamba_in_convolution import MambaInConvolution
from repro_models.blocks.mamba_mixer import MambaMixer, StateSpace
from repro_models.classification.nnmamba_classifier import CONSTRAINTS, VARIANTS, Config, ScanOfMeans, build
from repro_models.contract import IllegalSizeError, Problem
from tests.fillings import num_parameters

TINY = VARIANTS["tiny"].config


def tiny(**changes: Any) -> Any:
    torch.manual_seed(0)
    return build(replace(TINY, **changes), Problem(3, 1, 3)).eval()


def test_one_mamba_layer_follows_the_stem_and_is_added_to_its_map() -> None:
    network = tiny()
    assert [key for key, module in network.named_modules() if isinstance(module, MambaInConvolution)] == ["mamba"]
    assert [key for key, module in network.named_modules() if isinstance(module, MambaMixer)] == ["mamba.mixer"]
    entering: list[Tensor] = []
    network.stages[0].register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    x = torch.randn(1, 1, 9, 9, 9)
    with torch.no_grad():
        network(x)
        stem = network.stem(x)
        torch.testing.assert_close(entering[0], stem + network.mamba(stem))


def test_the_layer_scans_in_one_direction_with_the_states_of_the_configuration() -> None:
    with torch.device("meta"):
        network: Any = build(Config(), Problem(3, 1, 1))
    space = network.mamba.mixer.scan
    assert isinstance(space, StateSpace)
    assert space.log_a.shape == (64, 8)
    # One direction: what comes after a step does not reach it.
    mixer = tiny().mamba.mixer
    tokens = torch.randn(1, 10, 4)
    changed = torch.cat([tokens[:, :6], torch.randn(1, 4, 4)], dim=1)
    with torch.no_grad():
        before, after = mixer(tokens), mixer(changed)
    torch.testing.assert_close(after[:, :6], before[:, :6])
    assert not torch.allclose(after[:, 6:], before[:, 6:])


def test_the_perceptron_reads_the_means_of_every_stage_finest_first() -> None:
    network = tiny()
    maps: list[Tensor] = []
    read: list[Tensor] = []
    for stage in network.stages:
        stage.register_forward_hook(lambda _, inputs, output: maps.append(output))
    network.head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    with torch.no_grad():
        network(torch.randn(2, 1, 9, 12, 16))
    assert [each.shape[1] for each in maps] == [8, 16]
    torch.testing.assert_close(read[0], torch.cat([each.flatten(2).mean(2) for each in maps], dim=1))


@pytest.mark.parametrize(("num_stages", "num_means"), [(1, 2), (2, 6), (3, 14)])
def test_the_perceptron_is_as_wide_as_the_stem(num_stages: int, num_means: int) -> None:
    head = tiny(num_stages=num_stages).head
    assert (head[0].in_features, head[0].out_features) == (num_means * TINY.base_features, TINY.base_features)
    assert (head[-1].in_features, head[-1].out_features) == (TINY.base_features, 3)


def test_hidden_values_drop_out_in_training_only() -> None:
    head = tiny(base_features=64).head
    means = torch.rand(1, 6 * 64)
    with torch.no_grad():
        hidden = head[:2](means)
        assert torch.equal(head[:3](means), hidden)
        dropped = head[:3].train()(means)
    alive = hidden > 0
    kept = dropped[alive] > 0
    assert 0 < kept.sum() < kept.numel()
    # What is kept makes up for what is not.
    torch.testing.assert_close(dropped[alive][kept], 2 * hidden[alive][kept])


def test_without_dropout_training_repeats_itself() -> None:
    for probability, repeats in ((0.0, True), (0.5, False)):
        network = tiny(base_features=16, dropout_probability=probability).train()
        x = torch.randn(2, 1, 9, 9, 9)
        with torch.no_grad():
            assert torch.equal(network(x), network(x)) is repeats


def test_means_are_scanned_as_a_sequence_and_the_result_is_added() -> None:
    scan = ScanOfMeans(4, num_states=2, expand=2).double()
    means = torch.randn(3, 28, dtype=torch.float64)
    steps = means.reshape(3, 7, 4)
    torch.testing.assert_close(scan(means), (steps + scan.mixer(steps)).reshape(3, 28))


def test_the_scan_of_means_costs_one_mamba_layer_of_the_finest_width() -> None:
    counts = []
    for scans_means in (False, True):
        with torch.device("meta"):
            counts.append(num_parameters(build(replace(Config(), scans_means=scans_means), Problem(3, 1, 1))))
    channels, inner, rank = 64, 128, 4
    projections = channels * 2 * inner + inner * channels
    # Convolution of two steps, selection, step sizes, A and D.
    space = 3 * inner + inner * (rank + 2 * 8) + (rank + 1) * inner + 8 * inner + inner
    assert counts[1] - counts[0] == projections + space


def test_a_network_that_scans_means_trains_all_of_it() -> None:
    network = tiny(scans_means=True).train()
    network(torch.randn(2, 1, 9, 9, 9)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("size", [(9, 9, 9), (10, 13, 21)])
def test_sides_need_not_divide(size: tuple[int, int, int]) -> None:
    with torch.no_grad():
        assert tiny()(torch.randn(2, 1, *size)).shape == (2, 3)


def test_one_image_alone_of_the_smallest_size_trains_and_a_smaller_one_is_refused() -> None:
    assert CONSTRAINTS.per_axis(Config(), 3) == ((1,) * 3, (17,) * 3)
    network = tiny().train()
    network(torch.randn(1, 1, 9, 9, 9)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    with pytest.raises(IllegalSizeError, match="side 8 of axis 1 must be a multiple of 1 and at least 9"):
        network(torch.randn(1, 1, 9, 8, 9))


@pytest.mark.parametrize(
    ("changes", "problem", "message"),
    [
        ({}, Problem(2, 1, 2), "spatial_dims=2: nnMamba serves 3; take classification/vision_mamba for 2D"),
        ({"num_stages": 0}, Problem(3, 1, 2), "num_stages=0: must be 1 or more"),
        ({"num_units": 0}, Problem(3, 1, 2), "num_units=0: must be 1 or more"),
        ({"dropout_probability": 1.0}, Problem(3, 1, 2), r"dropout_probability=1.0: must be from 0 to less than 1"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(changes: dict[str, Any], problem: Problem, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(replace(TINY, **changes), problem)
