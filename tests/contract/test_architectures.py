"""What every architecture file must hold. Runs on all files the registry finds, unasked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, distributed, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parallel import DistributedDataParallel

from pipelines.planning.count import count_operations, fitted
from repro_models import registry
from repro_models.contract import (
    Choice,
    Constraints,
    IllegalSizeError,
    Paper,
    Problem,
    Range,
    SupervisedLogits,
    Variant,
)

NAMES = registry.names()
CASES = [
    pytest.param(name, spatial_dims, id=f"{name}-{spatial_dims}d")
    for name in NAMES
    for spatial_dims in registry.load(name).CONSTRAINTS.spatial_dims
]
VARIANTS = [
    pytest.param(name, variant, id=f"{name}-{variant}") for name in NAMES for variant in registry.load(name).VARIANTS
]
MADE_FOR_ONE_SIZE = [case for case in CASES if hasattr(registry.load(str(case.values[0])), "with_patch_size")]
for_every_network = pytest.mark.parametrize(("name", "spatial_dims"), CASES)


def build(
    name: str,
    spatial_dims: int,
    in_channels: int = 1,
    num_classes: int = 3,
    seed: int = 0,
    size: Sequence[int] | None = None,
) -> nn.Module:
    """The tiny variant, made for images of `size` (the smallest legal one when None) if it has to be made for one."""
    architecture = registry.load(name)
    config = architecture.VARIANTS["tiny"].config
    if hasattr(architecture, "with_patch_size"):
        config = architecture.with_patch_size(config, size or sides(name, spatial_dims)[1])
    torch.manual_seed(seed)
    return architecture.build(config, Problem(spatial_dims, in_channels, num_classes))


def sides(name: str, spatial_dims: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Steps between legal sides, and the smallest legal size."""
    architecture = registry.load(name)
    divisors, least = architecture.CONSTRAINTS.per_axis(architecture.VARIANTS["tiny"].config, spatial_dims)
    return divisors, tuple(-(-side // divisor) * divisor for side, divisor in zip(least, divisors, strict=True))


def image(size: Sequence[int], batch_size: int = 2, in_channels: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(batch_size, in_channels, *size, generator=torch.Generator().manual_seed(seed))


def tensors(output: Any) -> Iterator[Tensor]:
    """Floating tensors of an output, however nested."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        yield from tensors(list(output.values()))
    elif isinstance(output, (list, tuple)):
        for part in output:
            yield from tensors(part)


def logits_shape(name: str, batch_size: int, num_classes: int, size: Sequence[int]) -> tuple[int, ...]:
    """Of a class for every voxel; for classification, of one an image."""
    return (batch_size, num_classes, *(() if name.startswith("classification/") else size))


def loss_of(output: Any) -> Tensor:
    return torch.stack([tensor.square().mean() for tensor in tensors(output)]).sum()


@pytest.mark.parametrize("name", NAMES)
def test_file_exports_the_contract(name: str) -> None:
    architecture = registry.load(name)
    assert architecture.__doc__
    assert isinstance(architecture.PAPER, Paper)
    assert isinstance(architecture.CONSTRAINTS, Constraints)
    assert set(architecture.CONSTRAINTS.spatial_dims) <= {2, 3}
    # Without dimensions there is a test of its own beside this one.
    assert architecture.CONSTRAINTS.spatial_dims or name.startswith(("graph/", "sequence/"))
    assert name.split("/")[0] in {"segmentation", "classification", "graph", "sequence"}
    assert dataclasses.is_dataclass(architecture.Config)
    assert architecture.Config.__dataclass_params__.frozen
    assert architecture.Config() == architecture.Config()
    assert "tiny" in architecture.VARIANTS
    for variant in architecture.VARIANTS.values():
        assert isinstance(variant, Variant)
        assert isinstance(variant.config, architecture.Config)
        assert variant.source


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_variant_has_exactly_the_stated_parameter_count(name: str, variant: str) -> None:
    architecture = registry.load(name)
    stated = architecture.VARIANTS[variant]
    with torch.device("meta"):
        network = architecture.build(stated.config, stated.problem)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == (count if stated.num_parameters is None else stated.num_parameters)


@pytest.mark.parametrize("name", NAMES)
def test_variants_count_exactly_the_stated_operations(name: str) -> None:
    architecture = registry.load(name)
    stated = {key: variant for key, variant in architecture.VARIANTS.items() if variant.num_macs is not None}
    counted = {}
    for key, variant in stated.items():
        assert variant.size is not None, f"{key} states operations without the size they were counted at"
        config, size = fitted(architecture, variant.config, variant.size, len(variant.size))
        counted[key] = count_operations(architecture, config, variant.problem, size)
    assert counted == {key: variant.num_macs for key, variant in stated.items()}


@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(registry.load(name), "SEARCH_SPACE")])
def test_a_search_space_is_made_of_fields_and_every_end_of_it_builds(name: str) -> None:
    architecture = registry.load(name)
    tiny, spatial_dims = architecture.VARIANTS["tiny"].config, architecture.CONSTRAINTS.spatial_dims[0]
    if hasattr(architecture, "with_patch_size"):
        tiny = architecture.with_patch_size(tiny, sides(name, spatial_dims)[1])
    for field, domain in architecture.SEARCH_SPACE.items():
        assert field in {item.name for item in dataclasses.fields(architecture.Config)}
        values = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
        assert getattr(tiny, field) in values or isinstance(domain, Range)
        for value in values:
            architecture.build(dataclasses.replace(tiny, **{field: value}), Problem(spatial_dims, 1, 2))


@for_every_network
@pytest.mark.parametrize(("in_channels", "num_classes"), [(1, 2), (2, 5)])
@pytest.mark.parametrize("stretched_axis", [None, 0, -1])
def test_output_is_finite_and_has_the_documented_shape(
    name: str, spatial_dims: int, in_channels: int, num_classes: int, stretched_axis: int | None
) -> None:
    steps, smallest = sides(name, spatial_dims)
    size = list(smallest)
    if stretched_axis is not None:
        size[stretched_axis] += steps[stretched_axis]
    network = build(name, spatial_dims, in_channels, num_classes, size=size).eval()
    with torch.no_grad():
        output = network(image(size, 2, in_channels))
    assert all(tensor.isfinite().all() for tensor in tensors(output))
    assert isinstance(output, Tensor)
    assert output.shape == logits_shape(name, 2, num_classes, size)


@for_every_network
def test_first_training_output_is_the_full_resolution_one(name: str, spatial_dims: int) -> None:
    _, size = sides(name, spatial_dims)
    output = build(name, spatial_dims).train()(image(size))
    if isinstance(output, SupervisedLogits):
        assert len(output.logits) == len(output.weights)
        assert output.presence is None or output.presence.shape == (2, 2)
    assert next(tensors(output)).shape == logits_shape(name, 2, 3, size)


@for_every_network
def test_illegal_size_raises_the_documented_error(name: str, spatial_dims: int) -> None:
    steps, smallest = sides(name, spatial_dims)
    network = build(name, spatial_dims).eval()
    for axis, (step, side) in enumerate(zip(steps, smallest, strict=True)):
        illegal = ([side + 1] if step > 1 else []) + ([side - step] if side > step else [])
        for wrong in illegal:
            size = [*smallest[:axis], wrong, *smallest[axis + 1 :]]
            with pytest.raises(IllegalSizeError, match=rf"side {wrong} of axis {axis}"):
                network(image(size))


@pytest.mark.parametrize(("name", "spatial_dims"), MADE_FOR_ONE_SIZE)
def test_network_made_for_one_size_refuses_every_other(name: str, spatial_dims: int) -> None:
    steps, smallest = sides(name, spatial_dims)
    larger = [side + step for side, step in zip(smallest, steps, strict=True)]
    network = build(name, spatial_dims, size=larger).eval()
    assert network(image(larger)).shape == logits_shape(name, 2, 3, larger)
    with pytest.raises(IllegalSizeError, match=rf"side {smallest[0]} of axis 0 must be {larger[0]}"):
        network(image(smallest))


@for_every_network
def test_every_trainable_parameter_gets_a_finite_gradient(name: str, spatial_dims: int) -> None:
    network = build(name, spatial_dims).train()
    loss_of(network(image(sides(name, spatial_dims)[1]))).backward()
    trainable = {key: p.grad for key, p in network.named_parameters() if p.requires_grad}
    assert trainable
    assert [key for key, gradient in trainable.items() if gradient is None or not gradient.isfinite().all()] == []


@for_every_network
def test_samples_of_a_batch_do_not_see_each_other_in_eval_mode(name: str, spatial_dims: int) -> None:
    network = build(name, spatial_dims).eval()
    batch = image(sides(name, spatial_dims)[1], batch_size=3)
    with torch.no_grad():
        together = list(tensors(network(batch)))
        alone = list(tensors(network(batch[1:2])))
    for joint, single in zip(together, alone, strict=True):
        torch.testing.assert_close(joint[1:2], single, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def _group_of_one() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        yield
        distributed.destroy_process_group()


@for_every_network
@pytest.mark.usefixtures("_group_of_one")
# Of a depthwise convolution: weights of one input channel are channels first and last at once. It costs a copy.
@pytest.mark.filterwarnings("ignore:Grad strides do not match bucket view strides:UserWarning")
def test_data_parallel_training_finds_no_unused_parameter(name: str, spatial_dims: int) -> None:
    network = build(name, spatial_dims).train()
    size = sides(name, spatial_dims)[1]
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    wrapped = DistributedDataParallel(network, find_unused_parameters=False)
    # The second forward pass is where it misses the gradients that the first step did not give.
    for step in range(2):
        optimizer.zero_grad()
        loss = loss_of(wrapped(image(size, seed=step)))
        loss.backward()
        optimizer.step()
    assert loss.isfinite()


@for_every_network
def test_evaluation_mode_is_exported_or_the_file_says_why_not(name: str, spatial_dims: int) -> None:
    network = build(name, spatial_dims).eval()
    x = image(sides(name, spatial_dims)[1])
    refusal = getattr(registry.load(name), "EXPORT_REFUSAL", None)
    if refusal is not None:
        assert refusal
        with pytest.raises(Exception):  # noqa: B017 - torch's exporter has errors of many kinds
            torch.export.export(network, (x,))
        return
    exported = torch.export.export(network, (x,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(x), network(x))


@for_every_network
def test_same_seed_gives_the_same_loss(name: str, spatial_dims: int) -> None:
    def losses(seed: int) -> list[float]:
        network = build(name, spatial_dims, seed=seed).train()
        optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1e-3)
        values = []
        for step in range(2):
            optimizer.zero_grad()
            loss = loss_of(network(image(sides(name, spatial_dims)[1], seed=step)))
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        return values

    assert losses(seed=7) == losses(seed=7)
    assert losses(seed=7) != losses(seed=8)


@for_every_network
def test_weights_survive_a_round_trip_through_a_file(name: str, spatial_dims: int) -> None:
    written, read = build(name, spatial_dims, seed=1).eval(), build(name, spatial_dims, seed=2).eval()
    x = image(sides(name, spatial_dims)[1])
    with torch.no_grad():
        expected = list(tensors(written(x)))
        assert any(not torch.equal(a, b) for a, b in zip(expected, tensors(read(x)), strict=True))
        read.load_state_dict(safetensors.torch.load(safetensors.torch.save(written.state_dict())))
        assert all(torch.equal(a, b) for a, b in zip(expected, tensors(read(x)), strict=True))


@for_every_network
def test_training_step_runs_on_shapes_alone(name: str, spatial_dims: int) -> None:
    with FakeTensorMode():
        network = build(name, spatial_dims).train()
        loss_of(network(torch.empty(2, 1, *sides(name, spatial_dims)[1]))).backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
