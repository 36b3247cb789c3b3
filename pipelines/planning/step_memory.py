"""Memory of a training step of any network, found without taking one.

The step (forward, loss, backward) runs under fake tensors, which have the shapes, layouts and lives of real ones but no
data. Each operation is watched, and the bytes of all storages alive are added up; the peak is what the step takes.
The update of the weights is not run: what optimisers hold is a multiple of the weights.

Operations hold memory of their own that no tensor shows. Two rules stand for that of convolutions; they were read off
the resident memory of single convolutions under torch 2.15 with oneDNN 3.13 on a processor without AVX-512:

    - An argument that is not laid out as the convolution computes (channels last where its weights or its image are so)
      is copied, and the weights are always.
    - For the gradient of the weights of a 3D convolution, what each output sees is gathered ("columns"), one sample and
      one slice of the first axis at a time, beside a copy of that sample. That gradient is converted once more.

Not counted: the batch that is loaded ahead, what Python and torch take before the first tensor (some 0.3 GiB on a CPU),
what the allocator keeps to itself, and, on a GPU, the workspace that cuDNN chooses (a GPU has not been measured).
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_BYTES_PER_GIB = 2**30
# What glibc's allocator keeps of blocks that were freed. Blocks of 32 MiB and more it gives back at once; of smaller
# ones a share stays between those alive. Both figures were chosen by the steps of `benchmarks/memory_estimate.py`.
_KEPT_SHARE, _MOST_KEPT = 0.45, 160 * 2**20
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class StepMemory:
    """Bytes alive at the moment of a training step when most are.

    Attributes:
        parameters: weights and buffers.
        gradients: of the weights, as far as they are there at that moment.
        optimizer: what the optimiser keeps from step to step.
        inputs: the batch.
        activations: what the forward pass made and still holds.
        temporaries: what backward, or the update, makes and gives back, and the memory inside of the operation.
    """

    parameters: int
    gradients: int
    optimizer: int
    inputs: int
    activations: int
    temporaries: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def gib(self) -> float:
        """`total` in GiB."""
        return self.total / _BYTES_PER_GIB


def resident_bytes(step_bytes: int) -> int:
    """By how much a step on the CPU lets the resident memory of a process grow: what it holds and what glibc keeps.

    Args:
        step_bytes: `StepMemory.total`.
    """
    return step_bytes + min(int(_KEPT_SHARE * step_bytes), _MOST_KEPT)


def step_memory(
    build: Callable[[], nn.Module],
    make_batch: Callable[[], Batch],
    loss: Callable[[nn.Module, Batch], Tensor],
    *,
    optimizer: Mapping[str, Any],
    device: str = "cpu",
) -> StepMemory:
    """Peak of a training step; nothing is computed and no memory is taken.

    Network and loss may not turn a tensor into a Python number.

    Args:
        build: makes the network.
        make_batch: makes the batch; its values do not matter.
        loss: of the network in training mode on that batch, a scalar.
        optimizer: keys name (`sgd`, `adam`, `adamw`), weight_decay, and momentum of `sgd`.
        device: where the training would run, which need not be here: `cpu` computes in float32, `cuda` under autocast
            to bfloat16.
    """
    # Loads torch's compiler, a second or two; most users of this file's module need none of it.
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return watched_step(build, make_batch, loss, optimizer=optimizer, device=device)


def watched_step(
    build: Callable[[], nn.Module],
    make_batch: Callable[[], Batch],
    loss: Callable[[nn.Module, Batch], Tensor],
    *,
    optimizer: Mapping[str, Any],
    device: str = "cpu",
) -> StepMemory:
    """As `step_memory`, on the tensors that `build` and `make_batch` give: outside of a fake mode the step is taken."""
    network = build().train()
    for parameter in network.parameters():
        if parameter.ndim in _CHANNELS_LAST:  # as training places them
            parameter.data = torch.empty_like(parameter.data, memory_format=_CHANNELS_LAST[parameter.ndim])
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    weights = [_num_bytes(parameter) for parameter in trained]
    live = _LiveBytes()
    for tensor in (*network.parameters(), *network.buffers()):
        live.add(tensor, "parameters")
    live.bytes["optimizer"] = _num_states(optimizer) * sum(weights)
    batch = make_batch()
    for tensor in batch.values():
        live.add(tensor, "inputs")
    hooks = [
        parameter.register_post_accumulate_grad_hook(lambda tensor: live.move(tensor.grad, "gradients"))
        for parameter in trained
    ]
    with live:
        with _autocast(device):
            value = loss(network, batch)
        live.kind = "temporaries"
        value.backward()
    for hook in hooks:
        hook.remove()
    # A GPU updates all weights by one kernel an operation, a CPU one tensor after the other.
    updated = sum(weights) if device == "cuda" else max(weights, default=0)
    live.note_peak(_num_update_copies(optimizer, device) * updated)
    return StepMemory(**live.peak)


class _LiveBytes(TorchDispatchMode):
    """Bytes of the storages that are alive, by kind, and their peak.

    Attributes:
        kind: of the storages that the operations from now on make.
        bytes: alive now.
        peak: alive when most were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kind = "activations"
        self.bytes = {field.name: 0 for field in fields(StepMemory)}
        self.peak = dict(self.bytes)
        self._known: dict[int, _Storage] = {}

    def add(self, tensor: Tensor, kind: str) -> None:
        """Count the storage of a tensor until it dies, once however many tensors share it."""
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._known:
            return

        def forget(_: object) -> None:
            dead = self._known.pop(key)
            self.bytes[dead.kind] -= dead.size

        self._known[key] = _Storage(weakref.ref(storage, forget), kind, storage.nbytes())
        self.bytes[kind] += storage.nbytes()

    def move(self, tensor: Tensor | None, kind: str) -> None:
        """Count the storage of a tensor under another kind."""
        assert tensor is not None
        storage = self._known[id(tensor.untyped_storage())]
        self.bytes[storage.kind] -= storage.size
        self.bytes[kind] += storage.size
        storage.kind = kind

    def note_peak(self, hidden: int) -> None:
        """Note the peak, with `hidden` bytes beside those of the tensors."""
        if sum(self.bytes.values()) + hidden > sum(self.peak.values()):
            self.peak = self.bytes | {"temporaries": self.bytes["temporaries"] + hidden}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.prim.device.default:  # most calls of a fake step; makes nothing
            return func(*args, **(kwargs or {}))
        shortcut = _SHORTCUTS.get(func) if args and _is_fake(args[0]) else None
        result = (shortcut or func)(*args, **(kwargs or {}))
        hidden = 0
        if func is torch.ops.aten.convolution.default:
            result = _laid_out(result, args[0], args[1])
            hidden = _copied_bytes(args[0], args[0], args[1]) + _num_bytes(args[1])
        elif func is torch.ops.aten.convolution_backward.default:
            result = (_laid_out(result[0], args[1], args[2]), *result[1:])
            hidden = _hidden_backward_bytes(*args)
        for tensor in _tensors(result):
            self.add(tensor, self.kind)
        self.note_peak(hidden)
        return result


def _is_fake(tensor: Tensor) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(tensor, FakeTensor)


def _batch_norm_out(*_: Any, out: Tensor, save_mean: Tensor, save_invstd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return out, save_mean, save_invstd


def _batch_norm_backward(gradient: Tensor, image: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(image), image.new_empty(image.shape[1]), image.new_empty(image.shape[1])


# What torch works out for fake tensors in milliseconds: instance normalisation has these for every sample.
_SHORTCUTS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.native_batch_norm.out: _batch_norm_out,
    torch.ops.aten.native_batch_norm_backward.default: _batch_norm_backward,
}


@dataclass
class _Storage:
    reference: weakref.ref[Any]
    kind: str
    size: int


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, (tuple, list)):
        for part in result:
            yield from _tensors(part)


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _layout(image: Tensor, weight: Tensor) -> torch.memory_format:
    """How a convolution computes: by channels last where its image or its weights are so."""
    from torch._prims_common import suggest_memory_format

    suggested = {suggest_memory_format(tensor) for tensor in (image, weight)}
    return next((layout for layout in suggested if layout in _CHANNELS_LAST.values()), torch.contiguous_format)


def _laid_out(result: Tensor | None, image: Tensor, weight: Tensor) -> Tensor | None:
    """`result` of a convolution in its layout.

    A fake convolution asks which kernels this processor would take, single-threaded ones included, and some have
    another layout. A plan must not depend on where it is made.
    """
    if result is None or not _is_fake(result):
        return result
    return result.contiguous(memory_format=_layout(image, weight))


def _copied_bytes(tensor: Tensor, image: Tensor, weight: Tensor) -> int:
    """What a convolution copies to have `tensor` in its layout."""
    return 0 if tensor.is_contiguous(memory_format=_layout(image, weight)) else _num_bytes(tensor)


def _hidden_backward_bytes(
    gradient: Tensor,
    image: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    is_transposed: bool,
    *_: Any,
) -> int:
    hidden = _copied_bytes(gradient, image, weight) + _copied_bytes(image, image, weight) + 2 * _num_bytes(weight)
    if image.ndim == 5 and not is_transposed:
        columns = image.shape[1] * math.prod(weight.shape[2:]) * math.prod(gradient.shape[3:]) * image.element_size()
        hidden += _num_bytes(image) // len(image) + columns
    return hidden


def _num_states(optimizer: Mapping[str, Any]) -> int:
    """How many numbers the optimiser keeps for each weight."""
    return int(optimizer["momentum"] > 0) if optimizer["name"] == "sgd" else 2


def _num_update_copies(optimizer: Mapping[str, Any], device: str) -> int:
    """How many copies of the weights under way an update makes."""
    is_coupled = optimizer["weight_decay"] > 0 and optimizer["name"] != "adamw"
    if device == "cuda":
        return 1 if optimizer["name"] != "sgd" else int(is_coupled)
    return int(is_coupled) + (2 if optimizer["name"] != "sgd" else int(optimizer["momentum"] > 0))


@contextlib.contextmanager
def _autocast(device: str) -> Iterator[None]:
    """Number formats of a forward pass on `device`, for tensors that are on the CPU."""
    if device == "cpu":
        yield
        return
    with _Float32OnGPU(), torch.autocast("cpu", dtype=torch.bfloat16):
        yield


class _Float32OnGPU(TorchFunctionMode):
    """Casts what autocast on a GPU computes in float32 and autocast on a CPU does not."""

    _FUNCTIONS = frozenset(
        {
            functional.group_norm,
            functional.layer_norm,
            functional.log_softmax,
            functional.softmax,
            torch.log_softmax,
            torch.softmax,
            Tensor.log_softmax,
            Tensor.softmax,
        }
    )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self._FUNCTIONS:
            args = tuple(arg.float() if isinstance(arg, Tensor) else arg for arg in args)
        return func(*args, **(kwargs or {}))
