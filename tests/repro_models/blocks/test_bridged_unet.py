from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.bridged_unet import BridgedUNet, check_features, start_weights


class Kept(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)


def frame(bridge: nn.Module | None = None, bridges_last_stage: bool = False) -> BridgedUNet:
    identities = [nn.Identity() for _ in range(3)]
    return BridgedUNet((4, 4, 4), identities, identities[:2], bridge, bridges_last_stage, 4)


def doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def test_a_stage_is_normalised_pooled_and_activated_in_this_order() -> None:
    network = frame().double()
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    norm = nn.GroupNorm(4, 4).double()
    first = functional.gelu(functional.max_pool2d(norm(x), 2))
    second = functional.gelu(functional.max_pool2d(norm(first), 2))
    finer = functional.gelu(norm(functional.gelu(second))) + second  # the coarsest step stays at its pixels
    finest = functional.gelu(doubled(norm(finer))) + first
    torch.testing.assert_close(network(x), doubled(network.head(finest)))


class Recorder(nn.Module):
    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        self.shapes = [tuple(x.shape[1:]) for x in maps]
        return [torch.zeros_like(x) for x in maps]


@pytest.mark.parametrize(("bridges_last_stage", "num_maps"), [(False, 2), (True, 3)])
def test_the_bridge_takes_the_maps_of_all_stages_but_the_last_or_of_all(
    bridges_last_stage: bool, num_maps: int
) -> None:
    recorder = Recorder()
    network = frame(recorder, bridges_last_stage)
    bottleneck = []
    network.decoder_norms[-1].register_forward_pre_hook(lambda _, inputs: bottleneck.append(inputs[0]))
    network(torch.randn(1, 4, 16, 8))
    assert recorder.shapes == [(4, 8, 4), (4, 4, 2), (4, 4, 2)][:num_maps]
    # The last stage works on the map before the bridge; what it gives is bridged or not.
    assert bool(bottleneck[0].abs().sum()) is not bridges_last_stage


def test_layers_start_by_the_values_that_an_input_reaches_and_kept_parts_as_they_were() -> None:
    torch.manual_seed(0)
    kept = Kept()
    before = kept.linear.weight.clone()
    depthwise, linear = nn.Conv2d(512, 512, 3, groups=512), nn.Linear(256, 256)
    along, conv = nn.Conv1d(64, 64, 4, groups=64), nn.Conv2d(64, 32, 3)
    start_weights(nn.Sequential(kept, depthwise, linear, along, conv), kept=(Kept,))
    assert torch.equal(kept.linear.weight, before)
    for layer, deviation in (
        (depthwise, math.sqrt(2 / 9)),
        (linear, 0.02),
        (along, math.sqrt(2 / (4 * 64))),
        (conv, math.sqrt(2 / (9 * 32))),
    ):
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.12)
    assert all(not layer.bias.any() for layer in (depthwise, linear, conv))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("features", "message"), [((8,), "two stages or more"), ((8, 6, 8), "multiples of 4"), ((0, 8), "multiples of 4")]
)
def test_features_that_make_no_frame_are_refused(features: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_features(features)


def test_the_last_stage_is_not_normalised_and_may_have_any_features() -> None:
    check_features((8, 8, 5))
