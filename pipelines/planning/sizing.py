"""Patch and batch that fit a memory budget, for any architecture: the house planner.

An architecture that exports `with_topology` gets a network for every patch tried (nnU-Net's loop); any other keeps its
network, and its `CONSTRAINTS` say which patches are legal. One that exports `with_patch_size` is told the patch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import nn

from pipelines.planning.memory import Reference, conv_elements, predicted_gib, reference
from pipelines.planning.patch import Candidate, Configure, legal_patch, shrunk, starting_patch
from pipelines.planning.presets import PRESETS
from pipelines.planning.shapes import shapes_only
from pipelines.planning.topology import SMALLEST_EDGE, topology
from repro_models.contract import Problem

Measure = Callable[[Candidate], int]
_DATASET_SHARE = 0.05
_SMALLEST_BATCH = 2


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
            config=architecture.with_topology(config, chosen.strides, chosen.kernel_sizes),
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


def conv_elements_of(architecture: ModuleType, problem: Problem) -> Measure:
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
    measure: Measure,
    limit: Reference,
) -> Candidate:
    """Largest patch, by nnU-Net's order of shrinking, of which a batch of 2 fits.

    Raises:
        MemoryBudgetError: none fits.
    """
    candidate = configure(starting_patch(spacing_mm, median_shape))
    while limit.is_too_much(measure(candidate)):
        smaller = shrunk(candidate, median_shape, configure)
        if smaller is None:
            need_gib = predicted_gib(measure(candidate), _SMALLEST_BATCH, len(candidate.patch_size))
            raise MemoryBudgetError(
                f"the smallest patch {sides(candidate.patch_size)} needs about {need_gib:.3g} GiB "
                f"for a batch of {_SMALLEST_BATCH}; raise budget.memory_gib to {_rounded_up(need_gib)}, "
                "or override network with a smaller one"
            )
        candidate = smaller
    return candidate


def fit_batch(
    elements: int, limit: Reference, patch_size: Sequence[int], num_voxels: float, num_cases: int
) -> tuple[int, str]:
    """Batch that fits beside `elements` per patch, of at most 5 % of the data set's voxels, never below 2.

    Args:
        elements: convolution elements of one patch.
        limit: what fits.
        patch_size: of two or three axes.
        num_voxels: of the median case, of three axes also in 2D.
        num_cases: training cases.

    Returns:
        The batch, and why.
    """
    by_memory = round(limit.elements / elements * limit.batch_size)
    by_data = round(num_voxels * num_cases * _DATASET_SHARE / math.prod(patch_size))
    batch_size = max(min(by_memory, by_data), _SMALLEST_BATCH)
    why = f"memory fits {by_memory} and 5 % of the voxels of {num_cases} cases are {by_data} patches"
    if min(by_memory, by_data) < _SMALLEST_BATCH:
        why += f"; the smallest batch is {_SMALLEST_BATCH}"
    return batch_size, why


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
        preset: key of `PRESETS` whose encoder `config` has, if it has one's.
    """

    planner: ClassVar[str] = "house"
    architecture: ModuleType
    config: Any
    problem: Problem
    is_free: bool
    memory_gib: float
    preset: str | None = None

    @cached_property
    def _measure(self) -> Measure:
        return conv_elements_of(self.architecture, self.problem)

    @property
    def _limit(self) -> Reference:
        return reference(self.problem.spatial_dims, self.memory_gib)

    def configured_at(self, spacing_mm: Sequence[float]) -> Configure:
        """The network for each patch at a spacing."""
        if self.is_free:
            return chosen_by_topology(self.architecture, self.config, spacing_mm)
        return chosen_by_constraints(self.architecture, self.config, self.problem.spatial_dims)

    def fit_patch(self, spacing_mm: Sequence[float], median_shape: Sequence[float]) -> Candidate:
        """See `fit_patch` of this module."""
        return fit_patch(spacing_mm, median_shape, self.configured_at(spacing_mm), self._measure, self._limit)

    def set_patch(self, spacing_mm: Sequence[float], patch_size: Sequence[int]) -> Candidate:
        """See `check_patch`."""
        return check_patch(patch_size, self.configured_at(spacing_mm), self.problem.spatial_dims)

    def fit_batch(self, candidate: Candidate, num_voxels: float, num_cases: int) -> tuple[int, str]:
        """See `fit_batch` of this module."""
        return fit_batch(self._measure(candidate), self._limit, candidate.patch_size, num_voxels, num_cases)

    def is_too_much(self, candidate: Candidate) -> bool:
        """Whether not even a batch of 2 fits."""
        return self._limit.is_too_much(self._measure(candidate))

    def use(self, candidate: Candidate) -> str:
        """How much of the budget a patch takes, in words."""
        return (
            f"{self._measure(candidate):,} convolution elements of the {self._limit.elements:,.0f} that fit "
            f"{self.memory_gib:g} GiB at a batch of {self._limit.batch_size}"
        )

    def memory(self, candidate: Candidate, batch_size: int) -> tuple[dict[str, Any], str]:
        """The part `memory` of the plan, and its reason."""
        elements = self._measure(candidate)
        predicted = predicted_gib(elements, batch_size, self.problem.spatial_dims)
        return {
            "conv_elements": elements,
            "reference_elements": self._limit.elements,
            "reference_batch": self._limit.batch_size,
            "memory_gib": self.memory_gib,
            "predicted_gib": predicted,
        }, f"memory: about {predicted:.3g} GiB for the batch by nnU-Net's estimate"

    def reasons(self) -> list[str]:
        """Which rule is at work."""
        if self.preset is None:
            return []
        return [
            f"preset: the encoder of {self.preset}, which nnU-Net plans for {PRESETS[self.preset].memory_gib:g} GB; "
            f"the house planner fits patch and batch to {self.memory_gib:g} GiB"
        ]


def sides(values: Sequence[float]) -> str:
    """Sizes as `40x56x40`."""
    return "x".join(f"{value:g}" for value in values)


def _rounded_up(gib: float) -> str:
    digits = 2 - math.ceil(math.log10(gib))
    return f"{math.ceil(gib * 10**digits) / 10**digits:g}"
