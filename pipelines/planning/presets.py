"""nnU-Net's planners by the name of their preset: encoder, memory, and how much of it a patch and a batch may take.

Source: nnunetv2 2.8.1; `plain` is its default planner, the others are those of nnU-Net Revisited (Isensee et al., 2024,
arXiv 2404.09556).

Differs:
    - L and XL are not planned for less memory than theirs, 24 and 40 GB: what they are below that, M is too (at 8 GB L
      counts on 700 million elements and M on 680 million).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_SMALLEST_CARD_GIB = 8


@dataclass(frozen=True)
class Preset:
    """One of nnU-Net's planners.

    Attributes:
        planner: what nnU-Net calls it.
        memory_gib: the device it is made for.
        elements: convolution elements of a patch that fit there, by spatial dimensions.
        largest_batch: part of the voxels of all training cases that a batch may have.
        cuts_for_two: shrink a patch until a batch of 2 fits; otherwise until the reference batch does.
        network: fields of the architecture's `Config`.
    """

    planner: str
    memory_gib: float
    elements: dict[int, float]
    largest_batch: float
    cuts_for_two: bool
    network: dict[str, Any]


_RESIDUAL = {"residual_blocks": (1, 3, 4, 6), "num_conv_per_stage": 1}
PRESETS = {
    "plain": Preset(
        "ExperimentPlanner", 8, {2: 85e6, 3: 560e6}, 0.05, True, {"residual_blocks": None, "num_conv_per_stage": 2}
    ),
    "M": Preset("nnUNetPlannerResEncM", 8, {2: 135e6, 3: 680e6}, 1.0, False, _RESIDUAL),
    "L": Preset("nnUNetPlannerResEncL", 24, {2: 380e6, 3: 2.1e9}, 1.0, False, _RESIDUAL),
    "XL": Preset("nnUNetPlannerResEncXL", 40, {2: 560e6, 3: 3.6e9}, 1.0, False, _RESIDUAL),
}
# At which batch the elements above were measured to fit.
REFERENCE_BATCH = {2: 12, 3: 2}


def target_gib(preset: Preset, memory_gib: float) -> float:
    """The memory that is planned for when `memory_gib` is asked for."""
    return memory_gib if preset.memory_gib <= _SMALLEST_CARD_GIB else max(memory_gib, preset.memory_gib)
