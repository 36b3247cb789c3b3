"""Selective scan: the recurrence of a selective state space (Mamba, Gu and Dao, 2023, arXiv 2312.00752, section 3.2).

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t
    y_t = C_t h_t + D u_t

with the simplified discretisation of B that the authors' code has (equation 4 of the paper has the exact one).

The sequence is walked in chunks. What has no order (decays, inputs, contractions, sums of gradients) is done for a
chunk at once, in memory that fits into a cache and is used again for the next chunk; the recurrence itself is one
multiplication and addition in place a step. Where a step is too small for that, neighbouring steps are folded into one
first, and those again, so that a chunk takes some 3 log2(T) operations. Nothing divides by a decay: one that vanishes
does no harm. Kept for the backward pass are the inputs and the state before each chunk; the states within are computed
again. All of this is one operator to torch, so that exported and compiled networks do not hold a copy of each step.

Shapes:
    B batch, L steps, T steps of a chunk, E channels, N states of a channel, G groups of channels that share B and C,
    F channels of a group.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Tuning:
    """What the speed of a kind of device asks for.

    Attributes:
        chunk: numbers of the states of a chunk, about.
        largest_step: numbers of a state, from which on channels go one part after the other.
        folded_step: numbers of a state, up to which steps are folded.
    """

    chunk: int
    largest_step: int
    folded_step: int


# What a chunk holds (states, their gradients, decays, products of folds) is four times `chunk`: 2 MiB in float32, a
# processor's second-level cache. Channels that take a little more were faster together than in two parts.
_CPU = _Tuning(chunk=2**17, largest_step=2**14, folded_step=2**11)
# Few and large launches; not yet timed on one.
_GPU = _Tuning(chunk=2**23, largest_step=2**18, folded_step=2**20)
_FEWEST_STEPS, _FEWEST_FOLDED = 16, 8
_Step = tuple[Tensor, Tensor, Tensor]


def selective_scan(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None = None, *, is_reversed: bool = False
) -> Tensor:
    """The outputs y of the recurrence.

    It has first derivatives only.

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


def _tuning(like: Tensor) -> _Tuning:
    return _GPU if like.device.type == "cuda" else _CPU


def _steps_of_chunk(a: Tensor) -> int:
    """T: a power of two by the numbers of a state of one sample, whatever batch and length."""
    return max(_FEWEST_STEPS, 2 ** (max(1, _tuning(a).chunk // int(a.numel())).bit_length() - 1))


def _sum_type(*inputs: Tensor | None) -> torch.dtype:
    return torch.float64 if any(x is not None and x.dtype == torch.float64 for x in inputs) else torch.float32


class _Recurrence:
    """x_t += factor_t x_{t-1} in place, for all t of a chunk in order; reversed x_t += factor_t x_{t+1}.

    Args:
        x: (T, ...).
        factors: (T - 1, ...), between neighbours.
        space: (T, ...), written over when steps are folded.
        is_reversed: from the last to the first.
        is_folded: fold neighbouring steps.
    """

    def __init__(self, x: Tensor, factors: Tensor, space: Tensor, is_reversed: bool, is_folded: bool) -> None:
        self.products: list[_Step] = []
        self.steps: list[_Step] = []
        fills: list[_Step] = []
        # A fold gives every second x what its neighbour has for it. The recurrence goes on among these, and the others
        # are filled in at the end.
        while is_folded and len(x) > _FEWEST_FOLDED:
            odd, even = x[1::2], x[::2]
            to_odd, to_even = factors[::2], factors[1::2]
            if is_reversed:
                self.steps.append((even[: len(odd)], to_odd, odd))
                fills.append((odd[: len(to_even)], to_even, even[1:]))
                x, pairs = even, (to_odd[: len(even) - 1], to_even[: len(even) - 1])
            else:
                self.steps.append((odd, to_odd, even[: len(odd)]))
                fills.append((even[1:], to_even, odd[: len(to_even)]))
                x, pairs = odd, (to_even[: len(odd) - 1], to_odd[1:])
            factors, space = space[: len(x) - 1], space[len(x) - 1 :]
            self.products.append((factors, *pairs))
        ordered, between = list(x.unbind(0)), list(factors.unbind(0))
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


class _Chunk:
    """States of a chunk, in memory that serves every chunk of this size.

    Args:
        sizes: T, B, G, N, F.
        is_reversed: of the scan.
        has_gradients: whether there is a backward pass to serve.
        like: has the type of sums, and the device.

    Attributes:
        start: (B, G, N, F), the state before the first step, to be written before `fill`.
        before: (T, B, G, N, F), the state before each step.
        after: (T, B, G, N, F), the state after each step.
        end: (B, G, N, F), the state after the last step.
        decay: (T, B, G, N, F).
        gradient: (T, B, G, N, F), for the gradient of `after`.
        first_gradient: (B, G, N, F), of the first step.
        last_gradient: (B, G, N, F), of the last step.
        first_decay: (B, G, N, F), of the first step.
    """

    def __init__(self, sizes: tuple[int, ...], is_reversed: bool, has_gradients: bool, like: Tensor) -> None:
        steps, *state = sizes
        is_folded = math.prod(state) <= _tuning(like).folded_step
        first, last = (-1, 0) if is_reversed else (0, -1)
        self.decay = like.new_empty(sizes)
        space = like.new_empty(sizes if is_folded else (0, *state))
        states = like.new_empty(steps + 1, *state)
        self.start, self.end = states[first], states[last]
        self.before, self.after = (states[1:], states[:-1]) if is_reversed else (states[:-1], states[1:])
        self._recurrence = _Recurrence(states, self.decay, space, is_reversed, is_folded)
        if has_gradients:
            self.gradient = like.new_empty(sizes)
            self.first_gradient, self.last_gradient = self.gradient[first], self.gradient[last]
            self.first_decay = self.decay[first]
            between = self.decay[:-1] if is_reversed else self.decay[1:]
            self._adjoint = _Recurrence(self.gradient, between, space, not is_reversed, is_folded)

    def fill(self, delta: Tensor, a: Tensor, b: Tensor, inputs: Tensor) -> None:
        """Compute decays and states.

        Args:
            delta: (T, B, G, F).
            a: (G, N, F).
            b: (T, B, G, N).
            inputs: (T, B, G, F), delta u.
        """
        torch.mul(delta.unsqueeze(3), a, out=self.decay).exp_()
        torch.mul(b.unsqueeze(4), inputs.unsqueeze(3), out=self.after)
        self._recurrence.run()

    def fill_gradient(self, c: Tensor, dy: Tensor, carried: Tensor | None) -> None:
        """Compute the gradient of the states.

        Args:
            c: (T, B, G, N).
            dy: (T, B, G, F), the gradient of the outputs.
            carried: (B, G, N, F), what the next chunk adds to the gradient of `end`; None for nothing.
        """
        torch.mul(c.unsqueeze(4), dy.unsqueeze(3), out=self.gradient)
        if carried is not None:
            self.last_gradient.add_(carried)
        self._adjoint.run()


class _Sequences(NamedTuple):
    """Inputs, steps first.

    Attributes:
        u: (L, B, G, F).
        delta: (L, B, G, F).
        a: (G, N, F).
        b: (L, B, G, N).
        c: (L, B, G, N).
        d: (G, F) or None.
    """

    u: Tensor
    delta: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    d: Tensor | None

    @classmethod
    def of(cls, u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None) -> _Sequences:
        """Views of (B, L, E), (E, N), (B, L, G, N) and (E,); `a` and `d` in the type of sums."""
        dtype, num_groups = _sum_type(u, delta, a, b, c, d), b.shape[2]
        return cls(
            _by_group(u, num_groups),
            _by_group(delta, num_groups),
            a.to(dtype).unflatten(0, (num_groups, -1)).transpose(1, 2),
            b.transpose(0, 1),
            c.transpose(0, 1),
            None if d is None else d.to(dtype).view(num_groups, -1),
        )

    def part(self, part: _Part) -> _Sequences:
        """Of some samples and channels; `a` is copied to lie in one piece."""
        return _Sequences(
            part.own(self.u),
            part.own(self.delta),
            self.a[part.groups, :, part.channels].contiguous(),
            part.shared(self.b),
            part.shared(self.c),
            None if self.d is None else self.d[part.groups, part.channels],
        )

    def steps(self, steps: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(T, ...) of u, delta, b and c, contiguous and in the type of sums."""
        u, delta, b, c = (x[steps].to(self.a.dtype).contiguous() for x in (self.u, self.delta, self.b, self.c))
        return u, delta, b, c


def _by_group(x: Tensor, num_groups: int) -> Tensor:
    """(B, L, E) -> (L, B, G, F), a view."""
    return x.unflatten(2, (num_groups, -1)).transpose(0, 1)


class _Part(NamedTuple):
    """Samples and channels that are computed together: slices of the batch, the groups, and the channels of a group."""

    samples: slice
    groups: slice
    channels: slice

    def own(self, x: Tensor) -> Tensor:
        """A view of (L, B, G, F)."""
        return x[:, self.samples, self.groups, self.channels]

    def shared(self, x: Tensor) -> Tensor:
        """A view of (L, B, G, N)."""
        return x[:, self.samples, self.groups]

    def states(self, x: Tensor) -> Tensor:
        """A view of (..., B, G, N, F)."""
        return x[..., self.samples, self.groups, :, self.channels]


def _parts(sequences: _Sequences, steps: int) -> list[_Part]:
    num_states, (_, batch_size, num_groups, num_channels) = sequences.a.shape[1], sequences.u.shape
    tuning = _tuning(sequences.a)
    channels = max(1, min(num_channels, tuning.largest_step // num_states))
    groups = max(1, min(num_groups, tuning.largest_step // (num_states * channels)))
    samples = max(1, min(batch_size, tuning.chunk // (steps * num_states * channels * groups)))
    slices = _slices(batch_size, samples), _slices(num_groups, groups), _slices(num_channels, channels)
    return [_Part(*part) for part in itertools.product(*slices)]


def _slices(size: int, most: int) -> list[slice]:
    """Cut into parts of one size, but for the last, which may be smaller; none is larger than `most`."""
    part = -(-size // -(-size // most))
    return [slice(first, min(first + part, size)) for first in range(0, size, part)]


def _chunks(length: int, steps: int, is_reversed: bool) -> list[slice]:
    """Steps of each chunk, in the order of the scan."""
    chunks = [slice(first, min(first + steps, length)) for first in range(0, length, steps)]
    return chunks[::-1] if is_reversed else chunks


def _contract(rows: Tensor, states: Tensor) -> Tensor:
    """(T, B, G, X), (T, B, G, X, Y) -> (T, B, G, Y), summed over X."""
    return torch.bmm(rows.flatten(0, 2).unsqueeze(1), states.flatten(0, 2)).view(*states.shape[:3], -1)


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
    """The outputs (B, L, E), and the state before each chunk (chunks, B, G, N, F), none unless kept."""
    y, starts = _empty_outputs(u, delta, a, b, c, d, keeps_starts)
    sequences, y_by_group = _Sequences.of(u, delta, a, b, c, d), _by_group(y, b.shape[2])
    memory: dict[tuple[int, ...], _Chunk] = {}
    length, num_steps = u.shape[1], _steps_of_chunk(a)
    with torch.autocast(u.device.type, enabled=False):
        for part in _parts(sequences, min(num_steps, length)):
            inputs, outputs, kept = sequences.part(part), part.own(y_by_group), part.states(starts)
            state = inputs.a.new_zeros(inputs.u.shape[1], *inputs.a.shape)
            for index, steps in enumerate(_chunks(length, num_steps, is_reversed)):
                u_rows, delta_rows, b_rows, c_rows = inputs.steps(steps)
                chunk = _memory(memory, (len(u_rows), *state.shape), is_reversed, False, state)
                chunk.start.copy_(state)
                if keeps_starts:
                    kept[index] = state
                chunk.fill(delta_rows, inputs.a, b_rows, delta_rows * u_rows)
                state = chunk.end
                result = _contract(c_rows, chunk.after)
                outputs[steps] = result if inputs.d is None else result.addcmul_(inputs.d, u_rows)
    return y, starts


def _memory(
    memory: dict[tuple[int, ...], _Chunk], sizes: tuple[int, ...], is_reversed: bool, has_gradients: bool, like: Tensor
) -> _Chunk:
    if sizes not in memory:
        memory[sizes] = _Chunk(sizes, is_reversed, has_gradients, like)
    return memory[sizes]


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
    return _empty_outputs(u, delta, a, b, c, d, keeps_starts)


def _empty_outputs(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None, keeps_starts: bool
) -> tuple[Tensor, Tensor]:
    steps, (num_groups, num_states) = _steps_of_chunk(a), b.shape[2:]
    num_chunks = (u.shape[1] + steps - 1) // steps if keeps_starts else 0
    shape = (num_chunks, u.shape[0], num_groups, num_states, u.shape[2] // num_groups)
    return u.new_empty(u.shape), u.new_empty(shape, dtype=_sum_type(u, delta, a, b, c, d))


@torch.library.custom_op("repro_models::selective_scan_backward", mutates_args=())
def _scan_backward(
    dy: Tensor,
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
    sequences, num_groups, dtype = _Sequences.of(u, delta, a, b, c, d), b.shape[2], starts.dtype
    du, ddelta = u.new_empty(u.shape), delta.new_empty(delta.shape)
    # Parts add up: samples in those of a and d, channels in those of b and c.
    db, dc = (starts.new_zeros(x.shape) for x in (b, c))
    da, dd = starts.new_zeros(sequences.a.shape), starts.new_zeros(num_groups, u.shape[2] // num_groups)
    memory: dict[tuple[int, ...], _Chunk] = {}
    length, num_steps = u.shape[1], _steps_of_chunk(a)
    with torch.autocast(u.device.type, enabled=False):
        for part in _parts(sequences, min(num_steps, length)):
            inputs, kept = sequences.part(part), part.states(starts)
            dy_part, du_part, ddelta_part = (part.own(_by_group(x, num_groups)) for x in (dy, du, ddelta))
            db_part, dc_part = (part.shared(x.transpose(0, 1)) for x in (db, dc))
            da_part, dd_part = da[part.groups, :, part.channels], dd[part.groups, part.channels]
            carried = None
            for index, steps in reversed(list(enumerate(_chunks(length, num_steps, is_reversed)))):
                u_rows, delta_rows, b_rows, c_rows = inputs.steps(steps)
                dy_rows, input_rows = dy_part[steps].to(dtype).contiguous(), delta_rows * u_rows
                sizes = (*dy_rows.shape[:3], *inputs.a.shape[1:])
                chunk = _memory(memory, sizes, is_reversed, True, starts)
                chunk.start.copy_(kept[index])
                chunk.fill(delta_rows, inputs.a, b_rows, input_rows)
                dc_part[steps].add_(_contract(dy_rows, chunk.after.transpose(3, 4)))
                chunk.fill_gradient(c_rows, dy_rows, carried)
                db_part[steps].add_(_contract(input_rows, chunk.gradient.transpose(3, 4)))
                dinput_rows = _contract(b_rows, chunk.gradient)
                carried = chunk.first_decay * chunk.first_gradient
                dexponent = chunk.decay.mul_(chunk.gradient).mul_(chunk.before)
                ddelta_rows = torch.mul(dexponent, inputs.a, out=chunk.gradient).sum(3).addcmul_(dinput_rows, u_rows)
                ddelta_part[steps] = ddelta_rows
                da_part.add_(dexponent.mul_(delta_rows.unsqueeze(3)).sum((0, 1)))
                du_rows = dinput_rows.mul_(delta_rows)
                if inputs.d is not None:
                    du_rows.addcmul_(dy_rows, inputs.d)
                    dd_part.add_((dy_rows * u_rows).sum((0, 1)))
                du_part[steps] = du_rows
    da = da.transpose(1, 2).reshape(a.shape)
    gradients = [du, ddelta, da.to(a.dtype), db.to(b.dtype), dc.to(c.dtype)]
    return gradients if d is None else [*gradients, dd.view(-1).to(d.dtype)]


@_scan_backward.register_fake
def _(
    dy: Tensor,
    u: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    starts: Tensor,
    is_reversed: bool,
) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in (u, delta, a, b, c, d) if x is not None]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.is_reversed, _ = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, dy: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    gradients = _scan_backward(dy, *ctx.saved_tensors, ctx.is_reversed)
    return (*gradients, *[None] * (8 - len(gradients)))


def _refuse(*_: Any) -> None:
    raise NotImplementedError("selective_scan has first derivatives only; take them without create_graph=True")


_scan.register_autograd(_differentiate, setup_context=_keep)
_scan_backward.register_autograd(_refuse)
