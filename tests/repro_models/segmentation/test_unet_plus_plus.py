from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from repro_models.contract import Problem, SupervisedLogits
from repro_models.segmentation import unet_plus_plus
from tests.counted_macs import num_macs
from tests.fillings import num_parameters

PROBLEM = Problem(spatial_dims=2, in_channels=1, num_classes=3)
PLAIN = unet_plus_plus.Config(features=(2, 4, 6, 8, 10), dropout_probability=0.0)


def made(config: unet_plus_plus.Config = PLAIN, problem: Problem = PROBLEM) -> Any:
    torch.manual_seed(0)
    return unet_plus_plus.build(config, problem).double()


def on_meta(config: unet_plus_plus.Config, problem: Problem) -> Any:
    with torch.device("meta"):
        return unet_plus_plus.build(config, problem)


def image(side: int = 16) -> Tensor:
    return torch.randn(2, 1, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("deep_supervision", "expected"), [(False, 9_041_601), (True, 9_041_700)])
def test_the_paper_s_network_has_the_parameters_of_the_authors_code(deep_supervision: bool, expected: int) -> None:
    config = unet_plus_plus.Config(deep_supervision=deep_supervision)
    assert num_parameters(on_meta(config, Problem(2, 1, 1))) == expected


@pytest.mark.parametrize("variant", ["paper", "zju"])
def test_a_variant_has_the_stated_operations(variant: str) -> None:
    stated = unet_plus_plus.VARIANTS[variant]
    assert stated.size is not None
    assert num_macs(on_meta(stated.config, stated.problem), 3, stated.size) == stated.num_macs


def test_training_gives_every_head_the_deepest_first_equally_weighed_and_of_full_size() -> None:
    network = made().train()
    output = network(image())
    assert isinstance(output, SupervisedLogits)
    assert output.weights == (0.25,) * 4
    assert output.presence is None
    assert [logits.shape for logits in output.logits] == [(2, 3, 16, 16)] * 4
    top = network._top_row(image(), 4)
    for head, map_, logits in zip(network.heads, top, output.logits[::-1], strict=True):
        torch.testing.assert_close(logits, head(map_))


def test_the_accurate_mode_is_the_mean_of_the_heads_probabilities() -> None:
    network = made()
    heads = network.train()(image()).logits
    accurate = network.eval()(image())
    expected = torch.stack([head.softmax(1) for head in heads]).mean(0)
    torch.testing.assert_close(accurate.softmax(1), expected)
    torch.testing.assert_close(accurate.exp(), expected)


def test_the_accurate_mode_of_one_class_is_the_mean_of_sigmoids() -> None:
    network = made(problem=Problem(2, 1, 1))
    heads = network.train()(image()).logits
    expected = torch.stack([head.sigmoid() for head in heads]).mean(0)
    torch.testing.assert_close(network.eval()(image()).sigmoid(), expected)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_pruned_the_network_says_what_that_head_says_and_computes_no_more(level: int) -> None:
    network = made()
    heads = network.train()(image()).logits[::-1]
    ran: list[str] = []
    for i, row in enumerate(network.nodes):
        for j, node in enumerate(row, start=1):
            node.register_forward_hook(lambda _, __, ___, name=f"X({i}, {j})": ran.append(name))
    for i, node in enumerate(network.encoder):
        node.register_forward_hook(lambda _, __, ___, name=f"X({i}, 0)": ran.append(name))
    network.eval().pruned_level = level
    torch.testing.assert_close(network(image()), heads[level - 1])
    needed = [f"X({i}, {j})" for i in range(level + 1) for j in range(level + 1 - i)]
    assert sorted(ran) == sorted(needed)


def test_a_network_that_is_configured_pruned_trains_all_heads_and_has_all_weights() -> None:
    pruned, whole = made(replace(PLAIN, pruned_level=2)), made()
    assert num_parameters(pruned) == num_parameters(whole)
    assert len(pruned.train()(image()).logits) == 4
    whole.eval().pruned_level = 2
    assert torch.equal(pruned.eval()(image()), whole(image()))


def test_without_deep_supervision_there_is_one_head_in_training_and_after() -> None:
    network = made(replace(PLAIN, deep_supervision=False))
    assert isinstance(network.train()(image()), Tensor)
    assert torch.equal(network(image()), network.eval()(image()))


def test_a_node_sees_all_nodes_left_of_it_and_the_one_below() -> None:
    network = made()
    sizes: dict[tuple[int, int], int] = {}
    for i, row in enumerate(network.nodes):
        for j, node in enumerate(row, start=1):
            node.register_forward_pre_hook(lambda _, inputs, key=(i, j): sizes.update({key: inputs[0].shape[1]}))
    network.train()(image())
    features = PLAIN.features
    assert sizes == {(i, j): features[i] * (j + 1) for i in range(4) for j in range(1, 5 - i)}


def test_dropout_follows_every_relu() -> None:
    network = made(replace(PLAIN, dropout_probability=0.5))
    names = [type(module).__name__ for module in network.nodes[0][0]]
    assert names == ["Conv2d", "ReLU", "Dropout"] * 2


@pytest.mark.parametrize(
    ("changes", "dims", "message"),
    [
        ({"norm": "group"}, 2, "norm='group': must be one of batch, instance, or None"),
        ({"features": (8,)}, 2, r"features=\(8,\): must be the channels of two resolutions or more"),
        ({"upsampling_kernel": 3}, 2, "upsampling_kernel=3: must be 2 or 4"),
        ({"pruned_level": 5}, 2, "pruned_level=5: must be from 1 to 4, or None"),
        ({"pruned_level": 0}, 2, "pruned_level=0: must be from 1 to 4, or None"),
        ({"pruned_level": 1, "deep_supervision": False}, 2, "pruned_level=1: without deep supervision there is one"),
        ({}, 1, r"spatial_dims=1: U-Net\+\+ serves 2 and 3"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(changes: dict[str, Any], dims: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unet_plus_plus.build(replace(unet_plus_plus.Config(), **changes), Problem(dims, 1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("pruned_level", [None, 1])
def test_exported_network_gives_the_same_logits(pruned_level: int | None) -> None:
    config = replace(unet_plus_plus.VARIANTS["tiny"].config, pruned_level=pruned_level)
    network = unet_plus_plus.build(config, PROBLEM).eval()
    x = torch.randn(1, 1, 16, 16)
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), network(x))
