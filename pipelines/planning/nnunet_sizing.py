"""Patch and batch exactly as nnU-Net's planners choose them (nnunetv2 2.8.1), also where that is unwise.

The planners are the default one (`plain`) and those of the residual encoder (`M`, `L`, `XL`; nnU-Net Revisited, Isensee
et al., 2024, arXiv 2404.09556). The ignore label is one of the outputs that the memory estimate counts, a shortcut that
only averages counts as one that convolves, and the residual planners let a batch hold as many voxels as all training
cases together: thousands of small images.

Differs:
    - Where nnU-Net's planner would not end, or would end on a patch without voxels, there is an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

from pipelines.planning.patch import Candidate, Configure, by_share, shrunk_along, starting_patch
from pipelines.planning.presets import PRESETS, REFERENCE_BATCH, target_gib
from pipelines.planning.sizing import MemoryBudgetError, check_patch, sides
from pipelines.planning.topology import topology

_SMALLEST_BATCH = 2


def nnunet_elements(
    features: Sequence[int],
    strides: Sequence[Sequence[int]],
    residual_blocks: Sequence[int] | None,
    num_conv_per_stage: int,
    num_outputs: int,
    patch_size: Sequence[int],
) -> int:
    """nnU-Net's estimate of memory: elements of all convolution outputs for one patch.

    Args:
        features: of each stage.
        strides: of each stage, one per axis.
        residual_blocks: of each stage, the last number for all further ones; None for the plain encoder.
        num_conv_per_stage: of every decoder stage and of every stage of a plain encoder.
        num_outputs: channels of the segmentation.
        patch_size: voxels per axis, multiples of the strides.
    """
    num_voxels, size = [], list(patch_size)
    for stride in strides:
        size = [side // step for side, step in zip(size, stride, strict=True)]
        num_voxels.append(math.prod(size))
    maps = [channels * voxels for channels, voxels in zip(features, num_voxels, strict=True)]
    # Each decoder stage: its convolutions and the transposed one before them; the last one segments.
    decoder = (num_conv_per_stage + 1) * sum(maps[:-1]) + (num_outputs * num_voxels[0] if len(maps) > 1 else 0)
    if residual_blocks is None:
        return num_conv_per_stage * sum(maps) + decoder
    encoder = maps[0]  # the stem
    for stage, elements in enumerate(maps):
        num_blocks = residual_blocks[min(stage, len(residual_blocks) - 1)]
        has_shortcut = max(strides[stage]) > 1 or (stage > 0 and features[stage] != features[stage - 1])
        encoder += (2 * num_blocks + has_shortcut) * elements
    return encoder + decoder


@dataclass(frozen=True)
class NnunetSizer:
    """Patch, network and batch by nnU-Net's planners.

    Args:
        architecture: module of nnU-Net's network.
        config: its `Config`; planning sets strides and kernel sizes.
        spatial_dims: axes of the patch.
        num_outputs: labels of the data set, with background and ignore label.
        preset: key of `PRESETS`.
        memory_gib: device memory asked for.
    """

    planner: ClassVar[str] = "nnunet"
    architecture: ModuleType
    config: Any
    spatial_dims: int
    num_outputs: int
    preset: str
    memory_gib: float
    _elements: dict[Any, int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def target_gib(self) -> float:
        """The memory that is planned for."""
        return target_gib(PRESETS[self.preset], self.memory_gib)

    @property
    def reference_elements(self) -> float:
        """Elements of a patch that fit it at the reference batch."""
        rule = PRESETS[self.preset]
        return rule.elements[self.spatial_dims] * (self.target_gib / rule.memory_gib)

    def configured_at(self, spacing_mm: Sequence[float]) -> Configure:
        """The network for each patch at a spacing."""

        def configure(patch_size: Sequence[float]) -> Candidate:
            chosen = topology(spacing_mm, patch_size)
            config = self.architecture.with_topology(self.config, chosen.strides, chosen.kernel_sizes)
            return Candidate(config, chosen.patch_size, chosen.divisor, (1,) * self.spatial_dims)

        return configure

    def elements(self, candidate: Candidate) -> int:
        """Estimate for one patch."""
        config, key = candidate.config, (candidate.config, candidate.patch_size)
        if key not in self._elements:
            self._elements[key] = nnunet_elements(
                self.architecture.features_per_stage(config, self.spatial_dims),
                config.strides,
                config.residual_blocks,
                config.num_conv_per_stage,
                self.num_outputs,
                candidate.patch_size,
            )
        return self._elements[key]

    def is_too_much(self, candidate: Candidate) -> bool:
        """Whether the patch is beyond the memory, by the preset's rule."""
        batch = REFERENCE_BATCH[self.spatial_dims] / 2 if PRESETS[self.preset].cuts_for_two else 1
        return self.elements(candidate) / batch > self.reference_elements

    def fit_patch(self, spacing_mm: Sequence[float], median_shape: Sequence[float]) -> Candidate:
        """Largest patch that fits.

        Raises:
            MemoryBudgetError: nnU-Net's loop would shrink an axis to nothing, or go on for ever.
        """
        configure = self.configured_at(spacing_mm)
        candidate = configure(starting_patch(spacing_mm, median_shape))
        seen = {candidate.patch_size}
        while self.is_too_much(candidate):
            axis = by_share(candidate.patch_size, median_shape)[0]
            if candidate.patch_size[axis] > 1:
                smaller = shrunk_along(axis, candidate, configure)
                if smaller.patch_size not in seen:
                    seen.add(smaller.patch_size)
                    candidate = smaller
                    continue
            raise MemoryBudgetError(
                f"nnU-Net's rule has no patch: {sides(candidate.patch_size)} is beyond {self.target_gib:g} GiB and its "
                f"axis {axis}, which is to give next, cannot; raise budget.memory_gib, or override planner with house"
            )
        return candidate

    def set_patch(self, spacing_mm: Sequence[float], patch_size: Sequence[int]) -> Candidate:
        """The network for a patch the user asked for.

        Raises:
            ValueError: no such patch; the message has the nearest ones.
        """
        return check_patch(patch_size, self.configured_at(spacing_mm), self.spatial_dims)

    def fit_batch(
        self, candidate: Candidate, num_voxels: float, num_cases: int, largest: int | None = None
    ) -> tuple[int, str]:
        """Batch that fits, and why.

        Args:
            candidate: the patch.
            num_voxels: of the median case, of three axes also in 2D.
            num_cases: training cases.
            largest: upper bound that the user set.
        """
        share = PRESETS[self.preset].largest_batch
        by_memory = round(self.reference_elements / self.elements(candidate) * REFERENCE_BATCH[self.spatial_dims])
        by_data = round(num_voxels * num_cases * share / math.prod(candidate.patch_size))
        why = f"memory fits {by_memory} and {share * 100:g} % of the voxels of {num_cases} cases are {by_data} patches"
        if min(by_memory, by_data) < _SMALLEST_BATCH:
            why += f"; the smallest batch is {_SMALLEST_BATCH}"
        batch_size = max(min(by_memory, by_data), _SMALLEST_BATCH)
        if largest is not None and batch_size > largest:
            return largest, f"max_batch_size is {largest}; without it {batch_size}, because {why}"
        return batch_size, why

    def use(self, candidate: Candidate) -> str:
        """How much of the memory a patch takes, in words."""
        return (
            f"it has {self.elements(candidate):,} convolution elements of the {self.reference_elements:,.0f} that fit "
            f"{self.target_gib:g} GiB at a batch of {REFERENCE_BATCH[self.spatial_dims]}"
        )

    def memory(self, candidate: Candidate, batch_size: int) -> tuple[dict[str, Any], str]:
        """The part `memory` of the plan, and its reason."""
        elements, batch = self.elements(candidate), REFERENCE_BATCH[self.spatial_dims]
        predicted = elements / self.reference_elements * batch_size / batch * self.target_gib
        return {
            "conv_elements": elements,
            "reference_elements": self.reference_elements,
            "reference_batch": batch,
            "memory_gib": self.target_gib,
            "predicted_gib": predicted,
        }, f"memory: about {predicted:.3g} GiB for the batch by nnU-Net's estimate"

    def reasons(self) -> list[str]:
        """Which rule is at work."""
        rule = PRESETS[self.preset]
        lines = [
            f"planner: nnunet, preset {self.preset}: the numbers of nnU-Net's {rule.planner} for {self.target_gib:g} "
            "GiB, also where they are unwise"
        ]
        if self.target_gib != self.memory_gib:
            lines.append(
                f"preset: {self.preset} is made for {rule.memory_gib:g} GiB and is not planned for less, here "
                f"{self.memory_gib:g}; below that, M is the same network"
            )
        return lines
