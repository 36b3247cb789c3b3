from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines.planning.patch import legal_patch
from pipelines.planning.precision import autocast, place
from pipelines.planning.step_memory import (
    StepMemory,
    _LiveBytes,
    _num_states,
    _num_update_copies,
    resident_bytes,
    step_memory,
    watched_step,
)
from pipelines.tasks.segmentation_loss import segmentation_loss_terms
from pipelines.training.optimizer import build_optimizer
from repro_models import registry
from repro_models.contract import Problem

ADAMW = {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01}
PLAIN_SGD = {"name": "sgd", "learning_rate": 1e-3, "weight_decay": 0.0, "momentum": 0.0}
NUM_CLASSES = 3


def loss_of(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return sum(segmentation_loss_terms(network, batch, is_batch_dice=False))  # type: ignore[return-value]


def batch_of(batch_size: int, patch: tuple[int, ...], device: str = "cpu") -> dict[str, Tensor]:
    target = torch.zeros(batch_size, *patch, dtype=torch.int64, device=device)
    return {"image": torch.zeros(batch_size, 1, *patch, device=device), "target": target}


def network_of(module: ModuleType, variant: str, patch: tuple[int, ...]) -> Callable[[], nn.Module]:
    config = module.VARIANTS[variant].config
    if hasattr(module, "with_patch_size"):
        config = module.with_patch_size(config, patch)
    return lambda: module.build(config, Problem(len(patch), 1, NUM_CLASSES))


def taken(name: str, variant: str, patch: tuple[int, ...], batch_size: int = 2, **settings: Any) -> StepMemory:
    build = network_of(registry.load(name), variant, patch)
    return step_memory(build, lambda: batch_of(batch_size, patch), loss_of, **({"optimizer": ADAMW} | settings))


def two_layers(watch: Callable[..., StepMemory], optimizer: dict[str, Any]) -> StepMemory:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 2, bias=False))

    return watch(
        build, lambda: {"x": torch.zeros(16, 4)}, lambda network, batch: network(batch["x"]).sum(), optimizer=optimizer
    )


@pytest.mark.parametrize("watch", [step_memory, watched_step])
def test_the_peak_of_two_layers_is_what_one_counts_by_hand(watch: Callable[..., StepMemory]) -> None:
    # Most is alive when the second layer has its gradients and the first has not, so nothing was given back yet.
    assert two_layers(watch, PLAIN_SGD) == StepMemory(
        parameters=4 * (4 * 8 + 8 * 2),
        gradients=0,
        optimizer=0,
        inputs=4 * 16 * 4,
        activations=4 * (16 * 8 + 1),  # what the second layer saw, and the loss
        temporaries=4 * (1 + 8 * 2 + 16 * 8),  # gradients of the loss, of the second layer's weights and of its input
    )


def test_the_state_of_the_optimiser_is_there_all_the_time() -> None:
    weights = 4 * (4 * 8 + 8 * 2)
    plain, adamw = two_layers(step_memory, PLAIN_SGD), two_layers(step_memory, ADAMW)
    assert adamw.optimizer == 2 * weights
    assert adamw.total == plain.total + 2 * weights


SEGMENTATION = [name for name in registry.names() if name.startswith("segmentation/")]
SERVED = [(name, dims) for name in SEGMENTATION for dims in registry.load(name).CONSTRAINTS.spatial_dims]


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def about_32(name: str, dims: int) -> tuple[int, ...]:
    """The size nearest to 32 a side, and not below, that the tiny network takes."""
    architecture = registry.load(name)
    return legal_patch((32,) * dims, *architecture.CONSTRAINTS.per_axis(architecture.VARIANTS["tiny"].config, dims))


@pytest.mark.parametrize(("name", "dims"), SERVED)
def test_the_step_that_is_not_taken_holds_what_the_step_that_is_taken_holds(name: str, dims: int) -> None:
    patch = about_32(name, dims)
    predicted = taken(name, "tiny", patch)
    build = network_of(registry.load(name), "tiny", patch)
    with threads(2):  # with one, torch computes convolutions of 1 voxel by other kernels
        watched = watched_step(build, lambda: batch_of(2, patch), loss_of, optimizer=ADAMW)
    assert predicted.total == pytest.approx(watched.total, rel=0.03)
    assert predicted.activations == pytest.approx(watched.activations, rel=0.03)


@pytest.mark.parametrize("name", SEGMENTATION)
def test_every_further_sample_takes_as_much_as_the_one_before_or_more(name: str) -> None:
    # More where another moment of the step becomes the peak; on this planning relies when it looks for a batch.
    patch = about_32(name, max(registry.load(name).CONSTRAINTS.spatial_dims))
    two, three, six = (taken(name, "tiny", patch, batch_size).total for batch_size in (2, 3, 6))
    assert 0 < three - two <= 1.001 * (six - three) / 3
    assert six <= 3.1 * two


def test_a_gpu_keeps_less_because_it_computes_in_half_the_bits() -> None:
    cpu, gpu = (taken("segmentation/nnunet", "small", (64, 64, 64), device=device) for device in ("cpu", "cuda"))
    assert 0.4 * cpu.total < gpu.total < 0.75 * cpu.total
    assert gpu.parameters == cpu.parameters


def test_the_prediction_does_not_depend_on_the_number_of_threads() -> None:
    predictions = set()
    for number in (1, 2):
        with threads(number):
            predictions.add(taken("segmentation/nnunet", "tiny", (32, 32, 32)))
    assert len(predictions) == 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    "optimizer",
    [
        ADAMW,
        ADAMW | {"name": "adam"},
        ADAMW | {"name": "adam", "weight_decay": 0.0},
        PLAIN_SGD,
        PLAIN_SGD | {"momentum": 0.9},
        PLAIN_SGD | {"momentum": 0.9, "weight_decay": 1e-4},
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(map(str, value.values())),
)
def test_the_update_holds_what_torch_s_optimisers_hold(optimizer: dict[str, Any], device: str) -> None:
    layer = nn.Linear(1000, 100, bias=False)
    weights = 4 * 1000 * 100
    torch_optimizer = build_optimizer(layer.named_parameters(), **optimizer)
    for group in torch_optimizer.param_groups:
        group["foreach"] = device == "cuda"  # torch's choice on a GPU
    layer.weight.grad = torch.zeros_like(layer.weight)
    live = _LiveBytes()
    live.add(layer.weight, "parameters")
    live.add(layer.weight.grad, "gradients")
    with live:
        torch_optimizer.step()
        # What stays is state; a second step shows what comes and goes.
        state = live.bytes["activations"]
        live.peak = dict.fromkeys(live.peak, 0)
        torch_optimizer.step()
    assert _num_states(optimizer) * weights == pytest.approx(state, abs=100)
    under_way = live.peak["activations"] - state
    assert _num_update_copies(optimizer, device) * weights == pytest.approx(under_way, abs=0.01 * weights)


def test_where_weights_outweigh_the_batch_the_update_is_the_peak() -> None:
    memory = step_memory(
        lambda: nn.Linear(1000, 100, bias=False),
        lambda: {"x": torch.zeros(1, 1000)},
        lambda network, batch: network(batch["x"]).sum(),
        optimizer=ADAMW,
    )
    weights = 4 * 1000 * 100
    assert (memory.gradients, memory.optimizer, memory.temporaries) == (weights, 2 * weights, 2 * weights)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", SEGMENTATION)
def test_the_prediction_is_within_a_tenth_of_what_a_gpu_allocates(name: str) -> None:
    patch = (64, 64, 64)
    device = torch.device("cuda")
    predicted = taken(name, "small", patch, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    network = place(network_of(registry.load(name), "small", patch)(), device).train()
    optimizer = build_optimizer(network.named_parameters(), **ADAMW)
    batch = batch_of(2, patch, "cuda")
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        with autocast(device):
            loss = loss_of(network, batch)
        loss.backward()
        optimizer.step()
    assert predicted.total == pytest.approx(torch.cuda.max_memory_allocated() - before, rel=0.1)


@pytest.mark.parametrize(("step_mib", "resident_mib"), [(0, 0), (100, 145), (2000, 2160)])
def test_an_allocator_keeps_a_share_of_small_steps_and_no_more_of_large_ones(step_mib: int, resident_mib: int) -> None:
    assert resident_bytes(step_mib * 2**20) == resident_mib * 2**20
