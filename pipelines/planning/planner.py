"""Plan an entry: the whole configuration of a training, from fingerprint, architecture and overrides.

For `segmentation/nnunet` the numbers are those of nnU-Net's default planner (Isensee et al., 2021; nnunetv2 2.8.1).
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.fingerprint.extract import Fingerprint
from pipelines.planning.configurations import Geometry, configurations, geometry, has_lowres
from pipelines.planning.memory import Reference, predicted_gib, reference
from pipelines.planning.mirroring import mirror_axes
from pipelines.planning.normalisation import nonzero_mask_use, normalisation_schemes
from pipelines.planning.overrides import check_keys, check_overrides, network_config, training_settings
from pipelines.planning.patch import Candidate, Configure, initial_patch_size, is_dummy_2d, starting_patch
from pipelines.planning.plan import Plan, Preprocessing
from pipelines.planning.sizing import (
    Measure,
    MemoryBudgetError,
    check_network_override,
    check_output_size,
    check_patch,
    chosen_by_constraints,
    chosen_by_topology,
    conv_elements_of,
    fit_batch,
    fit_patch,
    sides,
)
from repro_models import registry
from repro_models.contract import Problem

if TYPE_CHECKING:
    from pipelines.cases.case import DatasetInfo

_SPATIAL_DIMS = {"2d": 2, "3d_fullres": 3}


def plan_entry(
    *,
    dataset: str,
    entry: str,
    architecture: str,
    variant: str | None,
    configuration: str,
    overrides: Mapping[str, Any],
    fingerprint: Fingerprint,
    info: DatasetInfo,
    num_training_cases: int,
    memory_gib: float,
    sources: Mapping[str, str],
    training: Mapping[str, Any],
    inference: Mapping[str, Any],
    budget: Mapping[str, Any],
    num_folds: int,
    folds: Sequence[int],
    seeds: Sequence[int],
    tolerance_mm: float,
) -> Plan:
    """Plan an entry.

    Args:
        dataset: name of the data set.
        entry: name of the entry.
        architecture: `family/name`.
        variant: key of the architecture's `VARIANTS`, or None for the defaults of its `Config`.
        configuration: `2d` or `3d_fullres`.
        overrides: keys network, patch_size, batch_size, max_batch_size, spacing_mm (z, y, x), optimizer, learning_rate,
            momentum, weight_decay, schedule, clip_norm, foreground_fraction, mirror_axes.
        fingerprint: of the training cases.
        info: channels and labels of the data set.
        num_training_cases: cases with a label, over all folds.
        memory_gib: device memory that patch and batch are planned for.
        sources: source file to hash, copied into the plan.
        training: keys optimizer, schedule, clip_norm, foreground_fraction, mirror_axes, max_batch_size.
        inference: keys overlap, is_mirrored.
        budget: keys kind, steps, minutes, steps_per_epoch, validation_steps, early_stop_epochs.
        num_folds: folds of the data set.
        folds: folds to train.
        seeds: seeds to train.
        tolerance_mm: of the normalised surface distance.

    Raises:
        ValueError: an unknown architecture, variant, configuration or override; a configuration the data or the
            architecture does not have; an illegal patch; a memory budget that no patch meets.
    """
    module = registry.load(architecture)
    spatial_dims = _served_dims(module, architecture, configuration, configurations(fingerprint), dataset)
    check_overrides(overrides)
    config = network_config(_base_config(module, architecture, variant), overrides.get("network", {}))
    settings = training_settings(training, overrides)
    labels = dict(info.labels)
    problem = Problem(spatial_dims, len(info.channels), len(labels))
    space = geometry(fingerprint, overrides.get("spacing_mm"))
    reasons = _spacing_reasons(space, fingerprint, "spacing_mm" in overrides)

    is_free = hasattr(module, "with_topology") and not {"strides", "kernel_sizes"} & set(overrides.get("network", {}))
    if not is_free:
        check_output_size(module, config, problem)

    def configure_at(spacing_mm: Sequence[float]) -> Configure:
        if is_free:
            return chosen_by_topology(module, config, spacing_mm)
        return chosen_by_constraints(module, config, spatial_dims)

    measure = conv_elements_of(module, problem)
    limit = reference(spatial_dims, memory_gib)
    spacing_mm, median_shape = space.spacing_mm[-spatial_dims:], space.median_shape[-spatial_dims:]
    try:
        if "patch_size" in overrides:
            candidate = check_patch(overrides["patch_size"], configure_at(spacing_mm), spatial_dims)
        else:
            candidate = fit_patch(spacing_mm, median_shape, configure_at(spacing_mm), measure, limit)
        is_batch_dice, why_dice = True, "batch Dice: on, as always in 2D"
        if spatial_dims == 3:
            is_batch_dice = has_lowres(
                spacing_mm,
                median_shape,
                candidate.patch_size,
                lambda spacing, shape: fit_patch(spacing, shape, configure_at(spacing), measure, limit).patch_size,
            )
            why_dice = (
                "batch Dice: on, because patches show so little of a case that nnU-Net would add a low resolution"
                if is_batch_dice
                else "batch Dice: off, because patches show enough of a case"
            )
    except MemoryBudgetError as error:
        raise MemoryBudgetError(
            f"data set {dataset}, entry {entry}: budget.memory_gib is {memory_gib:g}, but for {architecture} {error}"
        ) from error
    check_network_override(overrides.get("network", {}), config, candidate)
    reasons += _patch_reasons(candidate, spacing_mm, median_shape, measure, limit, memory_gib, overrides)
    batch_size, batch_reason = _batch(candidate, measure, limit, space, num_training_cases, settings, overrides)
    elements = measure(candidate)
    predicted = predicted_gib(elements, batch_size, spatial_dims)
    reasons += [batch_reason, f"memory: about {predicted:.3g} GiB for the batch by nnU-Net's estimate", why_dice]
    reasons.append(_topology_reason(candidate, is_free))
    preprocessing, why_normalisation = _preprocessing(fingerprint, info.channels, configuration, space)
    is_flat = is_dummy_2d(candidate.patch_size)
    if is_flat:
        reasons.append("augmentation: slice by slice, because the patch is more than 3 times as wide as it is deep")
    axes, why_mirror = mirror_axes(settings["mirror_axes"], labels, space.transpose_forward, spatial_dims)
    reasons += [*why_normalisation, why_mirror]
    reasons += [f"override {name}: {json.dumps(value)}" for name, value in overrides.items()]
    return Plan(
        dataset=dataset,
        entry=entry,
        architecture=architecture,
        variant=variant,
        configuration=configuration,
        problem=dataclasses.asdict(problem),
        labels=labels,
        ignore_label=info.ignore_label,
        network=dataclasses.asdict(candidate.config),
        preprocessing=preprocessing,
        patch_size=candidate.patch_size,
        batch_size=batch_size,
        initial_patch_size=initial_patch_size(candidate.patch_size),
        is_batch_dice=is_batch_dice,
        is_dummy_2d=is_flat,
        mirror_axes=axes,
        optimizer=settings["optimizer"],
        schedule=settings["schedule"],
        clip_norm=settings["clip_norm"],
        budget=dict(budget),
        num_folds=num_folds,
        folds=list(folds),
        seeds=list(seeds),
        foreground_fraction=settings["foreground_fraction"],
        inference=dict(inference),
        tolerance_mm=tolerance_mm,
        memory={
            "conv_elements": elements,
            "reference_elements": limit.elements,
            "reference_batch": limit.batch_size,
            "memory_gib": memory_gib,
            "predicted_gib": predicted,
        },
        reasons=reasons,
        overrides=copy.deepcopy(dict(overrides)),
        sources=dict(sources),
    )


def _served_dims(
    module: ModuleType, architecture: str, configuration: str, available: Sequence[str], dataset: str
) -> int:
    if configuration not in _SPATIAL_DIMS:
        raise ValueError(f"unknown configuration {configuration!r}; valid are {', '.join(_SPATIAL_DIMS)}")
    served = [name for name, dims in _SPATIAL_DIMS.items() if dims in module.CONSTRAINTS.spatial_dims]
    if configuration not in served:
        raise ValueError(f"{architecture} has no configuration {configuration}; it serves {', '.join(served)}")
    if configuration not in available:
        raise ValueError(
            f"data set {dataset} has no configuration {configuration}, because its cases are single slices; "
            f"it has {', '.join(available)}, so set the entry's configuration to that"
        )
    return _SPATIAL_DIMS[configuration]


def _base_config(module: ModuleType, architecture: str, variant: str | None) -> Any:
    if variant is None:
        return module.Config()
    check_keys(f"variant of {architecture}", [variant], module.VARIANTS)
    return module.VARIANTS[variant].config


def _preprocessing(
    fingerprint: Fingerprint, channels: Sequence[str], configuration: str, space: Geometry
) -> tuple[Preprocessing, list[str]]:
    schemes = normalisation_schemes(channels)
    masks = nonzero_mask_use(schemes, fingerprint.median_relative_size_after_cropping)
    first, second, third = space.spacing_mm
    preprocessing = Preprocessing(
        configuration=configuration,
        transpose_forward=space.transpose_forward,
        spacing_mm=(None if configuration == "2d" else first, second, third),
        normalisation=schemes,
        uses_nonzero_mask=masks,
        intensity=tuple(
            dict(values) if scheme == "ct" else {}
            for scheme, values in zip(schemes, fingerprint.intensity, strict=True)
        ),
    )
    kept = fingerprint.median_relative_size_after_cropping
    return preprocessing, [
        f"normalisation: {scheme} for channel {channel!r}, by its name"
        + (f", within the nonzero mask because cropping keeps only {kept:.0%} of a case" if mask else "")
        for channel, scheme, mask in zip(channels, schemes, masks, strict=True)
    ]


def _spacing_reasons(space: Geometry, fingerprint: Fingerprint, is_overridden: bool) -> list[str]:
    spacing = ", ".join(f"{value:.4g}" for value in space.spacing_mm)
    medians = np.median(fingerprint.spacings_mm, axis=0)[list(space.transpose_forward)].tolist()
    why = "median of the training cases"
    if is_overridden:
        why = "as set"
    elif medians != list(space.spacing_mm):
        why += f", but for the thick first axis (median {medians[0]:.4g}) their 10th percentile"
    reasons = [f"spacing: {spacing} mm, {why}; the median case then has {sides(space.median_shape)} voxels"]
    if space.transpose_forward != (0, 1, 2):
        reasons.append(f"axes: {'zyx'[space.transpose_forward[0]]} comes first, because its spacing is the largest")
    return reasons


def _patch_reasons(
    candidate: Candidate,
    spacing_mm: Sequence[float],
    median_shape: Sequence[float],
    measure: Measure,
    limit: Reference,
    memory_gib: float,
    overrides: Mapping[str, Any],
) -> list[str]:
    elements = measure(candidate)
    of_budget = (
        f"{elements:,} convolution elements of the {limit.elements:,.0f} that fit {memory_gib:g} GiB "
        f"at a batch of {limit.batch_size}"
    )
    if "patch_size" in overrides:
        excess = "; that is beyond the budget" if limit.is_too_much(elements) else ""
        return [f"patch: {sides(candidate.patch_size)}, as set, with {of_budget}{excess}"]
    start = starting_patch(spacing_mm, median_shape)
    is_cut = any(side < first for side, first in zip(candidate.patch_size, start, strict=True))
    return [
        f"patch: {sides(candidate.patch_size)} because planning starts from {sides(start)} "
        f"(equal sides in mm, within the median shape), sides must be multiples of {sides(candidate.divisor)}, "
        f"and {'cut down to the budget ' if is_cut else ''}it has {of_budget}"
    ]


def _batch(
    candidate: Candidate,
    measure: Measure,
    limit: Reference,
    space: Geometry,
    num_cases: int,
    settings: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> tuple[int, str]:
    if "batch_size" in overrides:
        return overrides["batch_size"], f"batch: {overrides['batch_size']}, as set"
    batch_size, why = fit_batch(measure(candidate), limit, candidate.patch_size, space.median_shape, num_cases)
    largest = settings["max_batch_size"]
    if largest is not None and batch_size > largest:
        return largest, f"batch: {largest} by max_batch_size; without it {batch_size}, because {why}"
    return batch_size, f"batch: {batch_size} because {why}"


def _topology_reason(candidate: Candidate, is_free: bool) -> str:
    if not is_free:
        return f"network: its own depth, which divides sides by {sides(candidate.divisor)}"
    return (
        f"network: {len(candidate.config.strides)} stages that divide sides by {sides(candidate.divisor)}, "
        "because an axis is halved while it keeps 4 voxels and its spacing is within twice the finest"
    )
