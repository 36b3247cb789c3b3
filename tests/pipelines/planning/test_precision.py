from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pipelines.planning.precision import autocast, place
from repro_models.contract import Problem
from repro_models.segmentation import nnunet


def _network() -> nn.Module:
    return nn.ModuleList([nn.Conv2d(2, 4, 3), nn.Conv3d(2, 4, 3)])


def test_the_cpu_computes_in_float32() -> None:
    convolution = nn.Conv2d(1, 1, 1)
    with autocast(torch.device("cpu")):
        assert convolution(torch.ones(1, 1, 2, 2)).dtype == torch.float32


def test_weights_lie_channels_last_and_keep_their_values() -> None:
    network = _network()
    before = [weight.detach().clone() for weight in network.parameters()]
    placed = place(network, torch.device("cpu"))
    assert placed[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert placed[1].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert all(torch.equal(old, new) for old, new in zip(before, placed.parameters(), strict=True))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_network_of_one_input_channel_computes_channels_last_throughout(spatial_dims: int) -> None:
    network = nnunet.build(nnunet.VARIANTS["tiny"].config, Problem(spatial_dims, 1, 3))
    network = place(network, torch.device("cpu"))
    memory_format = {2: torch.channels_last, 3: torch.channels_last_3d}[spatial_dims]
    others = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if not list(module.children()) and not output.is_contiguous(memory_format=memory_format):
            others.append(module)

    for module in network.modules():
        module.register_forward_hook(note)
    network(torch.zeros(2, 1, *(16,) * spatial_dims))
    assert others == []


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: nn.ConvTranspose3d(64, 64, 7, stride=2, padding=3, groups=64), (4, 4, 4)),
        (lambda: nn.Conv2d(64, 8, 1, stride=2), (8, 8)),
    ],
    ids=["transposed and depthwise", "strided, of side 1"],
)
def test_weights_get_the_gradient_of_double_precision_where_torchs_kernel_for_channels_last_errs(
    make: Callable[[], nn.Module], size: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    network: Any = make()
    exact: Any = copy.deepcopy(network).double()
    network = place(network, torch.device("cpu"))
    x = torch.randn(2, 64, *size)
    x = x.to(memory_format={2: torch.channels_last, 3: torch.channels_last_3d}[len(size)])
    expected = exact(x.double())
    weights = torch.randn_like(expected)
    expected.mul(weights).sum().backward()
    for _ in range(3):  # what the kernel adds up lies in memory that others had before
        torch.full((2**20,), 1e20)
        network.zero_grad()
        network(x).mul(weights.float()).sum().backward()
        torch.testing.assert_close(network.weight.grad.double(), exact.weight.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_computes_in_bfloat16_and_channels_last_and_keeps_the_values() -> None:
    network = _network()
    before = [weight.detach().clone() for weight in network.parameters()]
    placed = place(network, torch.device("cuda"))
    assert placed[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert placed[1].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert all(torch.equal(old, new.cpu()) for old, new in zip(before, placed.parameters(), strict=True))
    with autocast(torch.device("cuda")):
        assert placed[0](torch.ones(1, 2, 4, 4, device="cuda")).dtype == torch.bfloat16
