from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from pipelines.cli import main
from pipelines.planning.count import Count, Outputs, count, num_macs, usual_size
from repro_models import registry
from repro_models.contract import IllegalSizeError, Problem
from repro_models.registry import UnknownArchitectureError


class SmallNet(nn.Module):
    """A convolution, a strided one, a transposed one, self-attention over all pixels, a head."""

    def __init__(self, has_torch_attention: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 8, 2, stride=2)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.query_key_value = nn.Linear(4, 12)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True) if has_torch_attention else None
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.up(self.down(self.first(x))).flatten(2).transpose(1, 2)
        if self.attention is not None:
            attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        else:
            attended = functional.scaled_dot_product_attention(*self.query_key_value(tokens).chunk(3, dim=-1))
        return self.head(attended.transpose(1, 2).unflatten(2, x.shape[2:]))


CONVOLUTIONS = 64 * 4 * 9 + 16 * 8 * 4 * 4 + 16 * 8 * 4 * 4 + 64 * 4 * 3
# Projections to query, key and value, query by key, weights by value.
ATTENTION = 64 * 4 * 12 + 64 * 64 * 4 + 64 * 64 * 4
OUTPUT_PROJECTION = 64 * 4 * 4


@pytest.mark.parametrize("weights", ["real", "fake", "meta"])
@pytest.mark.parametrize("has_torch_attention", [False, True])
def test_operations_of_a_small_network_are_those_counted_by_hand(weights: str, has_torch_attention: bool) -> None:
    expected = CONVOLUTIONS + ATTENTION + has_torch_attention * OUTPUT_PROJECTION
    if weights == "fake":
        with FakeTensorMode():
            assert num_macs(SmallNet(has_torch_attention), 1, (8, 8)) == expected
    elif weights == "meta":
        with torch.device("meta"):
            assert num_macs(SmallNet(has_torch_attention), 1, (8, 8)) == expected
    else:
        assert num_macs(SmallNet(has_torch_attention), 1, (8, 8)) == expected


def test_a_name_without_its_family_is_found() -> None:
    assert count("unet_3d", variant="tiny", size=(16, 16, 16)).architecture == "segmentation/unet_3d"
    assert count("gcn").architecture == "graph/gcn"
    with pytest.raises(UnknownArchitectureError, match="did you mean segmentation/unet_3d"):
        count("unet3d")
    with pytest.raises(UnknownArchitectureError, match="did you mean segmentation/unet_3d"):
        count("segmentation/unet3d")


def test_counts_are_those_of_the_network_that_is_built() -> None:
    settings = ["base_features=8", "strides=1,2", "kernel_sizes=[3, 1]"]
    counted = count("nnunet", variant="tiny", settings=settings, in_channels=2, num_classes=4)
    assert counted.network["strides"] == (1, 2)
    assert counted.problem == {"spatial_dims": 3, "in_channels": 2, "num_classes": 4}
    nnunet = registry.load("segmentation/nnunet")
    config = nnunet.Config(base_features=8, strides=(1, 2), kernel_sizes=(3, 1))
    network = nnunet.build(config, Problem(3, 2, 4))
    assert counted.num_parameters == sum(parameter.numel() for parameter in network.parameters())


def test_lists_of_training_outputs_are_spelled_out() -> None:
    counted = count("nnunet", variant="tiny", in_channels=1, num_classes=2, size=(32, 48))
    assert counted.evaluation == Outputs(((1, 2, 32, 48),))
    assert counted.training == Outputs(((2, 2, 32, 48), (2, 2, 16, 24)))
    single = count("nnunet", variant="tiny", settings=["deep_supervision=false"], num_classes=2, size=(32, 48))
    assert single.training == Outputs(((2, 2, 32, 48),))
    assert single.num_trainable_parameters == single.num_parameters - (8 * 2 + 2)
    assert str(Outputs(((2, 2, 4, 4), (2, 2, 2, 2)), (0.5, 0.25), (2, 2))) == (
        "2x2x4x4, 2x2x2x2, weighed 0.5, 0.25, presence 2x2"
    )


def test_a_large_network_is_counted_as_published() -> None:
    counted = count("unetr")
    assert counted.num_parameters == 92_784_046
    assert counted.size == (96, 96, 96)
    assert counted.num_macs is not None
    assert counted.num_macs > 10**10


def test_a_network_made_for_one_size_is_made_for_the_one_asked_for() -> None:
    assert count("unetr", variant="tiny").size == (16, 16, 16)
    assert count("unetr", variant="tiny", size=(32, 16)).evaluation == Outputs(((1, 3, 32, 16),))


def test_a_graph_s_network_has_parameters_only() -> None:
    counted = count("gcn", in_channels=1433, num_classes=7)
    assert counted.num_parameters == 1433 * 16 + 16 * 7
    assert (counted.size, counted.num_macs, counted.evaluation, counted.training) == (None,) * 4
    with pytest.raises(ValueError, match=r"nodes of a graph.*leave out --size"):
        count("gcn", size=(8, 8))


def test_a_network_of_tokens_is_counted_at_a_length(capsys: pytest.CaptureFixture[str]) -> None:
    counted = count("mamba", variant="tiny", num_classes=13, size=(6,))
    assert counted.problem == {"vocabulary_size": 13}
    assert (counted.evaluation, counted.training) == (Outputs(((1, 6, 13),)), Outputs(((2, 6, 13),)))
    # Of 8 channels, 16 inner ones, 4 states, rank 1: in, convolution, selection, step sizes, out; then the head.
    by_hand = 6 * (2 * (8 * 32 + 16 * 4 + 16 * 9 + 1 * 16 + 16 * 8) + 8 * 13)
    assert counted.num_macs is not None
    assert counted.num_macs >= by_hand  # and what the scan has of matrix products
    main(["models", "count", "mamba", "--variant", "tiny", "--classes", "13", "--size", "6"])
    lines = capsys.readouterr().out
    assert "tiny: vocabulary_size 13" in lines
    assert "for one sequence of 6 tokens" in lines
    assert "two sequences: 2x6x13" in lines


def test_a_network_of_tokens_has_a_usual_length() -> None:
    assert count("mamba", variant="tiny").size == (256,)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"in_channels": 3}, "takes tokens, which have no channels.*leave out --channels"),
        ({"spatial_dims": 2}, "no dimensions; leave out --channels and --dims"),
        ({"size": (8, 8)}, "--size has 2 numbers, but sequence/mamba takes tokens in a row; give one"),
    ],
)
def test_what_tokens_do_not_have_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        count("mamba", variant="tiny", **wrong)


def test_a_network_of_one_class_an_image_gives_a_row_of_logits() -> None:
    counted = count("vision_mamba", variant="tiny", num_classes=5)
    assert counted.size == (8, 8)
    assert (counted.evaluation, counted.training) == (Outputs(((1, 5),)), Outputs(((2, 5),)))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("deep_supervison=true", "unknown field 'deep_supervison'; valid are deep_supervision, base_features"),
        ("deep_supervision=maybe", "--set deep_supervision=maybe: 'maybe' is not of a kind with the default.*True"),
        ("deep_supervision", "--set deep_supervision: it must be FIELD=VALUE, with a field of base_features"),
        ("base_features=1.5", "'1.5' is not of a kind with the default of base_features, 32"),
    ],
)
def test_a_wrong_field_or_value_is_told_with_the_valid_ones(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        count("nnunet", settings=[setting])


def test_an_illegal_size_is_the_contract_s_error() -> None:
    with pytest.raises(IllegalSizeError, match="side 15 of axis 0 must be a multiple of 4"):
        count("nnunet", variant="tiny", size=(15, 16, 16))
    with pytest.raises(ValueError, match="--size has 3 sides, but --dims is 2"):
        count("nnunet", spatial_dims=2, size=(16, 16, 16))


def test_the_command_prints_json_or_lines(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["models", "count", "nnunet", "--variant", "tiny", "--set", "deep_supervision=true", "--classes", "2"]
    arguments += ["--channels", "1", "--size", "32,32"]
    main([*arguments, "--json"])
    values = json.loads(capsys.readouterr().out)
    assert set(values) == set(Count.__dataclass_fields__)
    assert values["evaluation"] == {"logits": [[1, 2, 32, 32]], "weights": None, "presence": None}
    main(arguments)
    lines = capsys.readouterr().out
    assert f"parameters: {values['num_parameters']:,}" in lines
    assert "two images: 2x2x32x32, 2x2x16x16" in lines


@pytest.mark.parametrize("wrong", [["--channels", "0"], ["--size", "32"], ["--size", "32,0"], ["--size", "a,b"]])
def test_numbers_that_no_image_has_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["models", "count", "nnunet", *wrong])
    assert wrong[0] in capsys.readouterr().err


def test_the_usual_size_is_the_nearest_that_a_network_takes() -> None:
    nnunet = registry.load("segmentation/nnunet")
    five = nnunet.Config(strides=(1, 5, 5), kernel_sizes=(3, 3, 3))
    assert usual_size(nnunet, five, 3) == (five, (100, 100, 100))
    assert usual_size(nnunet, nnunet.Config(), 2) == (nnunet.Config(), (256, 256))
    unetr = registry.load("segmentation/unetr")
    config, size = usual_size(unetr, unetr.VARIANTS["tiny"].config, 3)
    assert size == (96, 96, 96)
    assert config.image_size == size
