"""Selective scan: the recurrence of a selective state space (Mamba, Gu and Dao, 2023, arXiv 2312.00752, section 3.2).

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t
    y_t = C_t h_t + D u_t

with the simplified discretisation of B that the authors' code has (equation 4 of the paper has the exact one).

The sequence is walked in chunks. What has no order (decays, inputs, contractions, sums of gradients) is done for a chunk
at once, in buffers that fit into a cache and are used again for the next chunk; the recurrence itself is one
multiplication and addition in place a step. Where a step is too small for that, neighbouring steps are folded into one
first, and those again, so that a chunk takes about 3 log2(T) operations. Nothing divides by a decay: decays that vanish
do no harm. Kept for the backward pass are the inputs and the state before each chunk; the states within are computed
again.

Shapes:
    B batch, L steps, T steps of a chunk, E channels, N states of a channel, G groups of channels that share B and C,
    F channels of a group.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Tuning:
    """What the speed of a kind of device asks for.

    Attributes:
        buffer: numbers of a buffer, about.
        largest_step: numbers of a step, from which on channels go one part after the other.
        folded_step: numbers of a step, up to which steps are folded.
    """

    buffer: int
    largest_step: int
    folded_step: int


_CPU = _Tuning(buffer=2**17, largest_step=2**13, folded_step=2**11)
# A launch costs more than a small computation. Not timed.
_GPU = _Tuning(buffer=2**22, largest_step=2**18, folded_step=2**20)
_FEWEST_STEPS = 16
_Step = tuple[Tensor, Tensor, Tensor]


def selective_scan(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None = None, *, is_reversed: bool = False
) -> Tensor:
    """The outputs y of the recurrence.

    Args:
        u: (B, L, E).
        delta: (B, L, E), step sizes, not negative.
        a: (E, N), A, negative.
        b: (B, L, N) or (B, L, G, N); the first E / G channels belong to the first group, and so on.
        c: of the shape of `b`.
        d: (E,), or None for no direct path.
        is_reversed: run from the last step to the first: what flipping all inputs and the result would give.

    Returns:
        (B, L, E), of the type of `u`; sums are taken in float32 or better.
    """
    b, c = (x if x.ndim == 4 else x.unsqueeze(2) for x in (b, c))
    inputs = [x for x in (u, delta, a, b, c, d) if x is not None]
    is_training = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    return _scan(u, delta, a, b, c, d, is_reversed, is_training)[0]


def _steps_of_chunk(a: Tensor) -> int:
    """T: a power of two by the size of a step of one sample, so that neither batch nor length changes it."""
    tuning = _GPU if a.device.type == "cuda" else _CPU
    return max(_FEWEST_STEPS, 2 ** int(math.log2(max(1, tuning.buffer // a.numel()))))


def _sum_type(*inputs: Tensor | None) -> torch.dtype:
    return torch.float64 if any(x is not None and x.dtype == torch.float64 for x in inputs) else torch.float32


class _Recurrence:
    """x_t += factor_t x_{t-1} in place, for all t of a chunk in order; reversed x_t += factor_t x_{t+1}.

    Args:
        x: (T + 1, ...).
        factors: (T, ...), between neighbours.
        space: (T, ...), written over when steps are folded.
        is_reversed: from the last to the first.
        is_folded: fold neighbouring steps.
    """

    def __init__(self, x: Tensor, factors: Tensor, space: Tensor, is_reversed: bool, is_folded: bool) -> None:
        self.products: list[_Step] = []
        self.steps: list[_Step] = []
        fills: list[_Step] = []
        # Folding leaves every other x, now holding what its neighbour gives it.
        while is_folded and len(x) > 4:
            odd, even = x[1::2], x[::2]
            to_odd, to_even = factors[::2], factors[1::2]
            if is_reversed:
                # Even ones take from the odd ones behind them, and the odd ones are filled in later.
                self.steps.append((even[: len(odd)], to_odd, odd))
                fills.append((odd[: len(to_even)], to_even, even[1:]))
                left, pairs = even, (to_odd[: len(even) - 1], to_even[: len(even) - 1])
            else:
                self.steps.append((odd, to_odd, even[: len(odd)]))
                fills.append((even[1:], to_even, odd[: len(to_even)]))
                left, pairs = odd, (to_even[: len(odd) - 1], to_odd[1:])
            product, space = space[: len(left) - 1], space[len(left) - 1 :]
            self.products.append((product, *pairs))
            x, factors = left, product
        ordered = list(x.unbind(0))
        between = list(factors.unbind(0))
        if is_reversed:
            ordered.reverse()
            between.reverse()
        self.steps += zip(ordered[1:], between, ordered[:-1], strict=True)
        self.steps += reversed(fills)

    def run(self) -> None:
        """Compute x from what its memory and that of the factors hold now."""
        for product, first, second in self.products:
            torch.mul(first, second, out=product)
        for target, factor, source in self.steps:
            target.addcmul_(factor, source)


class _Block:
    """Samples and channels that are computed together, and the memory for their chunks.

    Args:
        inputs: u, delta, b, c as (L, B, G, 1, F) and (L, B, G, N, 1), all samples and channels.
        a: (G, N, F).
        part: samples, groups and channels of a group.
        steps: T.
        is_reversed: of the scan.
        has_gradients: whether there is a backward pass to serve.
    """

    def __init__(
        self,
        inputs: tuple[Tensor, Tensor, Tensor, Tensor],
        a: Tensor,
        part: tuple[slice, slice, slice],
        steps: int,
        is_reversed: bool,
        has_gradients: bool,
    ) -> None:
        samples, groups, channels = part
        self.part = part
        self.a = a[groups, :, channels].contiguous()
        self.u, self.delta = (x[:, samples, groups, :, channels] for x in inputs[:2])
        self.b, self.c = (x[:, samples, groups] for x in inputs[2:])
        self.steps, self.is_reversed = steps, is_reversed
        shape = (self.u.shape[1], *self.a.shape)
        self.decay, self.space, self.gradient = (
            a.new_empty(count, *shape) for count in (steps, steps, steps if has_gradients else 0)
        )
        self.states = a.new_empty(steps + 1, *shape)
        self.is_folded = math.prod(shape) <= (_GPU if a.is_cuda else _CPU).folded_step
        self._plans: dict[int, tuple[_Recurrence, _Recurrence | None]] = {}

    def chunks(self) -> Iterator[tuple[int, slice]]:
        """Number and steps of each chunk, in the order of the scan."""
        length = len(self.u)
        chunks = [
            (index, slice(first, min(first + self.steps, length)))
            for index, first in enumerate(range(0, length, self.steps))
        ]
        return reversed(chunks) if self.is_reversed else iter(chunks)

    def plan(self, steps: int) -> tuple[_Recurrence, _Recurrence | None]:
        """The recurrences of states and of their gradients, for a chunk of so many steps."""
        if steps not in self._plans:
            decay = self.decay[:steps]
            adjoint = None
            if len(self.gradient):
                between = decay[:-1] if self.is_reversed else decay[1:]
                adjoint = _Recurrence(self.gradient[:steps], between, self.space, not self.is_reversed, self.is_folded)
            states = _Recurrence(self.states[: steps + 1], decay, self.space, self.is_reversed, self.is_folded)
            self._plans[steps] = states, adjoint
        return self._plans[steps]

    def read(self, chunk: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """u, delta, b, c of a chunk, in the type of sums."""
        return tuple(  # type: ignore[return-value]
            x[chunk].to(self.a.dtype, memory_format=torch.contiguous_format).contiguous()
            for x in (self.u, self.delta, self.b, self.c)
        )

    def run(self, chunk: slice, start: Tensor | None, u: Tensor, delta: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """States (T, ...) after each step of a chunk, and before it, given the one before the first (None: zero)."""
        steps = len(u)
        before, after = self.states[:steps], self.states[1 : steps + 1]
        first = self.states[0]
        if self.is_reversed:
            before, after, first = after, before, self.states[steps]
        if start is None:
            first.zero_()
        else:
            first.copy_(start)
        decay = self.decay[:steps]
        torch.mul(delta, self.a, out=decay).exp_()
        torch.mul(b, delta * u, out=after)
        self.plan(steps)[0].run()
        return after, before


def _blocks(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None, is_reversed: bool, has_gradients: bool
) -> Iterator[_Block]:
    (batch_size, length, num_channels), (num_groups, num_states) = u.shape, b.shape[2:]
    sizes = (num_groups, num_channels // num_groups)
    tuning = _GPU if u.is_cuda else _CPU
    steps = min(_steps_of_chunk(a), length)
    a = _grouped_a(a, num_groups, _sum_type(u, delta, a, b, c, d))
    inputs = (
        *(x.unflatten(2, sizes).transpose(0, 1).unsqueeze(3) for x in (u, delta)),
        *(x.transpose(0, 1).unsqueeze(4) for x in (b, c)),
    )
    channels = min(sizes[1], max(1, tuning.largest_step // num_states))
    groups = min(num_groups, max(1, tuning.largest_step // (num_states * channels)))
    samples = min(batch_size, max(1, tuning.buffer // (steps * num_states * channels * groups)))
    for part in itertools.product(
        _slices(batch_size, samples), _slices(num_groups, groups), _slices(sizes[1], channels)
    ):
        yield _Block(inputs, a, part, steps, is_reversed, has_gradients)  # type: ignore[arg-type]


def _slices(size: int, most: int) -> list[slice]:
    """Cut into equal parts, none larger than `most`."""
    part = -(-size // -(-size // most))
    return [slice(first, min(first + part, size)) for first in range(0, size, part)]


def _grouped_a(a: Tensor, num_groups: int, dtype: torch.dtype) -> Tensor:
    """(E, N) -> (G, N, F)."""
    return a.to(dtype).unflatten(0, (num_groups, -1)).transpose(1, 2)


@torch.library.custom_op("repro_models::selective_scan", mutates_args=())
def _scan(
    u: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    is_reversed: bool,
    keeps_starts: bool,
) -> tuple[Tensor, Tensor]:
    """y (B, L, E), and the state before each chunk (chunks, B, G, N, F), none unless kept."""
    with torch.autocast(u.device.type, enabled=False):
        y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
        starts = _empty_starts(u, delta, a, b, c, d, keeps_starts)
        y_out = y.unflatten(2, (b.shape[2], -1)).transpose(0, 1)
        direct = None if d is None else d.to(_sum_type(u, delta, a, b, c, d)).view(b.shape[2], 1, -1)
        for block in _blocks(u, delta, a, b, c, d, is_reversed, has_gradients=False):
            samples, groups, channels = block.part
            state = None
            for index, chunk in block.chunks():
                if keeps_starts:
                    kept = starts[index, samples, groups, :, channels]
                    kept.zero_() if state is None else kept.copy_(state)
                u_part, delta_part, b_part, c_part = block.read(chunk)
                after, _ = block.run(chunk, state, u_part, delta_part, b_part)
                state = (after[0] if is_reversed else after[-1]).clone()
                result = c_part.transpose(3, 4) @ after
                if direct is not None:
                    result.addcmul_(direct[groups, :, channels], u_part)
                y_out[chunk, samples, groups, channels] = result.squeeze(3).to(y.dtype)
        return y, starts


@_scan.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    is_reversed: bool,
    keeps_starts: bool,
) -> tuple[Tensor, Tensor]:
    return torch.empty(u.shape, dtype=u.dtype, device=u.device), _empty_starts(u, delta, a, b, c, d, keeps_starts)


def _empty_starts(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None, keeps_starts: bool
) -> Tensor:
    steps = _steps_of_chunk(a)
    num_chunks = (u.shape[1] + steps - 1) // steps if keeps_starts else 0
    (num_groups, num_states), dtype = b.shape[2:], _sum_type(u, delta, a, b, c, d)
    shape = (num_chunks, u.shape[0], num_groups, num_states, u.shape[2] // num_groups)
    return torch.empty(shape, dtype=dtype, device=u.device)


@torch.library.custom_op("repro_models::selective_scan_backward", mutates_args=())
def _scan_backward(
    gradient: Tensor,
    u: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    starts: Tensor,
    is_reversed: bool,
) -> list[Tensor]:
    """Gradients of u, delta, a, b, c and, if it is there, d."""
    with torch.autocast(u.device.type, enabled=False):
        dtype, num_groups = starts.dtype, b.shape[2]
        results = _empty_gradients(u, delta, a, b, c, d)
        sizes = (num_groups, u.shape[2] // num_groups)
        du, ddelta = (x.unflatten(2, sizes).transpose(0, 1) for x in results[:2])
        da = torch.zeros(num_groups, a.shape[1], sizes[1], dtype=dtype, device=u.device)
        # Channels that share b and c and are computed one part after the other add to the same sums.
        db, dc = (torch.zeros(x.shape, dtype=dtype, device=u.device).transpose(0, 1) for x in (b, c))
        direct = torch.zeros(sizes, dtype=dtype, device=u.device) if d is None else d.to(dtype).view(sizes)
        dd = torch.zeros_like(direct)
        dy = gradient.unflatten(2, sizes).transpose(0, 1).unsqueeze(3)
        for block in _blocks(u, delta, a, b, c, d, is_reversed, has_gradients=True):
            samples, groups, channels = block.part
            carried = None
            for index, chunk in reversed(list(block.chunks())):
                u_part, delta_part, b_part, c_part = block.read(chunk)
                dy_part = dy[chunk, samples, groups, :, channels].to(dtype).contiguous()
                start = starts[index, samples, groups, :, channels]
                after, before = block.run(chunk, start, u_part, delta_part, b_part)
                dc[chunk, samples, groups] += (after @ dy_part.transpose(3, 4)).squeeze(4)
                steps = len(u_part)
                g, decay = block.gradient[:steps], block.decay[:steps]
                torch.mul(c_part, dy_part, out=g)
                if carried is not None:
                    (g[0] if is_reversed else g[-1]).add_(carried)
                _, adjoint = block.plan(steps)
                assert adjoint is not None
                adjoint.run()
                db[chunk, samples, groups] += (g @ (delta_part * u_part).transpose(3, 4)).squeeze(4)
                dinput = b_part.transpose(3, 4) @ g
                decay.mul_(g)
                carried = (decay[-1] if is_reversed else decay[0]).clone()
                decay.mul_(before)  # now the gradient of delta A
                torch.mul(decay, block.a, out=g)
                ddelta_part = g.sum(3, keepdim=True).addcmul_(dinput, u_part)
                ddelta[chunk, samples, groups, channels] = ddelta_part.squeeze(3).to(ddelta.dtype)
                da[groups, :, channels] += decay.mul_(delta_part).sum((0, 1))
                du_part = dinput.mul_(delta_part).addcmul_(dy_part, direct[groups, channels].unsqueeze(1))
                du[chunk, samples, groups, channels] = du_part.squeeze(3).to(du.dtype)
                if d is not None:
                    dd[groups, channels] += (dy_part * u_part).sum((0, 1)).squeeze(1)
        sums = [da.transpose(1, 2).flatten(0, 1), db.transpose(0, 1), dc.transpose(0, 1), dd.flatten()]
        for result, total in zip(results[2:], sums, strict=False):
            result.copy_(total)
        return results


def _empty_gradients(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None) -> list[Tensor]:
    return [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (u, delta, a, b, c, d) if x is not None]


@_scan_backward.register_fake
def _(
    gradient: Tensor,
    u: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    starts: Tensor,
    is_reversed: bool,
) -> list[Tensor]:
    return _empty_gradients(u, delta, a, b, c, d)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, is_reversed, _ = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.is_reversed = is_reversed
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    *tensors, starts = ctx.saved_tensors
    gradients = _scan_backward(gradient, *tensors, starts, ctx.is_reversed)
    return (*gradients, *[None] * (8 - len(gradients)))


def _refuse(*_: Any) -> None:
    raise NotImplementedError("selective_scan has first derivatives only: call backward without create_graph=True")


_scan.register_autograd(_differentiate, setup_context=_keep)
_scan_backward.register_autograd(_refuse)
