from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from repro_models.blocks.instance_norm import INSTANCE_NORM

TORCH = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}


def pair(spatial_dims: int, is_affine: bool) -> tuple[nn.Module, nn.Module]:
    """Ours and torch's with the same parameters, in double precision."""
    generator = torch.Generator().manual_seed(1)
    theirs = TORCH[spatial_dims](3, affine=is_affine).double()
    for parameter in theirs.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    ours = INSTANCE_NORM[spatial_dims](3, affine=is_affine).double()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def image(spatial_dims: int, num_samples: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_samples, 3, *(4, 5, 6)[:spatial_dims], generator=generator, dtype=dtype) * 2 + 1


@pytest.mark.parametrize("is_affine", [True, False], ids=["affine", "bare"])
@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_outputs_and_gradients_are_torchs_and_the_layout_stays(spatial_dims: int, layout: str, is_affine: bool) -> None:
    ours, theirs = pair(spatial_dims, is_affine)
    memory_format = torch.contiguous_format if layout == "first" else LAYOUTS[spatial_dims]
    x = image(spatial_dims).contiguous(memory_format=memory_format)
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    results = []
    for norm in (ours, theirs):
        leaf = x.detach().requires_grad_()
        output = norm(leaf)
        output.backward(upstream)
        results.append([output.detach(), leaf.grad, *(parameter.grad for parameter in norm.parameters())])
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)
    assert results[0][0].is_contiguous(memory_format=memory_format)
    assert results[0][1].is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_float32_in_channels_last_is_near_double_precision(spatial_dims: int) -> None:
    x = torch.randn(2, 3, *(48, 48, 40)[:spatial_dims], generator=torch.Generator().manual_seed(0)) + 3
    ours, theirs = pair(spatial_dims, True)
    output = ours.float()(x.contiguous(memory_format=LAYOUTS[spatial_dims]))
    torch.testing.assert_close(output.double(), theirs(x.double()), rtol=0, atol=5e-4)


@pytest.mark.parametrize("layout", ["first", "last"])
def test_a_sample_does_not_see_its_neighbours(layout: str) -> None:
    ours, _ = pair(3, True)
    x = image(3)
    x = x if layout == "first" else x.contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(ours(x)[:1], ours(x[:1]), rtol=1e-12, atol=1e-12)


def test_the_gradient_of_the_gradient_is_refused_rather_than_wrong() -> None:
    ours, _ = pair(2, True)
    x = image(2).contiguous(memory_format=torch.channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad(ours(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_half_precision_is_left_to_torch() -> None:
    x = image(2, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    ours, theirs = INSTANCE_NORM[2](3), nn.InstanceNorm2d(3)
    assert torch.equal(ours(x), theirs(x))


def test_one_voxel_is_refused_as_by_torch() -> None:
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        INSTANCE_NORM[2](3)(torch.zeros(2, 3, 1, 1))


@pytest.mark.parametrize("layout", ["first", "last"])
def test_shapes_alone_are_enough(layout: str) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        norm = INSTANCE_NORM[3](3, affine=True)
        x = torch.empty(2, 3, 4, 5, 6)
        x = x if layout == "first" else x.contiguous(memory_format=torch.channels_last_3d)
        x.requires_grad_()
        output = norm(x)
        output.sum().backward()
    assert output.shape == x.shape
    assert output.stride() == x.stride()
    assert x.grad is not None
    assert x.grad.shape == x.shape
