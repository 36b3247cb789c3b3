from __future__ import annotations

import json
import math
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from repro_models.contract import IllegalSizeError, Problem
from repro_models.segmentation import nnunet


def stages(spatial_dims: int, words: str) -> list[tuple[int, ...]]:
    """Read `111 122` as (1, 1, 1), (1, 2, 2)."""
    read = [tuple(int(digit) for digit in word) for word in words.split()]
    assert all(len(stage) == spatial_dims for stage in read)
    return read


def num_conv_elements(network: nn.Module, x: Tensor) -> int:
    """Elements of all convolution outputs of one sample."""
    counts: list[int] = []
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            module.register_forward_hook(lambda module, inputs, output: counts.append(output.numel()))
    network(x)
    return sum(counts)


@pytest.mark.parametrize(
    ("channels", "classes", "patch", "strides", "kernel_sizes", "expected"),
    [
        pytest.param(1, 3, (40, 56, 40), "111 222 222 222", "333 333 333 333", 19174400, id="hippocampus-3d"),
        pytest.param(1, 3, (56, 40), "11 22 22 22", "33 33 33 33", 651840, id="hippocampus-2d"),
        pytest.param(4, 4, (128,) * 3, "111" + " 222" * 5, "333" + " 333" * 5, 454893568, id="brats-3d"),
        pytest.param(1, 3, (512, 512), "11" + " 22" * 7, "33" + " 33" * 7, 82886656, id="liver-2d"),
        pytest.param(
            2,
            3,
            (20, 320, 256),
            "111 122 122 222 222 122 122",
            "133 133 333 333 333 333 333",
            483315200,
            id="prostate-3d",
        ),
        pytest.param(1, 2, (8, 8), "11 22", "33 33", 12416, id="two-stages-2d"),
        pytest.param(1, 2, (8, 8, 8), "111 222", "333 333", 91136, id="two-stages-3d"),
    ],
)
def test_convolutions_have_the_elements_that_nnunet_plans_with(
    channels: int, classes: int, patch: tuple[int, ...], strides: str, kernel_sizes: str, expected: int
) -> None:
    dims = len(patch)
    config = nnunet.with_topology(nnunet.Config(), stages(dims, strides), stages(dims, kernel_sizes))
    with torch.device("meta"):
        network = nnunet.build(config, Problem(dims, channels, classes)).eval()
        assert num_conv_elements(network, torch.empty(1, channels, *patch)) == expected


def test_training_returns_every_decoder_stage_finest_first() -> None:
    config = nnunet.Config(base_features=2, strides=(1, (1, 2, 2), 2, 2), kernel_sizes=((1, 3, 3), 3, 3, 3))
    network = nnunet.build(config, Problem(3, 1, 3))
    x = torch.randn(1, 1, 8, 16, 32)
    outputs = network.train()(x)
    assert [tuple(output.shape) for output in outputs] == [(1, 3, 8, 16, 32), (1, 3, 8, 8, 16), (1, 3, 4, 4, 8)]
    # Instance normalisation knows no modes, so the finest output is the one of prediction.
    torch.testing.assert_close(network.eval()(x), outputs[0])


def test_without_deep_supervision_one_output_and_no_idle_trainable_parameter() -> None:
    tiny = nnunet.VARIANTS["tiny"].config
    config = nnunet.Config(
        base_features=4, strides=tiny.strides, kernel_sizes=tiny.kernel_sizes, deep_supervision=False
    )
    network = nnunet.build(config, Problem(2, 1, 3)).train()
    output = network(torch.randn(1, 1, 16, 16))
    assert output.shape == (1, 3, 16, 16)
    output.square().mean().backward()
    assert all((p.grad is not None) == p.requires_grad for p in network.parameters())
    supervised = nnunet.build(tiny, Problem(2, 1, 3))
    assert network.state_dict().keys() == supervised.state_dict().keys()


@pytest.mark.parametrize(
    ("max_features", "spatial_dims", "expected"),
    [
        (None, 3, [32, 64, 128, 256, 320, 320]),
        (None, 2, [32, 64, 128, 256, 512, 512]),
        (128, 3, [32, 64, 128, 128, 128, 128]),
    ],
)
def test_channels_double_up_to_the_limit(max_features: int | None, spatial_dims: int, expected: list[int]) -> None:
    with torch.device("meta"):
        network = nnunet.UNet(nnunet.Config(max_features=max_features), Problem(spatial_dims, 1, 2))
    assert [next(stage.children()).out_channels for stage in network.encoder] == expected


def test_decoder_takes_the_kernel_of_its_skip() -> None:
    config = nnunet.Config(base_features=2, strides=(1, 2, 2), kernel_sizes=((1, 3, 3), (3, 3, 1), 5))
    network = nnunet.UNet(config, Problem(3, 1, 2))
    encoder, decoder = (
        [[m.kernel_size for m in stage if isinstance(m, nn.Conv3d)] for stage in stages]
        for stages in (network.encoder, network.decoder)
    )
    assert encoder == [[(1, 3, 3)] * 2, [(3, 3, 1)] * 2, [(5, 5, 5)] * 2]
    assert decoder == [[(3, 3, 1)] * 2, [(1, 3, 3)] * 2]


def test_config_fields_survive_json() -> None:
    config = nnunet.with_topology(nnunet.Config(base_features=2), [[1, 1, 1], [1, 2, 2]], [[1, 3, 3], [3, 3, 3]])
    assert config == nnunet.Config(base_features=2, strides=((1, 1, 1), (1, 2, 2)), kernel_sizes=((1, 3, 3), (3, 3, 3)))
    read = json.loads(json.dumps({"base_features": 2, "strides": config.strides, "kernel_sizes": config.kernel_sizes}))
    network = nnunet.build(nnunet.Config(**read), Problem(3, 1, 2)).eval()
    assert network(torch.zeros(1, 1, 3, 4, 4)).shape == (1, 2, 3, 4, 4)


def test_sides_of_anisotropic_strides() -> None:
    config = nnunet.Config(strides=(1, (1, 2, 2), (1, 2, 2), (1, 1, 2)), kernel_sizes=(3, 3, 3, 3))
    assert nnunet.CONSTRAINTS.per_axis(config, 3) == ((1, 4, 8), (1, 8, 16))
    nnunet.CONSTRAINTS.check_size(config, (1, 12, 24))
    for size in [(1, 12, 8), (1, 10, 24), (1, 4, 24)]:
        with pytest.raises(IllegalSizeError):
            nnunet.CONSTRAINTS.check_size(config, size)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strides": (1,), "kernel_sizes": (3,)}, "at least two stages"),
        ({"strides": (1, 2, 2), "kernel_sizes": (3, 3)}, "3 strides and 2 kernel sizes"),
        ({"strides": (2, 2), "kernel_sizes": (3, 3)}, "of the first stage: must be 1"),
        ({"strides": (1, 2), "kernel_sizes": (3, 4)}, "must be odd"),
        ({"strides": ((1, 1), (2, 2)), "kernel_sizes": (3, 3)}, "has 2 entries, but the network is 3D"),
        ({"residual_blocks": ()}, "every stage needs at least 1"),
        ({"residual_blocks": (1, 3, 0)}, r"residual_blocks=\(1, 3, 0\): every stage needs at least 1"),
    ],
)
def test_impossible_network_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nnunet.build(nnunet.Config(**fields), Problem(3, 1, 2))


def test_weights_start_kaiming_normal_and_biases_zero() -> None:
    torch.manual_seed(0)
    network = nnunet.UNet(nnunet.VARIANTS["hippocampus_3d"].config, Problem(3, 1, 3))
    *_, deepest = (module for module in network.encoder.modules() if isinstance(module, nn.Conv3d))
    expected = math.sqrt(2 / (1 + 0.01**2) / (256 * 27))
    assert deepest.weight.std().item() == pytest.approx(expected, rel=0.01)
    for module in network.modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            assert module.bias is not None
            assert (module.bias == 0).all()


# The contract tests run on `tiny`, which has the plain encoder; the following hold the residual one to the same.
RESIDUAL = nnunet.VARIANTS["residual_tiny"].config
in_2d_and_3d = pytest.mark.parametrize("spatial_dims", [2, 3])


def residual(spatial_dims: int, seed: int = 0) -> nn.Module:
    """The tiny network with every parameter drawn: as built, residual blocks are only their shortcuts."""
    torch.manual_seed(seed)
    network = nnunet.build(RESIDUAL, Problem(spatial_dims, 2, 3))
    for parameter in network.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.5)
    return network


def image(spatial_dims: int, batch_size: int = 2) -> Tensor:
    return torch.randn(batch_size, 2, *(16, 8, 8)[:spatial_dims], generator=torch.Generator().manual_seed(0))


@in_2d_and_3d
def test_residual_encoder_gives_logits_at_every_decoder_stage(spatial_dims: int) -> None:
    outputs = residual(spatial_dims).train()(image(spatial_dims))
    assert [output.shape for output in outputs] == [
        (2, 3, *(16, 8, 8)[:spatial_dims]),
        (2, 3, *(8, 4, 4)[:spatial_dims]),
    ]


@in_2d_and_3d
def test_every_weight_of_the_residual_encoder_gets_a_gradient_that_is_not_zero(spatial_dims: int) -> None:
    network = residual(spatial_dims).train()
    torch.stack([output.square().mean() for output in network(image(spatial_dims))]).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # Normalisation takes the bias of the convolution before it away.
        assert parameter.grad.any() or name.endswith("bias"), name


@in_2d_and_3d
def test_samples_of_the_residual_encoder_do_not_see_each_other(spatial_dims: int) -> None:
    network = residual(spatial_dims).eval()
    batch = image(spatial_dims, batch_size=3)
    with torch.no_grad():
        torch.testing.assert_close(network(batch)[1:2], network(batch[1:2]), rtol=1e-4, atol=1e-5)


@in_2d_and_3d
def test_residual_weights_survive_a_round_trip_through_a_file(spatial_dims: int) -> None:
    written, read = residual(spatial_dims, seed=1).eval(), residual(spatial_dims, seed=2).eval()
    x = image(spatial_dims)
    with torch.no_grad():
        assert not torch.equal(written(x), read(x))
        read.load_state_dict(safetensors.torch.load(safetensors.torch.save(written.state_dict())))
        assert torch.equal(written(x), read(x))


@in_2d_and_3d
def test_training_step_of_the_residual_encoder_runs_on_shapes_alone(spatial_dims: int) -> None:
    with FakeTensorMode():
        network = nnunet.build(RESIDUAL, Problem(spatial_dims, 2, 3)).train()
        outputs = network(torch.empty(2, 2, *(16, 8, 8)[:spatial_dims]))
        torch.stack([output.square().mean() for output in outputs]).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(
    ("residual_blocks", "expected"),
    [((1, 3, 4, 6), [1, 3, 4, 6, 6, 6]), ((2,), [2] * 6), ((1, 2, 3, 4, 5, 6, 7, 8), [1, 2, 3, 4, 5, 6])],
)
def test_stages_beyond_the_last_number_have_as_many_residual_blocks(
    residual_blocks: tuple[int, ...], expected: list[int]
) -> None:
    with torch.device("meta"):
        network = nnunet.build(nnunet.Config(base_features=2, residual_blocks=residual_blocks), Problem(3, 1, 2))
    assert [len(stage) for stage in network.encoder] == expected


def test_a_fresh_residual_block_averages_where_it_strides() -> None:
    """By hand: channels stay, so the shortcut is the mean of neighbours, and convolutions add nothing yet."""
    config = nnunet.Config(base_features=1, max_features=1, strides=(1, 2), kernel_sizes=(3, 3), residual_blocks=(1,))
    network = nnunet.build(config, Problem(2, 1, 2))
    x = torch.tensor([[[[1.0, 3.0, -8.0, -8.0], [5.0, 7.0, -8.0, -8.0]]]])
    with torch.no_grad():
        assert torch.equal(network.encoder[0](x.clamp(min=0)), x.clamp(min=0))
        torch.testing.assert_close(network.encoder[1](x), torch.tensor([[[[4.0, -0.08]]]]))
