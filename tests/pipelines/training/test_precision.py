from __future__ import annotations

import pytest
import torch
from torch import nn

from pipelines.training.precision import autocast, place


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
