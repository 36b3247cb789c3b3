"""Plan an entry: the whole configuration of a training, from fingerprint, architecture and overrides.

The rules are nnU-Net's (Isensee et al., 2021; nnunetv2 2.8.1). Two planners size patch and batch: `house`, for any
architecture, and `nnunet`, whose numbers are those of nnU-Net's planners for its own network.
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
from pipelines.planning.architecture import is_target, load_architecture
from pipelines.planning.configurations import (
    SPATIAL_DIMS,
    Geometry,
    configurations,
    default_configuration,
    geometry,
    low_resolution,
)
from pipelines.planning.mirroring import mirror_axes
from pipelines.planning.nnunet_sizing import NnunetSizer
from pipelines.planning.normalisation import nonzero_mask_use, normalisation_schemes
from pipelines.planning.overrides import check_keys, check_overrides, network_config, training_settings
from pipelines.planning.patch import Candidate, initial_patch_size, is_dummy_2d, starting_patch
from pipelines.planning.plan import Plan, Preprocessing
from pipelines.planning.presets import PRESETS
from pipelines.planning.sizing import (
    HouseSizer,
    LossTerms,
    MemoryBudgetError,
    check_network_override,
    check_output_size,
    sides,
)
from pipelines.planning.target import TargetArchitecture, filled_arguments
from repro_models.contract import Problem

if TYPE_CHECKING:
    from pipelines.cases.case import DatasetInfo

_NNUNET = "segmentation/nnunet"
_USUAL_LOSS = "dice_cross_entropy"
Sizer = HouseSizer | NnunetSizer


def plan_entry(
    *,
    dataset: str,
    entry: str,
    architecture: str,
    variant: str | None,
    configuration: str | None,
    overrides: Mapping[str, Any],
    fingerprint: Fingerprint,
    info: DatasetInfo,
    num_training_cases: int,
    memory_gib: float,
    sources: Mapping[str, str],
    training: Mapping[str, Any],
    loss_terms: LossTerms,
    inference: Mapping[str, Any],
    budget: Mapping[str, Any],
    num_folds: int,
    folds: Sequence[int],
    seeds: Sequence[int],
    tolerance_mm: float,
    arguments: Mapping[str, Any] | None = None,
) -> Plan:
    """Plan an entry.

    Args:
        dataset: name of the data set.
        entry: name of the entry.
        architecture: `family/name`, or the dotted path of a network from elsewhere.
        variant: key of the architecture's `VARIANTS`, or None for the defaults of its `Config`.
        configuration: `2d`, `3d_fullres` or `3d_lowres`; None for the first that data and architecture have in common.
        overrides: keys planner (`house` or `nnunet`), preset (key of `PRESETS`), network, patch_size, batch_size,
            max_batch_size, spacing_mm (z, y, x, of full resolution), loss, optimizer, learning_rate, momentum,
            weight_decay, schedule, clip_norm, foreground_fraction, elastic_probability, mirror_axes.
        fingerprint: of the training cases.
        info: channels and labels of the data set.
        num_training_cases: cases with a label, over all folds.
        memory_gib: device memory that patch and batch are planned for.
        sources: source file to hash, copied into the plan.
        training: keys loss, optimizer, schedule, clip_norm, foreground_fraction, elastic_probability, mirror_axes,
            max_batch_size, rescue.
        loss_terms: of the training, whose memory is planned.
        inference: keys overlap, is_mirrored.
        budget: keys kind, steps, minutes, steps_per_epoch, validation_steps, early_stop_epochs.
        num_folds: folds of the data set.
        folds: folds to train.
        seeds: seeds to train.
        tolerance_mm: of the normalised surface distance.
        arguments: what a network from elsewhere is called with.

    Raises:
        ValueError: an unknown architecture, variant, configuration or override; a configuration the data or the
            architecture does not have; an illegal patch; a memory budget that no patch meets; a network from elsewhere
            that cannot be built or returns something else than logits.
    """
    check_overrides(overrides)
    given, why_arguments = dict(arguments or {}), list[str]()
    if is_target(architecture):
        given, why_arguments = filled_arguments(architecture, given)
    module = load_architecture(architecture, given, len(info.channels), len(info.labels))
    is_house = overrides.get("planner", "house") == "house"
    space = geometry(fingerprint, overrides.get("spacing_mm"), puts_slices_first=is_house)
    available = configurations(space)
    if configuration is None:
        _check_takes_any(module, available)
        configuration = default_configuration(available, module.CONSTRAINTS.spatial_dims, architecture, dataset)
    spatial_dims = _served_dims(module, architecture, configuration, available, dataset)
    settings = training_settings(training, overrides)
    labels = dict(info.labels)
    problem = Problem(spatial_dims, len(info.channels), len(labels))
    base = _base_config(module, architecture, variant, overrides.get("preset"))
    network = overrides.get("network", {})
    config = network_config(base, network)
    if is_house:
        is_free = hasattr(module, "with_topology") and not {"strides", "kernel_sizes"} & set(network)
        if not is_free and not is_target(architecture):
            check_output_size(module, config, problem)
        sizer: Sizer = HouseSizer(
            architecture=module,
            config=config,
            problem=problem,
            is_free=is_free,
            memory_gib=memory_gib,
            optimizer=settings["optimizer"],
            loss_terms=loss_terms,
            loss=settings["loss"],
            ignore_label=info.ignore_label,
            preset=overrides.get("preset"),
        )
    else:
        is_free = True
        sizer = _nnunet_sizer(module, architecture, config, spatial_dims, info, memory_gib, overrides)
    try:
        space, candidate, is_batch_dice, why_resolution = _resolution(configuration, space, sizer, overrides, dataset)
    except MemoryBudgetError as error:
        raise MemoryBudgetError(
            f"data set {dataset}, entry {entry}: budget.memory_gib is {memory_gib:g}, but for {architecture} {error}"
        ) from error
    check_network_override(network, config, candidate)
    batch_size, why_batch = _batch(candidate, sizer, space, num_training_cases, settings, overrides)
    memory, why_memory = sizer.memory(candidate, batch_size)
    preprocessing, why_normalisation = _preprocessing(fingerprint, info.channels, configuration, space)
    axes, why_mirror = mirror_axes(settings["mirror_axes"], labels, space.transpose_forward, spatial_dims)
    is_flat = is_dummy_2d(candidate.patch_size)
    features = getattr(module, "features_per_stage", None)
    reasons = [
        *why_arguments,
        *_target_reasons(module, config, spatial_dims),
        *sizer.reasons(),
        *_spacing_reasons(configuration, space, fingerprint, "spacing_mm" in overrides),
        *_patch_reasons(candidate, space, sizer, overrides),
        why_batch,
        why_memory,
        *why_resolution,
        _topology_reason(candidate, is_free),
        *(["augmentation: slice by slice, because the patch is more than 3 times as wide as it is deep"] * is_flat),
        *why_normalisation,
        why_mirror,
        *([f"loss: {settings['loss']}, as set"] * (settings["loss"] != _USUAL_LOSS)),
        *(f"override {name}: {json.dumps(value)}" for name, value in overrides.items()),
    ]
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
        loss=settings["loss"],
        optimizer=settings["optimizer"],
        schedule=settings["schedule"],
        clip_norm=settings["clip_norm"],
        rescue=settings["rescue"],
        budget=dict(budget),
        num_folds=num_folds,
        folds=list(folds),
        seeds=list(seeds),
        foreground_fraction=settings["foreground_fraction"],
        elastic_probability=settings["elastic_probability"],
        inference=dict(inference),
        tolerance_mm=tolerance_mm,
        planning={
            "planner": sizer.planner,
            "preset": sizer.preset,
            "median_shape": list(space.median_shape),
            "features_per_stage": features(candidate.config, spatial_dims) if features else None,
        },
        memory=memory,
        reasons=reasons,
        overrides=copy.deepcopy(dict(overrides)),
        sources=dict(sources),
    )


def _served_dims(
    module: ModuleType, architecture: str, configuration: str, available: Sequence[str], dataset: str
) -> int:
    if configuration not in SPATIAL_DIMS:
        raise ValueError(f"unknown configuration {configuration!r}; valid are {', '.join(SPATIAL_DIMS)}")
    if isinstance(module, TargetArchitecture):
        # What it serves is found by trying, and why it failed is what the user has to know.
        if why_not := module.CONSTRAINTS.refusal(SPATIAL_DIMS[configuration]):
            raise ValueError(f"configuration {configuration}: {why_not}")
        return SPATIAL_DIMS[configuration]
    served = [name for name, dims in SPATIAL_DIMS.items() if dims in module.CONSTRAINTS.spatial_dims]
    if configuration not in served:
        raise ValueError(f"{architecture} has no configuration {configuration}; it serves {', '.join(served)}")
    if configuration not in available:
        raise ValueError(
            f"data set {dataset} has no configuration {configuration}, because its cases are single slices; "
            f"it has {', '.join(available)}, so set the entry's configuration to that"
        )
    return SPATIAL_DIMS[configuration]


def _check_takes_any(module: ModuleType, available: Sequence[str]) -> None:
    """Raise ValueError for a network from elsewhere that takes no image of the data, with what happens to each kind."""
    if not isinstance(module, TargetArchitecture):
        return
    dims = sorted({SPATIAL_DIMS[name] for name in available}, reverse=True)
    refusals = {each: module.CONSTRAINTS.refusal(each) for each in dims}
    if all(refusals.values()):
        told = dict.fromkeys(refusals.values())
        why_not = told if len(told) == 1 else [f"in {each}D, {refusals[each]}" for each in dims]
        raise ValueError(f"no image of these data fits: {'; '.join(why_not)}")


def _target_reasons(module: ModuleType, config: Any, spatial_dims: int) -> list[str]:
    """What was found out about a network from elsewhere."""
    if not isinstance(module, TargetArchitecture):
        return []
    divisor, smallest = module.CONSTRAINTS.per_axis(config, spatial_dims)
    num_unused = module.CONSTRAINTS.num_unused_parameters(config, spatial_dims)
    why_alone = f"parameters: {num_unused:,} get no gradient, so ray.workers above 1 cannot train this network"
    return [
        f"sides: {module.__name__} takes multiples of {sides(divisor)} that are at least {sides(smallest)}, which was "
        "found by running it on shapes",
        *([why_alone] if num_unused else []),
    ]


def _base_config(module: ModuleType, architecture: str, variant: str | None, preset: str | None) -> Any:
    if variant is not None:
        check_keys(f"variant of {architecture}", [variant], module.VARIANTS)
    config = module.Config() if variant is None else module.VARIANTS[variant].config
    if preset is None:
        return config
    if architecture != _NNUNET:
        raise ValueError(
            f"override preset is {preset!r}, but presets are sizes of {_NNUNET}; leave it out of an entry of "
            f"{architecture}"
        )
    return dataclasses.replace(config, **PRESETS[preset].network)


def _nnunet_sizer(
    module: ModuleType,
    architecture: str,
    config: Any,
    spatial_dims: int,
    info: DatasetInfo,
    memory_gib: float,
    overrides: Mapping[str, Any],
) -> NnunetSizer:
    if architecture != _NNUNET:
        raise ValueError(
            f"override planner is nnunet, but its estimate knows {_NNUNET} alone; leave it out of an entry of "
            f"{architecture}"
        )
    fixed = sorted({"strides", "kernel_sizes"} & set(overrides.get("network", {})))
    if fixed:
        raise ValueError(
            f"override planner is nnunet, which sets strides and kernel sizes itself; leave {' and '.join(fixed)} out "
            "of the override network, or plan with house"
        )
    # Of a residual encoder without a preset: the one for the smallest device.
    preset = overrides.get("preset") or ("plain" if config.residual_blocks is None else "M")
    num_outputs = len(info.labels) + (info.ignore_label is not None)
    return NnunetSizer(module, config, spatial_dims, num_outputs, preset, memory_gib)


def _resolution(
    configuration: str, space: Geometry, sizer: Sizer, overrides: Mapping[str, Any], dataset: str
) -> tuple[Geometry, Candidate, bool, list[str]]:
    """Geometry of the configuration, its patch, whether Dice is taken over the batch, and why.

    Args:
        configuration: key of `SPATIAL_DIMS`.
        space: full resolution.
        sizer: of the planner.
        overrides: of the entry.
        dataset: for the message.

    Raises:
        ValueError: an illegal patch, or no such configuration.
        MemoryBudgetError: no patch fits.
    """
    dims = SPATIAL_DIMS[configuration]

    def patch_at(spacing_mm: Sequence[float], median_shape: Sequence[float], is_set: bool) -> Candidate:
        if is_set and "patch_size" in overrides:
            return sizer.set_patch(spacing_mm, overrides["patch_size"])
        return sizer.fit_patch(spacing_mm, median_shape)

    is_lowres = configuration == "3d_lowres"
    full = patch_at(space.spacing_mm[-dims:], space.median_shape[-dims:], is_set=not is_lowres)
    if dims == 2:
        return space, full, True, ["batch Dice: on, as always in 2D"]
    low, why = low_resolution(space, full.patch_size, lambda spacing, shape: sizer.fit_patch(spacing, shape).patch_size)
    if not is_lowres:
        exists, dice = ("there is one", "on") if low else ("none", "off")
        reasons = [
            f"low resolution: {exists}, because {why}",
            f"batch Dice: {dice}, because it is on at full resolution where there is a low one",
        ]
        return space, full, low is not None, reasons
    if low is None:
        raise ValueError(
            f"data set {dataset} has no configuration 3d_lowres, because {why}; set the entry's configuration to "
            "3d_fullres"
        )
    candidate = patch_at(low.spacing_mm, low.median_shape, is_set=True)
    return low, candidate, False, [f"low resolution: {why}", "batch Dice: off, as always at low resolution"]


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


def _spacing_reasons(configuration: str, space: Geometry, fingerprint: Fingerprint, is_overridden: bool) -> list[str]:
    spacing = ", ".join(f"{value:.4g}" for value in space.spacing_mm)
    medians = np.percentile(fingerprint.spacings_mm, 50, axis=0)[list(space.transpose_forward)].tolist()
    why = "median of the training cases"
    if configuration == "3d_lowres":
        why = "full resolution coarsened in steps of 3 %, the finer axes first"
    elif is_overridden:
        why = "as set"
    elif medians != list(space.spacing_mm):
        why += f", but for the thick axis (median {max(medians):.4g}) their 10th percentile"
    reasons = [f"spacing: {spacing} mm, {why}; the median case then has {sides(space.median_shape)} voxels"]
    if space.transpose_forward != (0, 1, 2):
        has_slices = space.median_shape[0] == 1
        reason = "the cases have one voxel along it" if has_slices else "its spacing is the largest"
        reasons.append(f"axes: {'zyx'[space.transpose_forward[0]]} comes first, because {reason}")
    return reasons


def _patch_reasons(candidate: Candidate, space: Geometry, sizer: Sizer, overrides: Mapping[str, Any]) -> list[str]:
    use = sizer.use(candidate)
    if "patch_size" in overrides:
        excess = ", which is beyond the budget" if sizer.is_too_much(candidate) else ""
        return [f"patch: {sides(candidate.patch_size)}, as set; {use}{excess}"]
    dims = len(candidate.patch_size)
    start = starting_patch(space.spacing_mm[-dims:], space.median_shape[-dims:])
    is_cut = any(side < first for side, first in zip(candidate.patch_size, start, strict=True))
    return [
        f"patch: {sides(candidate.patch_size)} because planning starts from {sides(start)} "
        f"(equal sides in mm, within the median shape), sides must be multiples of {sides(candidate.divisor)}, "
        f"and {'cut down to the budget ' if is_cut else ''}{use}"
    ]


def _batch(
    candidate: Candidate,
    sizer: Sizer,
    space: Geometry,
    num_cases: int,
    settings: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> tuple[int, str]:
    if "batch_size" in overrides:
        return overrides["batch_size"], f"batch: {overrides['batch_size']}, as set"
    batch_size, why = sizer.fit_batch(candidate, space.num_voxels, num_cases, settings["max_batch_size"])
    return batch_size, f"batch: {batch_size} because {why}"


def _topology_reason(candidate: Candidate, is_free: bool) -> str:
    if not is_free:
        return f"network: its own depth, which divides sides by {sides(candidate.divisor)}"
    if len(candidate.config.strides) == 1:
        return "network: one stage, because no axis has 8 voxels to halve; such a network has no output to train"
    return (
        f"network: {len(candidate.config.strides)} stages that divide sides by {sides(candidate.divisor)}, "
        "because an axis is halved while it keeps 4 voxels and its spacing is within twice the finest"
    )
