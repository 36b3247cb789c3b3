from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repro_models.contract import IllegalSizeError, Problem, SupervisedLogits
from repro_models.segmentation import unet_3_plus
from tests.counted_macs import num_macs
from tests.fillings import num_parameters

PROBLEM = Problem(spatial_dims=2, in_channels=1, num_classes=3)
SMALL = unet_3_plus.Config(features=(2, 3, 4, 5, 6))


def made(config: unet_3_plus.Config = SMALL, problem: Problem = PROBLEM) -> Any:
    torch.manual_seed(0)
    return unet_3_plus.build(config, problem).double()


def on_meta(config: unet_3_plus.Config, problem: Problem) -> Any:
    with torch.device("meta"):
        return unet_3_plus.build(config, problem)


def image(batch_size: int = 2) -> Tensor:
    return torch.randn(batch_size, 1, 32, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("deep_supervision", "in_channels", "num_classes", "expected"),
    [(False, 1, 1, 26_970_625), (False, 4, 5, 26_983_877), (True, 1, 1, 26_988_485), (True, 4, 5, 27_073_177)],
)
def test_channels_and_classes_count_as_in_the_authors_code(
    deep_supervision: bool, in_channels: int, num_classes: int, expected: int
) -> None:
    config = unet_3_plus.Config(deep_supervision=deep_supervision)
    assert num_parameters(on_meta(config, Problem(2, in_channels, num_classes))) == expected


@pytest.mark.parametrize(
    ("variant", "is_training", "expected"),
    [("plain", False, 308_831_846_400), ("paper", False, 308_831_846_400), ("paper", True, 308_932_300_800)],
)
def test_operations_are_those_of_the_authors_code_which_computes_side_outputs_always(
    variant: str, is_training: bool, expected: int
) -> None:
    stated = unet_3_plus.VARIANTS[variant]
    assert num_macs(on_meta(stated.config, stated.problem), 3, (320, 320), is_training) == expected
    assert is_training or expected == stated.num_macs


def test_a_stage_gathers_as_many_channels_of_every_scale() -> None:
    network = made()
    channels = [[gather[0].in_channels for gather in stage.gather] for stage in network.decoder]
    assert channels == [[2, 10, 10, 10, 6], [2, 3, 10, 10, 6], [2, 3, 4, 10, 6], [2, 3, 4, 5, 6]]
    assert {gather[0].out_channels for stage in network.decoder for gather in stage.gather} == {2}


def test_finer_maps_are_pooled_and_coarser_ones_interpolated() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert unet_3_plus._to_stage(x, 0, 1).flatten().tolist() == [5.0, 7.0, 13.0, 15.0]
    assert unet_3_plus._to_stage(x, 1, 1) is x
    doubled = unet_3_plus._to_stage(x, 2, 1)
    assert doubled[0, 0, 0].tolist() == [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]


def test_training_gives_a_side_output_of_every_stage_at_full_size() -> None:
    output = made().train()(image())
    assert isinstance(output, SupervisedLogits)
    assert output.weights == (0.2,) * 5
    assert output.presence is None
    assert [logits.shape for logits in output.logits] == [(2, 3, 32, 48)] * 5


def test_evaluation_gives_the_finest_head_alone() -> None:
    network = made().eval()
    ran: list[nn.Module] = []
    for head in network.heads:
        head.register_forward_hook(lambda module, _, __: ran.append(module))
    assert network(image()).shape == (2, 3, 32, 48)
    assert ran == [network.heads[0]]


def test_without_supervision_and_guidance_training_gives_logits() -> None:
    assert isinstance(made(replace(SMALL, deep_supervision=False)).train()(image()), Tensor)


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_a_guided_network_tells_its_guess_in_training(deep_supervision: bool) -> None:
    network = made(replace(SMALL, is_class_guided=True, deep_supervision=deep_supervision)).train()
    output = network(image())
    assert len(output.logits) == (5 if deep_supervision else 1)
    assert output.presence.shape == (2, 2)


def test_the_guess_is_the_largest_value_anywhere_in_the_lowest_map() -> None:
    network = made(replace(SMALL, is_class_guided=True)).eval()
    low = torch.randn(1, 6, 2, 3, dtype=torch.float64)
    dropout, conv, _ = network.guide
    assert dropout.p == 0.5
    torch.testing.assert_close(network.guide(low).flatten(1), conv(low).flatten(2).amax(dim=2))


def test_where_nothing_is_guessed_evaluation_says_background() -> None:
    network, plain = made(replace(SMALL, is_class_guided=True)).eval(), made().eval()
    plain.load_state_dict(network.state_dict(), strict=False)
    with torch.no_grad():
        network.guide[1].bias[:] = torch.tensor([-1e3, 0.0])
        assert torch.equal(network(image()), plain(image()))
        network.guide[1].bias[:] = torch.tensor([1e3, 0.0])
        closed = network(image())
    assert (closed[:, 0] == 10).all()
    assert (closed[:, 1:] == 0).all()


def test_each_sample_has_a_gate_of_its_own() -> None:
    logits = torch.randn(2, 3, 4, 4)
    gated = unet_3_plus._gated(logits, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert torch.equal(gated[0], logits[0])
    assert (gated[1].argmax(0) == 0).all()
    assert gated[1].softmax(0)[0].min() > 0.9999


def test_a_closed_gate_of_one_class_is_a_small_sigmoid() -> None:
    gated = unet_3_plus._gated(torch.zeros(1, 1, 2, 2), torch.tensor([[1.0, 0.0]]))
    assert gated.sigmoid().max() < 1e-4


def test_norms_start_about_one_and_convolutions_by_incoming_values() -> None:
    torch.manual_seed(0)
    network = unet_3_plus.build(unet_3_plus.Config(features=(16, 32, 64)), PROBLEM)
    scales = torch.cat([m.weight.detach() for m in network.modules() if isinstance(m, nn.BatchNorm2d)])
    assert scales.mean().item() == pytest.approx(1, abs=0.005)
    assert scales.std().item() == pytest.approx(0.02, rel=0.2)
    fuse: Any = network.decoder[0].fuse[0]  # type: ignore[union-attr,index]
    assert fuse.weight.var().item() == pytest.approx(2 / (48 * 9), rel=0.05)


@pytest.mark.parametrize(
    ("changes", "dims", "message"),
    [
        ({}, 3, "spatial_dims=3: UNet 3\\+ serves 2; set the entry's configuration to 2d"),
        ({"features": (8,)}, 2, r"features=\(8,\): must be the channels of two stages or more"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(changes: dict[str, Any], dims: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unet_3_plus.build(replace(unet_3_plus.Config(), **changes), Problem(dims, 1, 2))


def test_an_illegal_side_is_refused_with_the_next_legal_one() -> None:
    with pytest.raises(IllegalSizeError, match=r"side 40 of axis 1 must be a multiple of 16 .* pad the image to 48"):
        made()(torch.zeros(1, 1, 32, 40, dtype=torch.float64))


@pytest.mark.slow
def test_exported_network_gives_the_same_logits() -> None:
    network = unet_3_plus.build(unet_3_plus.VARIANTS["tiny"].config, PROBLEM).eval()
    x = torch.randn(1, 1, 16, 16)
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), network(x))
