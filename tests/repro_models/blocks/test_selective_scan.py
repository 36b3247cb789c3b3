from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from pipelines.planning.step_memory import step_memory
from repro_models.blocks import selective_scan as module
from repro_models.blocks.selective_scan import selective_scan

# Chunks of 16 steps, in one part or in many, folded and plain: what the sizes below would not come to otherwise.
TUNINGS = {
    "as shipped": None,
    "short chunks, plain": {"chunk": 1, "largest_step": 10**6, "folded_step": 0},
    "short chunks, folded": {"chunk": 1, "largest_step": 10**6, "folded_step": 10**6},
    "many parts, plain": {"chunk": 1, "largest_step": 2, "folded_step": 0},
    "many parts, folded": {"chunk": 1, "largest_step": 2, "folded_step": 10**6},
    "some samples together": {"chunk": 16 * 40, "largest_step": 10**6, "folded_step": 10**6},
}
SIZES = [  # B, L, E, N, G
    (1, 1, 2, 1, None),
    (2, 2, 3, 2, None),
    (1, 15, 4, 3, 1),
    (2, 16, 4, 3, 2),
    (3, 17, 6, 2, 3),
    (2, 50, 4, 3, None),
    (1, 65, 4, 3, 2),
]


@pytest.fixture(params=TUNINGS)
def tuning(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    values = TUNINGS[request.param]
    if values is not None:
        monkeypatch.setattr(module, "_CPU", module._Tuning(**values))
    return request.param


def inputs_of(
    size: tuple[int, int, int, int, int | None], dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[Tensor]:
    """u, delta, a, b, c, d."""
    batch, steps, channels, states, groups = size
    draw = torch.Generator().manual_seed(seed)
    shared = (batch, steps, states) if groups is None else (batch, steps, groups, states)
    shapes = [(batch, steps, channels), (batch, steps, channels), (channels, states), shared, shared, (channels,)]
    u, delta, a, b, c, d = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in shapes)
    return [x.to(dtype).requires_grad_() for x in (u, delta.abs() / 2, -a.abs() - 0.1, b, c, d)]


def naive(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None = None, is_reversed: bool = False
) -> Tensor:
    """The recurrence as it is written, one step after the other."""
    b, c = (x if x.ndim == 4 else x.unsqueeze(2) for x in (b, c))
    b, c = (x.repeat_interleave(u.shape[2] // x.shape[2], dim=2) for x in (b, c))  # (B, L, E, N)
    state: Any = 0
    outputs = {}
    steps = range(u.shape[1])
    for t in reversed(steps) if is_reversed else steps:
        state = torch.exp(delta[:, t, :, None] * a) * state + (delta[:, t] * u[:, t])[..., None] * b[:, t]
        outputs[t] = (state * c[:, t]).sum(-1)
    y = torch.stack([outputs[t] for t in steps], 1)
    return y if d is None else y + d * u


def gradients(function: Callable[..., Tensor], inputs: list[Tensor], **options: Any) -> tuple[Tensor, ...]:
    """The outputs, and the gradients of a sum of them under weights that are all different."""
    y = function(*inputs, **options)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).cos().view(y.shape).to(y.dtype)
    return y.detach(), *torch.autograd.grad((y * weights).sum(), inputs)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("has_d", [True, False])
@pytest.mark.usefixtures("tuning")
def test_outputs_and_all_gradients_are_those_of_the_recurrence(
    size: tuple[int, int, int, int, int | None], is_reversed: bool, has_d: bool
) -> None:
    inputs = inputs_of(size)[: 6 if has_d else 5]
    ours = gradients(selective_scan, inputs, is_reversed=is_reversed)
    theirs = gradients(naive, inputs, is_reversed=is_reversed)
    for x, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.usefixtures("tuning")
def test_gradients_are_the_slopes_of_the_outputs(is_reversed: bool) -> None:
    inputs = inputs_of((1, 18, 2, 1, 2))
    assert torch.autograd.gradcheck(lambda *x: selective_scan(*x, is_reversed=is_reversed), inputs)


def test_reversed_is_what_flipping_all_inputs_and_the_result_gives() -> None:
    u, delta, a, b, c, d = inputs_of((2, 37, 4, 3, 2))
    flipped = selective_scan(u.flip(1), delta.flip(1), a, b.flip(1), c.flip(1), d).flip(1)
    torch.testing.assert_close(selective_scan(u, delta, a, b, c, d, is_reversed=True), flipped)


def test_a_group_is_a_scan_of_its_own() -> None:
    u, delta, a, b, c, d = inputs_of((2, 21, 6, 3, 2))
    parts = [
        selective_scan(u[..., own], delta[..., own], a[own], b[:, :, group], c[:, :, group], d[own])
        for group, own in enumerate((slice(0, 3), slice(3, 6)))
    ]
    torch.testing.assert_close(selective_scan(u, delta, a, b, c, d), torch.cat(parts, 2))


def test_the_layout_of_the_inputs_does_not_matter() -> None:
    inputs = inputs_of((3, 40, 4, 3, 2))
    laid_out = [x if x.ndim < 3 else x.detach().transpose(1, 2).contiguous().transpose(1, 2) for x in inputs]
    for x, y in zip(
        gradients(selective_scan, inputs),
        gradients(selective_scan, [x.detach().requires_grad_() for x in laid_out]),
        strict=True,
    ):
        torch.testing.assert_close(x, y)


def test_inputs_and_incoming_gradients_are_left_as_they_were() -> None:
    inputs = inputs_of((1, 40, 4, 3, None))
    gradient = torch.ones(1, 40, 4, dtype=torch.float64)
    before = [x.detach().clone() for x in inputs]
    torch.autograd.grad(selective_scan(*inputs), inputs, gradient)
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))
    assert (gradient == 1).all()


@pytest.mark.usefixtures("tuning")
def test_decays_that_vanish_leave_everything_finite() -> None:
    inputs = inputs_of((1, 50, 4, 3, None))
    inputs[1], inputs[2] = (
        torch.full_like(x, size).requires_grad_() for x, size in ((inputs[1], 10.0), (inputs[2], -100.0))
    )
    ours, theirs = gradients(selective_scan, inputs), gradients(naive, inputs)
    assert all(x.isfinite().all() for x in ours)
    for x, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_and_rounded_at_the_end(dtype: torch.dtype) -> None:
    inputs = inputs_of((2, 70, 4, 3, 2), dtype)
    ours = gradients(selective_scan, inputs)
    y = selective_scan(*inputs)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).cos().view(y.shape).to(dtype)
    in_float32 = [x.detach().float().requires_grad_() for x in inputs]
    y_float32 = selective_scan(*in_float32)
    expected = (y_float32, *torch.autograd.grad(y_float32, in_float32, weights.float()))
    for x, exact in zip(ours, expected, strict=True):
        assert x.dtype == dtype
        assert torch.equal(x, exact.to(dtype))


def test_types_may_differ_and_each_gradient_has_that_of_its_input() -> None:
    inputs = inputs_of((1, 20, 4, 3, None), torch.float32)
    mixed = [inputs[0].detach().bfloat16().requires_grad_(), *inputs[1:]]
    y, *found = gradients(selective_scan, mixed)
    assert y.dtype == torch.bfloat16
    assert [x.dtype for x in found] == [x.dtype for x in mixed]


def test_autocast_does_not_lower_what_is_computed_inside() -> None:
    inputs = inputs_of((2, 70, 4, 3, 2), torch.float32)
    outside = gradients(selective_scan, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        inside = gradients(selective_scan, inputs)
    assert all(x.dtype == torch.float32 and torch.equal(x, y) for x, y in zip(inside, outside, strict=True))


def test_the_same_inputs_give_the_same_bits() -> None:
    inputs = inputs_of((2, 70, 8, 4, 2), torch.float32)
    runs = [gradients(selective_scan, inputs) for _ in range(2)]
    assert all(torch.equal(x, y) for x, y in zip(*runs, strict=True))


def test_a_second_derivative_is_refused() -> None:
    inputs = inputs_of((1, 5, 2, 1, None))
    (gradient,) = torch.autograd.grad(selective_scan(*inputs).sum(), inputs[:1], create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only; take them without create_graph=True"):
        gradient.sum().backward()


def saved_shapes(function: Callable[[], Tensor]) -> list[tuple[int, ...]]:
    shapes = []

    def note(tensor: Tensor) -> Tensor:
        shapes.append(tuple(tensor.shape))
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        function()
    return shapes


@pytest.mark.parametrize(("length", "num_chunks"), [(1, 1), (32, 1), (33, 2), (512, 16)])
def test_kept_for_backward_are_the_inputs_and_a_state_a_chunk(length: int, num_chunks: int) -> None:
    inputs = inputs_of((2, length, 192, 16, 1), torch.float32)
    shapes = saved_shapes(lambda: selective_scan(*inputs))
    assert sorted(shapes) == sorted([*(tuple(x.shape) for x in inputs), (num_chunks, 2, 1, 16, 192)])


def test_no_state_is_kept_where_there_is_no_backward() -> None:
    u, *others = inputs_of((1, 40, 4, 3, 1))
    kept = {keeps: module._scan(u, *others, False, keeps)[1].shape[0] for keeps in (True, False)}
    assert kept == {True: 1, False: 0}
    with torch.no_grad():
        assert selective_scan(u, *others).grad_fn is None


def test_memory_inside_does_not_grow_with_length_batch_or_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    make = module._Chunk.__init__

    def noted(self: Any, size: tuple[int, ...], *others: Any) -> None:
        sizes.append(size)
        make(self, size, *others)

    monkeypatch.setattr(module._Chunk, "__init__", noted)
    for size in ((1, 600, 4, 4, None), (40, 600, 4, 4, None), (1, 40, 3000, 16, None), (2, 40, 3000, 16, 10)):
        sizes.clear()
        gradients(selective_scan, inputs_of(size, torch.float32))
        # One whole chunk and shorter ones at the end of the sequence and of the parts, forward and backward.
        assert 2 <= len(sizes) <= 2 * 2 * 2 * 2
        assert max(map(math.prod, sizes)) <= 2**18


@pytest.mark.parametrize(("channels", "states", "most"), [(2, 2, 1500), (8, 4, 9000)])
def test_the_operations_of_a_quarter_of_a_million_steps_stay_few(channels: int, states: int, most: int) -> None:
    inputs = inputs_of((1, 2**18, channels, states, None), torch.float32)
    with torch.autograd.profiler.profile() as profile:
        selective_scan(*inputs).sum().backward()
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts["repro_models::selective_scan"] == counts["repro_models::selective_scan_backward"] == 1
    assert counts["aten::addcmul_"] + counts["aten::mul"] + counts["aten::bmm"] <= most
    (states_kept,) = (shape for shape in saved_shapes(lambda: selective_scan(*inputs)) if len(shape) == 5)
    assert math.prod(states_kept) <= inputs[0].numel() / 1000


def test_on_a_gpu_a_quarter_of_a_million_steps_take_few_launches() -> None:
    # Of SegMamba's first stage, 64 x 64 x 64 positions and 96 channels; counted, not run.
    a = torch.empty(96, 16, device="meta")
    steps = 2 ** int(math.log2(module._GPU.chunk // a.numel()))
    x, factors = (torch.empty(steps + i, 1, device="meta") for i in (1, 0))
    recurrence = module._Recurrence(x, factors, torch.empty_like(factors), False, a.numel() <= module._GPU.folded_step)
    assert 2**18 / steps * (len(recurrence.steps) + len(recurrence.products)) < 4000


class Scan(nn.Module):
    def __init__(self, channels: int, states: int) -> None:
        super().__init__()
        self.states = states
        self.a = nn.Parameter(-torch.ones(channels, states))
        self.d = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        b, c = x[..., : self.states], x[..., -self.states :]
        return selective_scan(x, x.abs(), self.a, b, c, self.d)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_it_compiles_without_a_break_and_trains_as_before(backend: str) -> None:
    torch.compiler.reset()
    inputs = inputs_of((2, 40, 4, 3, 2), torch.float32)
    compiled = torch.compile(selective_scan, backend=backend, fullgraph=True)
    for x, y in zip(gradients(compiled, inputs), gradients(selective_scan, inputs), strict=True):
        torch.testing.assert_close(x, y)


def test_compiled_for_any_batch_and_length_it_does_not_compile_anew() -> None:
    torch.compiler.reset()
    compiled = torch.compile(selective_scan, backend="eager", fullgraph=True, dynamic=True)
    compiled(*inputs_of((5, 40, 4, 3, 2), torch.float32))
    others = inputs_of((7, 57, 4, 3, 2), torch.float32)
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(compiled(*others), selective_scan(*others))


def test_an_exported_network_holds_it_as_one_operation_and_takes_any_length() -> None:
    network, x = Scan(4, 3), torch.randn(2, 40, 4)
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("steps")}
    with torch.no_grad():
        exported = torch.export.export(network, (x,), dynamic_shapes=(free,))
        calls = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
        assert sum("selective_scan" in call for call in calls) == 1
        assert not any("exp" in call or "addcmul" in call for call in calls)
        for other in (x, torch.randn(3, 97, 4)):
            torch.testing.assert_close(exported.module()(other), network(other))


@pytest.mark.parametrize("device", ["meta", "fake"])
def test_a_step_runs_on_shapes_alone_and_lays_them_out_as_a_real_one(device: str) -> None:
    real = inputs_of((2, 40, 4, 3, 2), torch.float32)
    outputs = gradients(selective_scan, real)
    if device == "meta":
        found = gradients_on("meta", real)
    else:
        with FakeTensorMode():
            found = gradients_on("cpu", real)
    for x, y in zip(found, outputs, strict=True):
        assert (x.shape, x.dtype, x.stride()) == (y.shape, y.dtype, y.stride())


def gradients_on(device: str, like: list[Tensor]) -> tuple[Tensor, ...]:
    inputs = [torch.empty(x.shape, device=device, requires_grad=True) for x in like]
    y = selective_scan(*inputs)
    return y, *torch.autograd.grad(y.sum(), inputs)


def test_planning_sees_the_states_that_are_kept() -> None:
    def activations(length: int) -> int:
        return step_memory(
            lambda: Scan(192, 16),
            lambda: {"image": torch.empty(1, length, 192)},
            lambda network, batch: network(batch["image"]).sum(),
            optimizer={"name": "sgd", "momentum": 0.0, "weight_decay": 0.0},
        ).activations

    # A chunk of 32 steps: its delta, and one state. The outputs are gone when most is alive; b and c are views.
    chunk = (32 * 192 + 192 * 16) * 4
    assert activations(32 * 9) - activations(32 * 8) == chunk


def test_no_operations_are_counted_for_it() -> None:
    with FlopCounterMode(display=False) as counter:
        selective_scan(*inputs_of((2, 40, 4, 3, 2))).sum().backward()
    assert counter.get_total_flops() == 0


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("is_folded", [False, True])
def test_a_recurrence_of_any_length_is_the_plain_one(is_reversed: bool, is_folded: bool) -> None:
    for length, width in itertools.product((1, 2, 3, 8, 9, 10, 16, 17, 31, 33, 64), (1, 3)):
        x = torch.randn(length, width, dtype=torch.float64)
        factors = torch.rand(length - 1, width, dtype=torch.float64)
        expected = list(x.clone())
        order = list(range(length))[:: -1 if is_reversed else 1]
        for last, this in itertools.pairwise(order):
            expected[this] = expected[this] + factors[min(last, this)] * expected[last]
        recurrence = module._Recurrence(x, factors, torch.empty(length, width).double(), is_reversed, is_folded)
        recurrence.run()
        torch.testing.assert_close(x, torch.stack(expected))
        if is_folded and length == 64:
            assert len(recurrence.steps) + len(recurrence.products) < 20
