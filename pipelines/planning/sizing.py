"""Patch and batch that fit a memory budget, for any architecture: the house planner.

What a training step takes is measured, without taking one (see `pipelines.planning.step_memory`), in float32, as on a
CPU.

An architecture that exports `with_topology` gets a network for every patch tried (nnU-Net's loop); any other keeps its
network, and its `CONSTRAINTS` say which patches are legal. One that exports `with_patch_size` is told the patch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pipelines.planning.memory import conv_elements
from pipelines.planning.patch import Candidate, Configure, legal_patch, shrinking, starting_patch
from pipelines.planning.presets import PRESETS
from pipelines.planning.shapes import shapes_only
from pipelines.planning.step_memory import Batch, StepMemory, resident_bytes, step_memory
from pipelines.planning.target import TargetArchitecture
from pipelines.planning.topology import SMALLEST_EDGE, topology
from repro_models.contract import Problem

# Of a network in training mode and a batch, whether sums of overlaps run over the batch, the ignore label, and, as
# `loss`, the name of the loss: two parts, whose sum is minimised.
LossTerms = Callable[..., tuple[Tensor, Tensor]]
Elements = Callable[[Candidate], int]
Measure = Callable[[Candidate, int], StepMemory]
_DATASET_SHARE = 0.05
_SMALLEST_BATCH = 2
_BYTES_PER_GIB = 2**30
# What a step holds for an element of a convolution's output, about: where to begin to measure.
_BYTES_PER_ELEMENT = 11


class MemoryBudgetError(ValueError):
    """Not even the smallest patch fits."""


def chosen_by_topology(architecture: ModuleType, config: Any, spacing_mm: Sequence[float]) -> Configure:
    """A network for every patch, by nnU-Net's topology.

    Differs:
        - A patch so small that no axis is halved is raised to 8 voxels a side, or to 12 where a single axis is fine
          enough to be halved, because nnU-Net's network of one stage has no output.
    """

    def configure(patch_size: Sequence[float]) -> Candidate:
        chosen = topology(spacing_mm, patch_size)
        for least in (2 * SMALLEST_EDGE, 3 * SMALLEST_EDGE):
            if len(chosen.strides) == 1:
                chosen = topology(spacing_mm, [max(side, least) for side in patch_size])
        return Candidate(
            config=_made_for(
                architecture,
                architecture.with_topology(config, chosen.strides, chosen.kernel_sizes),
                chosen.patch_size,
            ),
            patch_size=chosen.patch_size,
            divisor=chosen.divisor,
            smallest_side=(SMALLEST_EDGE,) * len(chosen.patch_size),
        )

    return configure


def chosen_by_constraints(architecture: ModuleType, config: Any, spatial_dims: int) -> Configure:
    """The same network for every patch, but for the size that it is made for."""
    divisor, smallest_side = architecture.CONSTRAINTS.per_axis(config, spatial_dims)

    def configure(patch_size: Sequence[float]) -> Candidate:
        legal = legal_patch(patch_size, divisor, smallest_side)
        return Candidate(_made_for(architecture, config, legal), legal, divisor, smallest_side)

    return configure


def _made_for(architecture: ModuleType, config: Any, patch_size: tuple[int, ...]) -> Any:
    return architecture.with_patch_size(config, patch_size) if hasattr(architecture, "with_patch_size") else config


def check_output_size(architecture: ModuleType, config: Any, problem: Problem) -> None:
    """Raise ValueError unless logits have the size of the image, which training and prediction by patches need."""
    _, smallest_side = architecture.CONSTRAINTS.per_axis(config, problem.spatial_dims)
    with shapes_only():
        network = architecture.build(_made_for(architecture, config, smallest_side), problem).eval()
        size = tuple(network(torch.empty(1, problem.in_channels, *smallest_side)).shape[2:])
    if size != smallest_side:
        raise ValueError(
            f"{architecture.__name__.removeprefix('repro_models.')} with {config} makes {size} logits of an image of "
            f"{smallest_side}; a plan needs logits of the image's size, so choose another variant "
            f"({', '.join(architecture.VARIANTS)}) or pad its convolutions"
        )


def conv_elements_of(architecture: ModuleType, problem: Problem) -> Elements:
    """`conv_elements` of a candidate's network; nothing is built or run twice."""

    @cache
    def network(config: Any) -> nn.Module:
        with shapes_only():
            return architecture.build(config, problem)

    @cache
    def elements(config: Any, patch_size: tuple[int, ...]) -> int:
        return conv_elements(network(config), problem.in_channels, patch_size)

    return lambda candidate: elements(candidate.config, candidate.patch_size)


def fit_patch(
    spacing_mm: Sequence[float],
    median_shape: Sequence[float],
    configure: Configure,
    elements: Elements,
    measure: Measure,
    limit: int,
) -> Candidate:
    """Largest patch, by nnU-Net's order of shrinking, of which a batch of 2 fits.

    Few are measured, because that takes longer than to count elements: what a step held beside its weights is taken to
    be in proportion to the elements of the convolutions, and that says where in the order to measure next.

    Args:
        spacing_mm: of two or three axes.
        median_shape: likewise.
        configure: the network for a patch.
        elements: of the outputs of all convolutions for one patch.
        measure: a training step.
        limit: bytes that it may take.

    Raises:
        MemoryBudgetError: none fits.
    """
    rest = shrinking(starting_patch(spacing_mm, median_shape), median_shape, configure)
    order: list[Candidate] = []
    too_large, fitting = -1, None
    most_elements = limit / _BYTES_PER_ELEMENT / _SMALLEST_BATCH
    while True:
        index = too_large + 1
        while fitting is None or index < fitting - 1:
            if index == len(order):
                smaller = next(rest, None)
                if smaller is None:
                    break
                order.append(smaller)
            if elements(order[index]) <= most_elements:
                break
            index += 1
        index = min(index, len(order) - 1)
        step = measure(order[index], _SMALLEST_BATCH)
        if step.total <= limit:
            fitting = index
        else:
            too_large = index
        if fitting == too_large + 1:
            return order[fitting]
        if fitting is None and too_large == len(order) - 1 and (smaller := next(rest, None)) is not None:
            order.append(smaller)
        lasting = step.parameters + step.gradients + step.optimizer
        most_elements = (limit - lasting) * elements(order[index]) / (step.total - lasting)
        if too_large == len(order) - 1:
            raise MemoryBudgetError(
                f"the smallest patch {sides(order[index].patch_size)} needs {step.gib:.3g} GiB "
                f"for a batch of {_SMALLEST_BATCH}; raise budget.memory_gib to {_rounded_up(step.gib)}, "
                "or override network with a smaller one"
            )


def fit_batch(
    candidate: Candidate, measure: Measure, limit: int, num_voxels: float, num_cases: int, largest: int | None
) -> tuple[int, str]:
    """Batch that fits, of at most 5 % of the data set's voxels, never below 2.

    What a step takes grows with the batch along a line, or faster where another moment of it becomes the fullest. So
    the line from 2 patches to a batch that is too large is never below it, and what fits by the line fits.

    Args:
        candidate: the patch.
        measure: a training step.
        limit: bytes that it may take.
        num_voxels: of the median case, of three axes also in 2D.
        num_cases: training cases.
        largest: upper bound that the user set; it may be 1.

    Returns:
        The batch, and why.
    """
    by_data = round(num_voxels * num_cases * _DATASET_SHARE / math.prod(candidate.patch_size))
    why = f"5 % of the voxels of {num_cases} cases are {by_data} patches"
    if by_data < _SMALLEST_BATCH:
        why += f"; the smallest batch is {_SMALLEST_BATCH}"
    wanted = max(by_data, _SMALLEST_BATCH)
    if largest is not None and largest < wanted:
        wanted = largest
        why += f"; max_batch_size is {largest}"
    if wanted <= _SMALLEST_BATCH:
        return wanted, why
    if (most := measure(candidate, wanted).total) <= limit:
        return wanted, f"{why}; memory fits {'them' if wanted == by_data else 'that'}"
    least, fitting = measure(candidate, _SMALLEST_BATCH).total, wanted
    while fitting > _SMALLEST_BATCH and most > limit:
        by_line = _SMALLEST_BATCH + (limit - least) * (fitting - _SMALLEST_BATCH) / (most - least)
        fitting = max(math.floor(by_line), _SMALLEST_BATCH)
        most = measure(candidate, fitting).total
    return fitting, f"memory fits {fitting}; {why}"


def check_patch(patch_size: Sequence[int], configure: Configure, spatial_dims: int) -> Candidate:
    """The network for a patch the user asked for.

    Raises:
        ValueError: a patch the architecture cannot take; the message has the nearest legal ones.
    """
    if len(patch_size) != spatial_dims:
        raise ValueError(f"override patch_size {list(patch_size)}: give {spatial_dims} sides for {spatial_dims}D")
    candidate = configure(patch_size)
    if candidate.patch_size != tuple(patch_size):
        lower = configure(
            [
                max(least, side // step * step)
                for side, step, least in zip(patch_size, candidate.divisor, candidate.smallest_side, strict=True)
            ]
        )
        nearest = dict.fromkeys(sides(item.patch_size) for item in (lower, candidate))
        raise ValueError(
            f"override patch_size {sides(patch_size)}: sides must be multiples of {sides(candidate.divisor)} and at "
            f"least {sides(candidate.smallest_side)}; the nearest legal sizes are {' and '.join(nearest)}"
        )
    return candidate


def check_network_override(network: Mapping[str, Any], config: Any, candidate: Candidate) -> None:
    """Raise ValueError for a field that the user set and that planning sets by the patch.

    Args:
        network: the override.
        config: the architecture's `Config` with the override in place.
        candidate: what was planned.
    """
    for name, value in network.items():
        planned = getattr(candidate.config, name)
        if planned != getattr(config, name):
            raise ValueError(
                f"override network {name} is {value}, but planning sets it to the patch, here {sides(planned)}; "
                "leave it out, and set the override patch_size for another patch"
            )


@dataclass(frozen=True)
class HouseSizer:
    """Patch, network and batch of any architecture within a memory budget.

    Args:
        architecture: its module.
        config: its `Config`.
        problem: dimensions, channels and classes.
        is_free: planning chooses the depth.
        memory_gib: the budget.
        optimizer: keys name, momentum, weight_decay.
        loss_terms: of the training; their sum is the loss.
        loss: its name, as in params.yaml.
        ignore_label: of voxels without annotation.
        preset: key of `PRESETS` whose encoder `config` has, if it has one's.
    """

    planner: ClassVar[str] = "house"
    architecture: ModuleType
    config: Any
    problem: Problem
    is_free: bool
    memory_gib: float
    optimizer: Mapping[str, Any]
    loss_terms: LossTerms
    loss: str = "dice_cross_entropy"
    ignore_label: int | None = None
    preset: str | None = None

    @cached_property
    def _elements(self) -> Elements:
        if isinstance(self.architecture, TargetArchitecture):
            # What its operations do to shapes is not known here; its elements are in proportion to the voxels at least.
            return lambda candidate: math.prod(candidate.patch_size)
        return conv_elements_of(self.architecture, self.problem)

    @property
    def _limit(self) -> int:
        return int(self.memory_gib * _BYTES_PER_GIB)

    def step(self, candidate: Candidate, batch_size: int, device: str = "cpu") -> StepMemory:
        """Memory of a training step; `device` as in `step_memory`."""
        return _step(
            self.architecture,
            candidate.config,
            self.problem,
            candidate.patch_size,
            batch_size,
            tuple((key, self.optimizer[key]) for key in ("name", "momentum", "weight_decay")),
            self.loss_terms,
            self.loss,
            self.ignore_label,
            device,
        )

    def configured_at(self, spacing_mm: Sequence[float]) -> Configure:
        """The network for each patch at a spacing."""
        if self.is_free:
            return chosen_by_topology(self.architecture, self.config, spacing_mm)
        return chosen_by_constraints(self.architecture, self.config, self.problem.spatial_dims)

    def fit_patch(self, spacing_mm: Sequence[float], median_shape: Sequence[float]) -> Candidate:
        """See `fit_patch` of this module."""
        configure = self.configured_at(spacing_mm)
        return fit_patch(spacing_mm, median_shape, configure, self._elements, self.step, self._limit)

    def set_patch(self, spacing_mm: Sequence[float], patch_size: Sequence[int]) -> Candidate:
        """See `check_patch`."""
        return check_patch(patch_size, self.configured_at(spacing_mm), self.problem.spatial_dims)

    def fit_batch(
        self, candidate: Candidate, num_voxels: float, num_cases: int, largest: int | None
    ) -> tuple[int, str]:
        """See `fit_batch` of this module."""
        return fit_batch(candidate, self.step, self._limit, num_voxels, num_cases, largest)

    def is_too_much(self, candidate: Candidate) -> bool:
        """Whether not even a batch of 2 fits."""
        return self.step(candidate, _SMALLEST_BATCH).total > self._limit

    def use(self, candidate: Candidate) -> str:
        """How much of the budget a patch takes, in words."""
        least = self.step(candidate, _SMALLEST_BATCH)
        return f"it takes {least.gib:.3g} GiB of the {self.memory_gib:g} for a batch of {_SMALLEST_BATCH}"

    def memory(self, candidate: Candidate, batch_size: int) -> tuple[dict[str, Any], str]:
        """The part `memory` of the plan, and its reason."""
        step, on_gpu = (self.step(candidate, batch_size, device) for device in ("cpu", "cuda"))
        split = {kind: size / _BYTES_PER_GIB for kind, size in dataclasses.asdict(step).items()}
        parts = ", ".join(f"{kind} {gib:.3g}" for kind, gib in split.items())
        return {
            "memory_gib": self.memory_gib,
            "predicted_gib": step.gib,
            "split_gib": split,
            "resident_gib": (resident := resident_bytes(step.total) / _BYTES_PER_GIB),
            "unverified_gpu_gib": on_gpu.gib,
        }, (
            f"memory: {step.gib:.3g} GiB on a CPU at the fullest moment of a step on the batch ({parts}); a process "
            f"grows by some {resident:.3g} GiB, because the allocator keeps blocks; {on_gpu.gib:.3g} GiB in bfloat16 "
            "on a GPU, which nobody has verified on one"
        )

    def reasons(self) -> list[str]:
        """Which rule is at work."""
        if self.preset is None:
            return []
        return [
            f"preset: the encoder of {self.preset}, which nnU-Net plans for {PRESETS[self.preset].memory_gib:g} GB; "
            f"the house planner fits patch and batch to {self.memory_gib:g} GiB"
        ]


# Kept for the further configurations and entries that a process plans.
@lru_cache(maxsize=4096)
def _step(
    architecture: ModuleType,
    config: Any,
    problem: Problem,
    patch_size: tuple[int, ...],
    batch_size: int,
    optimizer: tuple[tuple[str, Any], ...],
    loss_terms: LossTerms,
    loss_name: str,
    ignore_label: int | None,
    device: str,
) -> StepMemory:
    def make_batch() -> Batch:
        return {
            "image": torch.empty(batch_size, problem.in_channels, *patch_size),
            "target": torch.zeros(batch_size, *patch_size, dtype=torch.int64),
        }

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        # Whether Dice is taken over the batch in 3D is known only when the patch is; it changes a few numbers.
        sample_mean, whole_batch = loss_terms(network, batch, problem.spatial_dims == 2, ignore_label, loss=loss_name)
        return sample_mean + whole_batch

    return step_memory(
        lambda: architecture.build(config, problem), make_batch, loss, optimizer=dict(optimizer), device=device
    )


def sides(values: Sequence[float]) -> str:
    """Sizes as `40x56x40`."""
    return "x".join(f"{value:g}" for value in values)


def _rounded_up(gib: float) -> str:
    digits = 2 - math.ceil(math.log10(gib))
    return f"{math.ceil(gib * 10**digits) / 10**digits:g}"
