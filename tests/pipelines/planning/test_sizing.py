"""Plans by what training steps take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pipelines.planning.patch import Candidate, shrinking, starting_patch
from pipelines.planning.sizing import HouseSizer, MemoryBudgetError
from pipelines.planning.step_memory import StepMemory
from pipelines.tasks.segmentation_loss import segmentation_loss_terms
from repro_models import registry
from repro_models.contract import Problem

MIB = 2**20
ADAMW = {"name": "adamw", "momentum": 0.99, "weight_decay": 0.01}


def sizer(architecture: str, memory_gib: float, spatial_dims: int = 3, **changes: Any) -> HouseSizer:
    module = registry.load(f"segmentation/{architecture}")
    arguments: dict[str, Any] = {
        "architecture": module,
        "config": module.VARIANTS["tiny"].config,
        "problem": Problem(spatial_dims, 1, 3),
        "is_free": hasattr(module, "with_topology"),
        "memory_gib": memory_gib,
        "optimizer": ADAMW,
        "loss_terms": segmentation_loss_terms,
    }
    return HouseSizer(**(arguments | changes))


def order(of: HouseSizer, shape: Sequence[int]) -> list[Candidate]:
    """All patches, from the one that planning starts from."""
    spacing = (1.0,) * len(shape)
    return list(shrinking(starting_patch(spacing, shape), shape, of.configured_at(spacing)))


@pytest.mark.parametrize(("architecture", "spatial_dims"), [("nnunet", 3), ("nnunet", 2), ("unet_3d", 3), ("unetr", 3)])
def test_the_patch_is_the_first_that_fits(architecture: str, spatial_dims: int) -> None:
    shape = (56, 48, 40)[:spatial_dims]
    patches = order(sizer(architecture, 1.0, spatial_dims), shape)
    third = patches[min(2, len(patches) - 1)]
    enough = sizer(architecture, 1.0, spatial_dims).step(third, 2).gib
    for memory_gib, is_enough in ((enough * 1.001, True), (enough * 0.999, False)):
        of = sizer(architecture, memory_gib, spatial_dims)
        if not is_enough and third == patches[-1]:
            continue
        chosen = of.fit_patch((1.0,) * spatial_dims, shape)
        assert of.step(chosen, 2).gib <= memory_gib
        assert (chosen == third) is is_enough
        before = patches[: patches.index(chosen)]
        assert not before or of.step(before[-1], 2).gib > memory_gib


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_network_of_free_depth_that_is_made_for_one_size_is_told_both(spatial_dims: int) -> None:
    side, num_stages = {2: (16, 3), 3: (8, 2)}[spatial_dims]
    config = replace(registry.load("segmentation/u_mamba").VARIANTS["tiny"].config, features=(4, 64))
    of = sizer("u_mamba", 1.0, spatial_dims, config=config)
    chosen = of.set_patch((1.0,) * spatial_dims, (side,) * spatial_dims)
    assert len(chosen.config.strides) == num_stages
    assert chosen.config.image_size == chosen.patch_size == (side,) * spatial_dims
    # A network with weights of another patch would refuse the step.
    assert of.step(chosen, 2).gib > 0


def test_a_larger_budget_never_makes_a_patch_smaller() -> None:
    budgets = (0.004, 0.008, 0.016, 0.03, 0.06)
    shape = (40, 56, 40)
    volumes = [
        math.prod(sizer("nnunet", memory_gib).fit_patch((1.0, 1.0, 1.0), shape).patch_size) for memory_gib in budgets
    ]
    assert volumes == sorted(volumes)
    assert volumes[0] < volumes[-1]


def test_a_budget_that_nothing_meets_is_told_with_the_least_that_does() -> None:
    with pytest.raises(MemoryBudgetError, match="the smallest patch 16x16x16 needs") as error:
        sizer("unet_3d", 1e-4).fit_patch((1.0, 1.0, 1.0), (32, 32, 32))
    least = float(str(error.value).split("raise budget.memory_gib to ")[1].split(",")[0])
    of = sizer("unet_3d", least)
    chosen = of.fit_patch((1.0, 1.0, 1.0), (32, 32, 32))
    assert chosen.patch_size == (16, 16, 16)
    assert 0.9 * least < of.step(chosen, 2).gib <= least


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_batch_is_the_largest_that_fits(spatial_dims: int) -> None:
    shape = (24, 24, 24)[:spatial_dims]
    (candidate, *_) = order(sizer("nnunet", 1.0, spatial_dims), shape)
    five = sizer("nnunet", 1.0, spatial_dims).step(candidate, 5).gib
    batches = []
    for memory_gib in (five * 0.999, five * 1.001):
        of = sizer("nnunet", memory_gib, spatial_dims)
        batch_size, why = of.fit_batch(candidate, math.prod(candidate.patch_size), 200, None)
        assert of.step(candidate, batch_size).gib <= memory_gib
        assert why == f"memory fits {batch_size}; 5 % of the voxels of 200 cases are 10 patches"
        batches.append(batch_size)
    assert batches == [4, 5]


def measured(candidate: Candidate, batch_size: int, device: str = "cpu") -> StepMemory:
    """100 MiB a patch beside 50."""
    return StepMemory(50 * MIB, 0, 0, 0, 100 * MIB * batch_size, 0)


@pytest.mark.parametrize(
    ("num_cases", "largest", "batch_size", "why"),
    [
        (20, None, 2, "are 1 patches; the smallest batch is 2"),
        (40, None, 2, "are 2 patches"),
        (100, None, 5, "are 5 patches; memory fits them"),
        (100, 3, 3, "are 5 patches; max_batch_size is 3; memory fits that"),
        (100, 1, 1, "are 5 patches; max_batch_size is 1"),
        (100_000, None, 9, "memory fits 9; 5 % of the voxels of 100000 cases are 5000 patches"),
        (100_000, 30, 9, "memory fits 9; 5 % of the voxels of 100000 cases are 5000 patches; max_batch_size is 30"),
    ],
)
def test_a_batch_says_what_caps_it(
    monkeypatch: pytest.MonkeyPatch, num_cases: int, largest: int | None, batch_size: int, why: str
) -> None:
    of = sizer("nnunet", 1.0)
    monkeypatch.setattr(HouseSizer, "step", lambda _, *arguments: measured(*arguments))
    candidate = Candidate(of.config, (8, 8, 8), (4, 4, 4), (4, 4, 4))
    chosen, reason = of.fit_batch(candidate, 8**3, num_cases, largest)
    assert chosen == batch_size
    assert reason.endswith(why)


def test_few_steps_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def step(_: HouseSizer, candidate: Candidate, batch_size: int, device: str = "cpu") -> StepMemory:
        asked.append(candidate.patch_size)
        return StepMemory(MIB, 0, 0, 0, 60 * batch_size * math.prod(candidate.patch_size), 0)

    monkeypatch.setattr(HouseSizer, "step", step)
    of = sizer("nnunet", 0.1)
    shape = (200, 180, 160)
    chosen = of.fit_patch((1.0, 1.0, 1.0), shape)
    patches = [candidate.patch_size for candidate in order(of, shape)]
    assert patches.index(chosen.patch_size) > 6
    assert len(asked) == len(set(asked)) <= 4
    assert all(math.prod(large) > math.prod(small) for large, small in itertools.pairwise(patches))


def test_the_plan_tells_the_kinds_of_memory_and_that_no_gpu_was_measured() -> None:
    of = sizer("nnunet", 1.0)
    (candidate, *_) = order(of, (16, 16, 16))
    memory, reason = of.memory(candidate, 3)
    assert memory["predicted_gib"] == of.step(candidate, 3).gib
    assert sum(memory["split_gib"].values()) == pytest.approx(memory["predicted_gib"])
    for kind, gib in memory["split_gib"].items():
        assert f"{kind} {gib:.3g}" in reason
    assert memory["resident_gib"] == pytest.approx(1.45 * memory["predicted_gib"])
    assert f"grows by some {memory['resident_gib']:.3g} GiB" in reason
    assert 0 < memory["unverified_gpu_gib"] < memory["predicted_gib"]
    assert f"{memory['unverified_gpu_gib']:.3g} GiB in bfloat16 on a GPU, which nobody has verified" in reason


def test_what_a_step_takes_is_that_of_the_loss() -> None:
    def gib(loss: str) -> float:
        of = sizer("nnunet", 1.0, spatial_dims=2, loss=loss)
        return of.step(order(of, (64, 64))[0], 2).gib

    assert gib("unet_3_plus") > gib("focal") > 0


def test_a_loss_that_cannot_take_the_patch_ends_planning_with_what_to_do() -> None:
    of = sizer("nnunet", 1.0, loss="ms_ssim")
    with pytest.raises(ValueError, match="images of 3 dimensions: it serves 2; set the entry's configuration to 2d"):
        of.fit_patch((1.0, 1.0, 1.0), (32, 32, 32))
