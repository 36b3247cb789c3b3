"""The plan of an entry: the whole resolved configuration, and why it is so.

A plan is JSON that a person can read and every later stage obeys.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.atomic_files import write_text

_TOPOLOGY = ("strides", "kernel_sizes")


@dataclass(frozen=True)
class Preprocessing:
    """How a case becomes what the network sees. Entries with equal preprocessing share prepared files.

    Attributes:
        configuration: `2d`, `3d_fullres` or `3d_lowres`.
        transpose_forward: axis of the image (z, y, x) that becomes axis 0, 1, 2; axis 0 has the largest spacing, or the
            one voxel of slices.
        spacing_mm: target spacing in transposed order; None for the slice axis of `2d`, which keeps its spacing.
        normalisation: scheme of each channel: `ct`, `zscore`, `rescale_to_0_1`, `rgb_to_0_1` or `nonorm`.
        uses_nonzero_mask: for each channel, whether only voxels of the nonzero mask are normalised.
        intensity: for each `ct` channel its foreground statistics (keys as in the fingerprint); empty for other
            channels, whose prepared cases then do not depend on the rest of the data set.
    """

    configuration: str
    transpose_forward: tuple[int, int, int]
    spacing_mm: tuple[float | None, float, float]
    normalisation: tuple[str, ...]
    uses_nonzero_mask: tuple[bool, ...]
    intensity: tuple[dict[str, float], ...]

    def digest(self) -> str:
        """Hexadecimal SHA-256 of the values."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Plan:
    """Everything training, prediction and evaluation of an entry need to know.

    All sizes and axes are in transposed order (see `Preprocessing.transpose_forward`); in `2d` they leave out axis 0.

    Attributes:
        dataset: name of the data set.
        entry: name of the entry.
        architecture: `family/name`.
        variant: key of the architecture's `VARIANTS`, None for the defaults of its `Config`.
        configuration: `2d`, `3d_fullres` or `3d_lowres`.
        problem: keys spatial_dims, in_channels, num_classes.
        labels: class name to value, background included, ignore label left out.
        ignore_label: value of voxels without annotation.
        network: all fields of the architecture's `Config`.
        preprocessing: see there.
        patch_size: voxels of a training patch.
        batch_size: patches of a global batch.
        initial_patch_size: voxels cropped before rotation and scaling, so that no corner of the patch is empty.
        is_batch_dice: whether sums of Dice (and IoU) run over the batch before they are divided.
        is_dummy_2d: whether patches are rotated and scaled slice by slice.
        mirror_axes: axes of the patch along which it may be mirrored.
        loss: its name, as in params.yaml.
        optimizer: keys name (`sgd`, `adam`, `adamw`), learning_rate, momentum, weight_decay, decayed (patterns of
            parameter names).
        schedule: keys name (`polynomial`, `cosine`, `constant`), exponent, warmup_fraction.
        clip_norm: largest norm of the gradient, None for any.
        rescue: whether a collapsed training begins anew with gentler steps.
        budget: keys kind, steps, minutes, steps_per_epoch, validation_steps, early_stop_epochs.
        num_folds: folds of the data set.
        folds: folds to train.
        seeds: one training per fold and seed.
        foreground_fraction: part of a batch centred on foreground.
        elastic_probability: of an elastic deformation of a training patch.
        inference: keys overlap, is_mirrored.
        tolerance_mm: of the normalised surface distance.
        planning: keys planner (`house`, `nnunet`), preset (of nnU-Net's planners, or None), median_shape (voxels of the
            median case at the plan's spacing, of three axes also in 2D), features_per_stage (where the architecture
            tells, else None).
        memory: keys memory_gib (the budget), predicted_gib (of the whole batch). With planner `house` also split_gib
            (kind of memory to its part, keys as in `StepMemory`), resident_gib (by how much a process on a CPU grows)
            and unverified_gpu_gib (on a GPU, where nobody has measured it); with `nnunet` conv_elements (of one
            patch), reference_elements (what fits `memory_gib` at `reference_batch` patches), reference_batch.
        reasons: one sentence per decision.
        overrides: what the user set for this entry.
        sources: source file to hash.
    """

    dataset: str
    entry: str
    architecture: str
    variant: str | None
    configuration: str
    problem: dict[str, int]
    labels: dict[str, int]
    ignore_label: int | None
    network: dict[str, Any]
    preprocessing: Preprocessing
    patch_size: tuple[int, ...]
    batch_size: int
    initial_patch_size: tuple[int, ...]
    is_batch_dice: bool
    is_dummy_2d: bool
    mirror_axes: tuple[int, ...]
    loss: str
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    clip_norm: float | None
    rescue: bool
    budget: dict[str, Any]
    num_folds: int
    folds: list[int]
    seeds: list[int]
    foreground_fraction: float
    elastic_probability: float
    inference: dict[str, Any]
    tolerance_mm: float
    planning: dict[str, Any]
    memory: dict[str, Any]
    reasons: list[str]
    overrides: dict[str, Any]
    sources: dict[str, str]

    def to_json(self) -> str:
        """All fields, in their order."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=False) + "\n"

    def summary(self) -> dict[str, Any]:
        """What `repro plan` shows of a configuration; sizes in transposed order, in `2d` without axis 0."""
        dims, features = self.problem["spatial_dims"], self.planning["features_per_stage"]
        topology: dict[str, Any] = {name: self.network[name] for name in _TOPOLOGY if name in self.network}
        if features is not None:
            topology["features_per_stage"] = features
        return {
            "spacing": self.preprocessing.spacing_mm[-dims:],
            "median_shape": self.planning["median_shape"][-dims:],
            "patch_size": self.patch_size,
            "batch_size": self.batch_size,
            **topology,
            "batch_dice": self.is_batch_dice,
            "network": {key: value for key, value in self.network.items() if key not in _TOPOLOGY},
            "normalisation": self.preprocessing.normalisation,
            "uses_nonzero_mask": self.preprocessing.uses_nonzero_mask,
            "memory": self.memory,
        }

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Inverse of `to_json`.

        Raises:
            ValueError: not the JSON of a plan of this version.
        """
        return cls.from_values(json.loads(text))

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Plan:
        """The plan whose JSON values these are.

        Raises:
            ValueError: not those of a plan of this version.
        """
        values = checked_values(cls, values)
        preprocessing = {name: as_tuples(value) for name, value in values["preprocessing"].items()}
        values["preprocessing"] = Preprocessing(**preprocessing)
        for name in ("network", "patch_size", "initial_patch_size", "mirror_axes"):
            values[name] = as_tuples(values[name])
        return cls(**values)


def checked_values(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """A copy of the JSON values of a plan of class `kind`.

    Raises:
        ValueError: their keys are not the fields of the class.
    """
    fields = {item.name for item in dataclasses.fields(kind)}
    if set(values) != fields:
        differing = ", ".join(sorted(fields ^ set(values)))
        raise ValueError(f"not a plan of this version (differing keys: {differing}); run the plan stage again")
    return dict(values)


def as_tuples(value: Any) -> Any:
    """Turn lists into tuples, at every depth; JSON and YAML know lists only."""
    if isinstance(value, dict):
        return {key: as_tuples(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(as_tuples(item) for item in value)
    return value


def write_plan(path: Path | str, plan: Plan) -> None:
    """Write a plan as JSON."""
    write_text(path, plan.to_json())


def read_plan(path: Path | str) -> Plan:
    """Read a plan.

    Raises:
        ValueError: the file is not a plan of this version.
    """
    try:
        return Plan.from_json(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
