from __future__ import annotations

import pytest
import torch
from torch import nn

from repro_models.blocks.pointwise_conv import POINTWISE_CONV, StridedPointwiseConv2d

TORCH = {2: nn.Conv2d, 3: nn.Conv3d}
LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_outputs_and_gradients_are_torchs_and_the_layout_stays(spatial_dims: int, layout: str) -> None:
    ours, theirs = POINTWISE_CONV[spatial_dims](4, 3).double(), TORCH[spatial_dims](4, 3, 1).double()
    ours.load_state_dict(theirs.state_dict())
    memory_format = torch.contiguous_format if layout == "first" else LAYOUTS[spatial_dims]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, *(4, 5, 6)[:spatial_dims], generator=generator, dtype=torch.float64)
    upstream = torch.randn(2, 3, *x.shape[2:], generator=generator, dtype=torch.float64)
    results = []
    for conv in (ours, theirs):
        leaf = x.contiguous(memory_format=memory_format).requires_grad_()
        output = conv(leaf)
        output.backward(upstream)
        results.append([output.detach(), leaf.grad, conv.weight.grad, conv.bias.grad])
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)
    assert results[0][0].is_contiguous(memory_format=memory_format)
    assert results[0][1].is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_strided_one_is_torch_s_own(stride: int, layout: torch.memory_format) -> None:
    conv = StridedPointwiseConv2d(16, 32, stride)
    x = torch.randn(2, 16, 9, 8).contiguous(memory_format=layout).requires_grad_()
    expected = torch.nn.functional.conv2d(x, conv.weight, stride=stride)
    torch.testing.assert_close(conv(x), expected)
    gradient = torch.randn_like(expected)
    (ours,) = torch.autograd.grad(conv(x), x, gradient)
    (torchs,) = torch.autograd.grad(expected, x, gradient)
    torch.testing.assert_close(ours, torchs)
