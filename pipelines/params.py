"""`params.yaml` as frozen dataclasses: what a study is.

The attributes below are the keys of the file. A key that is not here is an error that lists the valid ones.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from pipelines.typed_values import ParamsError, parse
from repro_models.contract import Choice, Range

_BARE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

_AT_LEAST_ONE: tuple[str, Callable[[Any], bool]] = ("1 or more", lambda value: value >= 1)
_POSITIVE: tuple[str, Callable[[Any], bool]] = ("above 0", lambda value: value > 0)
_NOT_NEGATIVE: tuple[str, Callable[[Any], bool]] = ("0 or more", lambda value: value >= 0)
_BELOW_ONE: tuple[str, Callable[[Any], bool]] = ("in [0, 1)", lambda value: 0 <= value < 1)
# Key -> the rule in words, and whether a value keeps it.
_RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "split.num_folds": _AT_LEAST_ONE,
    "budget.steps": _AT_LEAST_ONE,
    "budget.minutes": _POSITIVE,
    "budget.steps_per_epoch": _AT_LEAST_ONE,
    "budget.validation_steps": _AT_LEAST_ONE,
    "budget.early_stop_epochs": _NOT_NEGATIVE,
    "budget.memory_gib": _POSITIVE,
    "training.optimizer.learning_rate": _POSITIVE,
    "training.optimizer.momentum": _BELOW_ONE,
    "training.optimizer.weight_decay": _NOT_NEGATIVE,
    "training.schedule.exponent": _NOT_NEGATIVE,
    "training.schedule.warmup_fraction": _BELOW_ONE,
    "training.clip_norm": ("above 0, or null", lambda value: value is None or value > 0),
    "training.foreground_fraction": ("in [0, 1]", lambda value: 0 <= value <= 1),
    "training.elastic_probability": ("in [0, 1]", lambda value: 0 <= value <= 1),
    "training.max_batch_size": ("1 or more, or null", lambda value: value is None or value >= 1),
    "inference.overlap": _BELOW_ONE,
    "evaluation.tolerance_mm": _POSITIVE,
    "evaluation.num_bootstrap": _AT_LEAST_ONE,
    "tuning.trials": _NOT_NEGATIVE,
    "tuning.steps": ("1 or more, or null", lambda value: value is None or value >= 1),
    "tuning.minutes": ("above 0, or null", lambda value: value is None or value > 0),
    "tuning.grace_epochs": _AT_LEAST_ONE,
    "tuning.reduction_factor": ("above 1", lambda value: value > 1),
    "tuning.seed": _NOT_NEGATIVE,
    "ray.workers": _AT_LEAST_ONE,
}


@dataclass(frozen=True)
class Dataset:
    """Where a data set comes from.

    Attributes:
        source: a path: a folder in Decathlon or nnU-Net layout or of pictures, a CSV manifest, or a Python file with
            `make(folder)`.
    """

    source: str


@dataclass(frozen=True)
class Entry:
    """One row of the comparison: an architecture in one configuration.

    Attributes:
        architecture: file name in the family's folder; the entry's own name when left out.
        variant: a key of the architecture's `VARIANTS`, or None for the paper's main setting.
        configuration: which way to see the data, among the family's (segmentation: `2d`, `3d_fullres`, `3d_lowres`);
            None for the family's first choice among those that the architecture serves.
        overrides: values that replace the planned ones (`repro plan` shows them).
        target: in place of `architecture`, a network from elsewhere: the dotted path of a class or function that gives
            one.
        arguments: what `target` is called with; `$channels`, `$classes`, `$dims` and `$patch` stand for what the data
            decide.
    """

    architecture: str | None = None
    variant: str | None = None
    configuration: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    target: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """How cases are split.

    Attributes:
        num_folds: folds of the cross-validation, grouped by patient; 1 is the data set's own split into training,
            validation and test, where the family has such data sets.
    """

    num_folds: int = 5


@dataclass(frozen=True)
class PreprocessingSettings:
    """How prepared cases are kept; how they are prepared is planned.

    Attributes:
        compression: of the files in `prepared/`; none lets a training read them without a copy.
    """

    compression: Literal["none", "lz4", "zstd"] = "none"


@dataclass(frozen=True)
class Budget:
    """What every entry may spend.

    Attributes:
        kind: what ends a training: `steps`, `minutes`, or `cpu_minutes` of processor time.
        steps: optimiser steps of one training.
        minutes: of one training.
        steps_per_epoch: steps between two validations (and checkpoints).
        validation_steps: batches of patches in one validation.
        early_stop_epochs: stop after so many epochs without a better validation score; 0 never stops.
        memory_gib: device memory that patch and batch are planned for.
        folds: folds to train, None for all.
        seeds: one training per seed and fold.
    """

    kind: Literal["steps", "minutes", "cpu_minutes"] = "steps"
    steps: int = 250_000
    minutes: float = 60.0
    steps_per_epoch: int = 250
    validation_steps: int = 50
    early_stop_epochs: int = 0
    memory_gib: float = 8.0
    folds: list[int] | None = None
    seeds: list[int] = field(default_factory=lambda: [0])


@dataclass(frozen=True)
class Optimizer:
    """Optimiser of a training; nnU-Net's by default.

    Attributes:
        name: `sgd` with Nesterov momentum, `adam` or `adamw`.
        learning_rate: at the start; the schedule scales it.
        momentum: of `sgd`.
        weight_decay: coupled in `sgd` and `adam`, decoupled in `adamw`.
        decayed: patterns of the names of the parameters that decay; `*` is all.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.99
    weight_decay: float = 3e-5
    decayed: list[str] = field(default_factory=lambda: ["*"])


@dataclass(frozen=True)
class Schedule:
    """Learning rate over a training; nnU-Net's by default.

    Attributes:
        name: polynomial decay, cosine decay, or no decay.
        exponent: of the polynomial.
        warmup_fraction: part of the training over which the rate rises linearly.
    """

    name: Literal["polynomial", "cosine", "constant"] = "polynomial"
    exponent: float = 0.9
    warmup_fraction: float = 0.0


@dataclass(frozen=True)
class Training:
    """Settings all entries share; an entry's overrides come last.

    Attributes:
        recipe: `house` trains all entries by these settings; `paper` by what each architecture's paper says of
            optimiser, schedule, steps and their end, where its file has it.
        loss: of segmentation.
        optimizer: which, and its settings.
        schedule: of the learning rate.
        clip_norm: largest norm of the gradient, None for any.
        foreground_fraction: part of a batch that is centred on foreground.
        elastic_probability: of an elastic deformation of a training patch.
        mirror_axes: `auto` leaves out left-right where two labels differ only in their side; or `all`, `none`, a list.
        max_batch_size: upper bound on the planned batch, None for none.
        rescue: whether a training whose score is still 0 after a tenth of its budget begins anew with gentler steps.
    """

    recipe: Literal["house", "paper"] = "house"
    loss: Literal[
        "dice_cross_entropy",
        "dice",
        "vnet_dice",
        "iou",
        "focal",
        "ms_ssim",
        "unet_3_plus",
        "border_weighted_cross_entropy",
    ] = "dice_cross_entropy"
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    clip_norm: float | None = 12.0
    foreground_fraction: float = 0.33
    elastic_probability: float = 0.0
    mirror_axes: str | list[int] = "auto"
    max_batch_size: int | None = None
    rescue: bool = True


@dataclass(frozen=True)
class Inference:
    """How a case is predicted.

    Attributes:
        overlap: part of a tile that the next tile covers again.
        is_mirrored: whether logits are averaged over all mirrorings of the training.
    """

    overlap: float = 0.5
    is_mirrored: bool = False


@dataclass(frozen=True)
class Evaluation:
    """How predictions are scored.

    Attributes:
        tolerance_mm: distance that the normalised surface distance forgives.
        num_bootstrap: resamplings behind an interval.
    """

    tolerance_mm: float = 2.0
    num_bootstrap: int = 2000


@dataclass(frozen=True)
class Tuning:
    """Search for an entry's settings, for each fold on its own.

    Attributes:
        trials: trials per entry, shared evenly by its folds; 0 keeps the planned values.
        entries: entries to search for, None for all; the others keep the planned values.
        steps: optimiser steps of a trial, None for those of the budget.
        minutes: minutes of a trial, None for those of the budget; which of the two counts, `budget.kind` says.
        grace_epochs: no trial is stopped before so many epochs.
        reduction_factor: at grace_epochs and at each multiple of it by this factor, a trial goes on only if it is
            among the best 1 / reduction_factor of those that came so far.
        seed: of the settings drawn, and of the trainings of all trials.
        space: what to vary: setting to a list of values, or to `{low, high, log}`; None for the default of the family
            and the architecture.
    """

    trials: int = 0
    entries: list[str] | None = None
    steps: int | None = None
    minutes: float | None = None
    grace_epochs: int = 1
    reduction_factor: float = 3.0
    seed: int = 0
    space: dict[str, Any] | None = None

    def trials_for(self, entry: str) -> int:
        """How many trials an entry gets."""
        return self.trials if self.entries is None or entry in self.entries else 0

    def domains(self) -> dict[str, Range | Choice] | None:
        """`space` with every value read.

        Raises:
            ValueError: one that is neither a list of two plain values or more, nor `{low, high, log}`.
        """
        return None if self.space is None else {key: _domain(key, value) for key, value in self.space.items()}


def _domain(key: str, value: Any) -> Range | Choice:
    if isinstance(value, list) and len(value) > 1 and all(isinstance(item, (int, float, str)) for item in value):
        return Choice(tuple(value))
    if isinstance(value, dict) and {"low", "high"} <= value.keys() <= {"low", "high", "log"}:
        low, high, is_log = value["low"], value["high"], value.get("log", False)
        are_numbers = all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in (low, high))
        if are_numbers and isinstance(is_log, bool) and low < high and (low > 0 or not is_log):
            return Range(low, high, is_log)
    raise ValueError(
        f"tuning.space.{key} is {value!r}; it must be a list of two values or more, or {{low: , high: , log: }} with "
        "low < high, and low > 0 where log is true"
    )


@dataclass(frozen=True)
class RaySettings:
    """How a training is spread.

    Attributes:
        workers: processes that share one training's batches. The weights stay the same up to rounding, but not where
            batch normalisation takes its statistics from each worker's share (`unet_3d` by default).
    """

    workers: int = 1


@dataclass(frozen=True)
class Tracking:
    """Where MLflow is.

    Attributes:
        uri: a server or database; None for `MLFLOW_TRACKING_URI`, else `sqlite:///mlflow.db`; "none" for no tracking.
    """

    uri: str | None = None


@dataclass(frozen=True)
class Study:
    """One params file.

    Attributes:
        family: folder of the architectures, and the task.
        datasets: name to data set.
        architectures: entries to compare, by name.
        entries: aliases; a name that is not here is the architecture itself at its defaults.

    The other sections are described at their classes. All but `ray` and `tracking` must stand in the file, if only as
    `{}`, because DVC watches them.
    """

    family: str
    datasets: dict[str, Dataset]
    architectures: list[str]
    entries: dict[str, Entry]
    split: Split
    preprocessing: PreprocessingSettings
    budget: Budget
    training: Training
    inference: Inference
    evaluation: Evaluation
    tuning: Tuning
    ray: RaySettings = field(default_factory=RaySettings)
    tracking: Tracking = field(default_factory=Tracking)

    def entry(self, name: str) -> Entry:
        """The entry called `name`, its architecture as `family/name`, or the target of a network from elsewhere."""
        entry = self.entries.get(name, Entry())
        if entry.target is not None:
            return dataclasses.replace(entry, architecture=entry.target)
        return dataclasses.replace(entry, architecture=f"{self.family}/{entry.architecture or name}")

    def folds(self) -> list[int]:
        """Folds to train."""
        return list(range(self.split.num_folds)) if self.budget.folds is None else self.budget.folds


def read_params(path: Path | str = "params.yaml") -> Study:
    """Read and check a params file.

    Raises:
        ParamsError: no such file, not YAML, an unknown key, or a value out of its range.
    """
    path = Path(path)
    if not path.is_file():
        raise ParamsError(f"{path}: no such file; copy one of studies/*.yaml to {path} or write your own")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    study: Study = parse(Study, values, str(path))
    _check(study, str(path))
    return study


def _check(study: Study, file: str) -> None:
    for kind, names in (("datasets", study.datasets), ("architectures", study.architectures)):
        if not names:
            raise ParamsError(f"{file}: {kind} is empty; name at least one")
        for name in names:
            if not _BARE_NAME.fullmatch(name):
                raise ParamsError(
                    f"{file}: {kind} has {name!r}; it becomes a file and stage name, so use letters, digits, _ and -"
                )
    if len(set(study.architectures)) < len(study.architectures):
        raise ParamsError(f"{file}: architectures names an entry twice: {', '.join(study.architectures)}")
    for key, (rule, is_valid) in _RANGES.items():
        value = functools.reduce(getattr, key.split("."), study)
        if not is_valid(value):
            raise ParamsError(f"{file}: {key} is {value}; it must be {rule}")
    if not study.budget.seeds or not study.folds():
        raise ParamsError(f"{file}: budget.seeds and budget.folds need at least one number each")
    for fold in study.folds():
        if not 0 <= fold < study.split.num_folds:
            raise ParamsError(f"{file}: budget.folds has {fold}; folds are 0 to {study.split.num_folds - 1}")
    for key, numbers in (("budget.folds", study.folds()), ("budget.seeds", study.budget.seeds)):
        for number in numbers:
            # Two trainings of the same fold and seed would write to one folder at the same time.
            if numbers.count(number) > 1:
                raise ParamsError(f"{file}: {key} has {number} twice; name each once")
            if number < 0:
                raise ParamsError(f"{file}: {key} has {number}; a seed is 0 or more")
    for name, entry in study.entries.items():
        _check_entry(name, entry, file)
    _check_tuning(study, file)


def _check_entry(name: str, entry: Entry, file: str) -> None:
    where = f"{file}: entries.{name}"
    if entry.target is None:
        if entry.arguments:
            raise ParamsError(
                f"{where}.arguments are those of a target, which is missing; set target, or overrides.network for an "
                "architecture of ours"
            )
        return
    if "." not in entry.target or "/" in entry.target:
        raise ParamsError(
            f"{where}.target is {entry.target!r}; it must be the dotted path of a class or function, as "
            "package.module.Class"
        )
    for key in ("architecture", "variant"):
        if (value := getattr(entry, key)) is not None:
            raise ParamsError(
                f"{where} has target and {key} ({value}); target and arguments say all of a network from elsewhere, so "
                f"leave {key} out"
            )


def _check_tuning(study: Study, file: str) -> None:
    tuning = study.tuning
    if 0 < tuning.trials < len(study.folds()):
        raise ParamsError(
            f"{file}: tuning.trials is {tuning.trials}, but each of the {len(study.folds())} folds has a search of its "
            f"own; set it to {len(study.folds())} or more, or to 0 to keep the planned values"
        )
    for name in tuning.entries or []:
        if name not in study.architectures and name not in study.entries:
            raise ParamsError(f"{file}: tuning.entries has {name!r}; entries are {', '.join(study.architectures)}")
    try:
        tuning.domains()
    except ValueError as error:
        raise ParamsError(f"{file}: {error}") from error
