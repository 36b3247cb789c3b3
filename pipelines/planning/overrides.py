"""What a user may set for an entry, checked."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipelines.planning.plan import as_tuples
from pipelines.planning.presets import PRESETS

_OPTIMIZERS = ("sgd", "adam", "adamw")
_SCHEDULES = ("polynomial", "cosine", "constant")
_PLANNERS = ("house", "nnunet")
_LOSSES = (
    "dice_cross_entropy",
    "dice",
    "vnet_dice",
    "iou",
    "focal",
    "ms_ssim",
    "unet_3_plus",
    "border_weighted_cross_entropy",
)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_named(names: tuple[str, ...]) -> Callable[[Any], bool]:
    return lambda value: value in names if isinstance(value, str) else isinstance(value, dict)


_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "planner": (" or ".join(_PLANNERS), lambda value: value in _PLANNERS),
    "preset": (f"one of {', '.join(PRESETS)}", lambda value: isinstance(value, str) and value in PRESETS),
    "network": ("a mapping of fields of the architecture's Config", lambda value: isinstance(value, dict)),
    "patch_size": (
        "a list of whole numbers, one per axis of the patch in transposed order",
        lambda value: isinstance(value, list) and bool(value) and all(map(_is_count, value)),
    ),
    "batch_size": ("a whole number above 0", _is_count),
    "max_batch_size": ("a whole number above 0, or null", lambda value: value is None or _is_count(value)),
    "spacing_mm": (
        "three numbers above 0, for z, y and x",
        lambda value: isinstance(value, list) and len(value) == 3 and all(_is_number(v) and v > 0 for v in value),
    ),
    "loss": (f"one of {', '.join(_LOSSES)}", lambda value: isinstance(value, str) and value in _LOSSES),
    "optimizer": ("sgd, adam, adamw, or a mapping of the optimiser's settings", _is_named(_OPTIMIZERS)),
    "learning_rate": ("a number above 0", lambda value: _is_number(value) and value > 0),
    "momentum": ("a number in [0, 1)", lambda value: _is_number(value) and 0 <= value < 1),
    "weight_decay": ("a number, 0 or above", lambda value: _is_number(value) and value >= 0),
    "schedule": ("polynomial, cosine, constant, or a mapping of the schedule's settings", _is_named(_SCHEDULES)),
    "clip_norm": ("a number above 0, or null", lambda value: value is None or (_is_number(value) and value > 0)),
    "foreground_fraction": ("a number in [0, 1]", lambda value: _is_number(value) and 0 <= value <= 1),
    "elastic_probability": ("a number in [0, 1]", lambda value: _is_number(value) and 0 <= value <= 1),
    "mirror_axes": (
        "auto, all, none or a list of axes",
        lambda value: isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, int) for v in value)),
    ),
}
_PLAIN_SETTINGS = (
    "loss",
    "clip_norm",
    "foreground_fraction",
    "elastic_probability",
    "mirror_axes",
    "max_batch_size",
)
_OPTIMIZER_SHORTHANDS = ("learning_rate", "momentum", "weight_decay")


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """Check keys and the kind of values.

    Raises:
        ValueError: an unknown key or an impossible value.
    """
    check_keys("override", overrides, _RULES)
    for key, value in overrides.items():
        rule, is_valid = _RULES[key]
        if not is_valid(value):
            raise ValueError(f"override {key} is {value!r}; it must be {rule}")


def check_keys(kind: str, keys: Iterable[str], valid: Iterable[str]) -> None:
    """Raise ValueError for a key that is not valid; the message has near names first."""
    valid = list(valid)
    for key in keys:
        if key not in valid:
            near = difflib.get_close_matches(str(key), valid, n=3, cutoff=0.5)
            listed = [*near, *(name for name in valid if name not in near)]
            raise ValueError(f"unknown {kind} {key!r}; valid are {', '.join(listed)}")


def network_config(config: Any, network: Mapping[str, Any]) -> Any:
    """`config`, an architecture's `Config`, with some fields replaced; lists become tuples.

    Raises:
        ValueError: no such field, or a value of another kind than the field's.
    """
    check_keys("override network", network, [item.name for item in dataclasses.fields(config)])
    hints = typing.get_type_hints(type(config))
    for name, value in network.items():
        if not is_of(hints[name], value):
            default = getattr(type(config)(), name)
            raise ValueError(f"override network.{name} is {value!r}; it must be of a kind with its default {default!r}")
    return dataclasses.replace(config, **as_tuples(dict(network)))


def is_of(hint: Any, value: Any) -> bool:
    """Whether a value of YAML or JSON, where tuples are lists, fits the type of a field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is typing.Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(is_of(option, value) for option in arguments)
    if origin in (tuple, Sequence):
        is_sized = origin is tuple and arguments[-1] is not Ellipsis
        return (
            isinstance(value, (list, tuple))
            and (not is_sized or len(value) == len(arguments))
            and all(is_of(arguments[0], item) for item in value)
        )
    if hint is float:
        return _is_number(value)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def training_settings(training: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Training settings of the study with the entry's overrides in place; neither argument is changed.

    Args:
        training: keys loss, optimizer, schedule, clip_norm, foreground_fraction, elastic_probability, mirror_axes,
            max_batch_size.
        overrides: already checked.

    Raises:
        ValueError: an unknown setting of optimiser or schedule, or another optimiser without its learning rate.
    """
    settings = copy.deepcopy(dict(training))
    for part, names in (("optimizer", _OPTIMIZERS), ("schedule", _SCHEDULES)):
        given = overrides.get(part, {})
        changes = {"name": given} if isinstance(given, str) else given
        check_keys(f"override {part}", changes, settings[part])
        settings[part] |= changes
        if settings[part]["name"] not in names:
            raise ValueError(f"{part} is {settings[part]['name']!r}; it must be {' or '.join(names)}")
    settings["optimizer"] |= {key: overrides[key] for key in _OPTIMIZER_SHORTHANDS if key in overrides}
    optimizer = overrides.get("optimizer", {})
    has_rate = "learning_rate" in overrides or (isinstance(optimizer, dict) and "learning_rate" in optimizer)
    if settings["optimizer"]["name"] != training["optimizer"]["name"] and not has_rate:
        raise ValueError(
            f"override optimizer is {settings['optimizer']['name']!r}, but the learning rate "
            f"{settings['optimizer']['learning_rate']} is that of {training['optimizer']['name']}; "
            "set the override learning_rate too"
        )
    for key in _PLAIN_SETTINGS:
        settings[key] = overrides.get(key, settings[key])
    return settings
