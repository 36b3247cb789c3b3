from __future__ import annotations

import torch

from repro_models.blocks.attention_bridge import AttentionBridge

FEATURES = (4, 6)


def maps() -> list[torch.Tensor]:
    return [torch.randn(2, 4, 12, 8), torch.randn(2, 6, 6, 4)]


def test_convolutions_and_linear_layers_are_the_same_function() -> None:
    linear, convolution = AttentionBridge(FEATURES), AttentionBridge(FEATURES, is_convolution=True)
    state = linear.state_dict()
    for key, value in convolution.state_dict().items():
        state[key] = state[key].reshape(value.shape)
    convolution.load_state_dict(state)
    x = maps()
    for a, b in zip(linear(x), convolution(x), strict=True):
        torch.testing.assert_close(a, b)


def test_the_second_residual_leaves_the_map_itself_out() -> None:
    bridge = AttentionBridge(FEATURES)
    for layer in bridge.channel.layers:
        torch.nn.init.constant_(layer.bias, -1e4)  # type: ignore[arg-type]
    x = maps()
    for result, each in zip(bridge(x), x, strict=True):
        torch.testing.assert_close(result, bridge.spatial(each) * each)


def test_weights_of_a_channel_come_from_the_means_of_all_maps() -> None:
    bridge = AttentionBridge(FEATURES)
    x = maps()
    before = bridge.channel(x)[0]
    assert torch.equal(before, bridge.channel([x[0], x[1].flip(2)])[0])
    assert not torch.allclose(before, bridge.channel([x[0], x[1] + 1])[0])


def test_a_pixel_is_weighed_by_49_pixels_that_stand_three_apart() -> None:
    spatial = AttentionBridge(FEATURES).spatial.double()
    x = torch.zeros(1, 4, 25, 25, dtype=torch.float64)
    dot = x.clone()
    dot[0, 0, 12, 12] = 1
    seen = (spatial(dot) != spatial(x))[0, 0].nonzero().tolist()
    assert seen == [[row, column] for row in range(3, 22, 3) for column in range(3, 22, 3)]
