"""Run a network for the shapes alone: no weights, no memory, no arithmetic.

The meta device does that too, but its kernels for the operations below load torch's compiler, which takes longer than
all the rest of planning. Whatever is not below goes to the meta device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_KEEPS_SHAPE = {
    functional.batch_norm,
    functional.dropout,
    functional.dropout2d,
    functional.dropout3d,
    functional.elu,
    functional.gelu,
    functional.group_norm,
    functional.instance_norm,
    functional.layer_norm,
    functional.leaky_relu,
    functional.leaky_relu_,
    functional.log_softmax,
    functional.relu,
    functional.rms_norm,
    functional.scaled_dot_product_attention,  # values are as wide as queries
    functional.softmax,
    functional.softplus,
    torch.expm1,
    torch.prelu,
    torch.roll,
    torch.sqrt,
    Tensor.__invert__,
    Tensor.abs,
    Tensor.exp,
    Tensor.log,
    Tensor.log_softmax,
    Tensor.neg,
    Tensor.normal_,
    Tensor.relu,
    Tensor.softmax,
    Tensor.uniform_,
}
_Sides = int | Sequence[int]


@contextmanager
def shapes_only() -> Iterator[None]:
    """Inside this block networks are built on the meta device without weights, and run for their shapes."""
    with torch.device("meta"), torch.no_grad(), _ShapesOnly():
        yield


def _per_axis(spatial_dims: int, *values: _Sides) -> list[Sequence[int]]:
    return [(value,) * spatial_dims if isinstance(value, int) else value for value in values]


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Sides = 1,
    padding: _Sides | str = 0,
    dilation: _Sides = 1,
    groups: int = 1,
) -> Tensor | None:
    if isinstance(padding, str):
        return None
    kernel = weight.shape[2:]
    axes = zip(x.shape[2:], kernel, *_per_axis(len(kernel), stride, padding, dilation), strict=True)
    size = [(side + 2 * border - gap * (width - 1) - 1) // step + 1 for side, width, step, border, gap in axes]
    return x.new_empty(len(x), len(weight), *size)


def _transposed_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Sides = 1,
    padding: _Sides = 0,
    output_padding: _Sides = 0,
    groups: int = 1,
    dilation: _Sides = 1,
) -> Tensor:
    kernel = weight.shape[2:]
    axes = zip(x.shape[2:], kernel, *_per_axis(len(kernel), stride, padding, output_padding, dilation), strict=True)
    size = [
        (side - 1) * step - 2 * border + gap * (width - 1) + extra + 1 for side, width, step, border, extra, gap in axes
    ]
    return x.new_empty(len(x), weight.shape[1] * groups, *size)


def _pooling(
    x: Tensor,
    kernel_size: _Sides,
    stride: _Sides | None = None,
    padding: _Sides = 0,
    dilation: _Sides = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | None:
    if ceil_mode or return_indices:
        return None
    spatial_dims = x.ndim - 2
    (kernel,) = _per_axis(spatial_dims, kernel_size)
    weight = x.new_empty(x.shape[1], 0, *kernel)
    return _convolution(x, weight, None, kernel if stride is None else stride, padding, dilation)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


def _average_pooling(
    x: Tensor,
    kernel_size: _Sides,
    stride: _Sides | None = None,
    padding: _Sides = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor | None:
    return _pooling(x, kernel_size, stride, padding, ceil_mode=ceil_mode)


def _broadcast(*operands: Tensor | float, dtype: torch.dtype | None = None, **_: float) -> Tensor:
    tensors = [operand for operand in operands if isinstance(operand, Tensor)]
    return tensors[0].new_empty(np.broadcast_shapes(*(tensor.shape for tensor in tensors)), dtype=dtype)


def _comparison(*operands: Tensor | float) -> Tensor:
    return _broadcast(*operands, dtype=torch.bool)


def _choice(condition: Tensor, *options: Tensor | float) -> Tensor | None:
    tensors = [option for option in options if isinstance(option, Tensor)]
    return _broadcast(*tensors, condition) if tensors else None


def _matrix_product(x: Tensor, other: Tensor) -> Tensor | None:
    if x.ndim < 2 or other.ndim < 2:
        return None
    assert x.shape[-1] == other.shape[-2]
    return x.new_empty(*np.broadcast_shapes(x.shape[:-2], other.shape[:-2]), x.shape[-2], other.shape[-1])


def _embedding(indices: Tensor, weight: Tensor, **_: Any) -> Tensor:
    return weight.new_empty(*indices.shape, weight.shape[1])


def _interpolation(
    x: Tensor, size: _Sides | None = None, scale_factor: float | None = None, mode: str = "nearest", **_: Any
) -> Tensor | None:
    if size is None:
        if not isinstance(scale_factor, (int, float)):
            return None
        size = [math.floor(side * scale_factor) for side in x.shape[2:]]
    return x.new_empty(*x.shape[:2], *_per_axis(x.ndim - 2, size)[0])


def _adaptive_pooling(x: Tensor, output_size: _Sides, return_indices: bool = False) -> Tensor | None:
    if return_indices or (not isinstance(output_size, int) and None in output_size):
        return None
    return x.new_empty(*x.shape[:2], *_per_axis(x.ndim - 2, output_size)[0])


def _stacked(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    shape = list(tensors[0].shape)
    shape.insert(dim if dim >= 0 else dim + len(shape) + 1, len(tensors))
    return tensors[0].new_empty(shape)


def _concatenation(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    first, *others = tensors
    size = list(first.shape)
    for tensor in others:
        assert tensor.shape[:dim] + tensor.shape[dim:][1:] == first.shape[:dim] + first.shape[dim:][1:]
        size[dim] += tensor.shape[dim]
    return first.new_empty(size)


def _identity(num_rows: int, num_columns: int | None = None) -> Tensor:
    return torch.empty(num_rows, num_rows if num_columns is None else num_columns)


def _mean(x: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
    axes = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {axis % x.ndim for axis in axes}
    return x.new_empty(
        [1 if axis in gone else side for axis, side in enumerate(x.shape) if axis not in gone or keepdim]
    )


def _variance_and_mean(
    x: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False, **_: Any
) -> tuple[Tensor, Tensor]:
    return _mean(x, dim, keepdim), _mean(x, dim, keepdim)


# A rule gives None where it does not know; then the meta device is asked.
_RULES: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.conv1d: _convolution,
    functional.conv2d: _convolution,
    functional.conv3d: _convolution,
    functional.conv_transpose1d: _transposed_convolution,
    functional.conv_transpose2d: _transposed_convolution,
    functional.conv_transpose3d: _transposed_convolution,
    functional.linear: _linear,
    functional.max_pool2d: _pooling,
    functional.max_pool3d: _pooling,
    functional.avg_pool2d: _average_pooling,
    functional.avg_pool3d: _average_pooling,
    functional.adaptive_avg_pool2d: _adaptive_pooling,
    functional.adaptive_avg_pool3d: _adaptive_pooling,
    functional.adaptive_max_pool2d: _adaptive_pooling,
    functional.adaptive_max_pool3d: _adaptive_pooling,
    functional.embedding: _embedding,
    functional.interpolate: _interpolation,
    torch.cat: _concatenation,
    torch.stack: _stacked,
    torch.var_mean: _variance_and_mean,
    torch.eye: _identity,
    torch.logaddexp: _broadcast,
    torch.where: _choice,
    Tensor.matmul: _matrix_product,
    Tensor.__eq__: _comparison,
    Tensor.__rsub__: _broadcast,
    Tensor.add: _broadcast,
    Tensor.add_: _broadcast,
    Tensor.clamp: _broadcast,
    Tensor.ge: _comparison,
    Tensor.div: _broadcast,
    Tensor.masked_fill: _broadcast,
    Tensor.mean: _mean,
    Tensor.mul: _broadcast,
    Tensor.sub: _broadcast,
}


class _ShapesOnly(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _KEEPS_SHAPE or getattr(func, "__module__", None) == "torch.nn.init":
            return next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        result = _RULES[func](*args, **kwargs) if func in _RULES else None
        return func(*args, **kwargs) if result is None else result
