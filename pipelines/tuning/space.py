"""What a search may vary, and what the settings of a trial make of a plan."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from repro_models.contract import Choice, Range

Domain = Range | Choice
# Setting -> value, as a trial has drawn them.
Settings = dict[str, Any]

# Learning rate and weight decay that an optimiser is usually run with: of `sgd` nnU-Net's (Isensee et al., 2021), of
# the others PyTorch's defaults.
_USUAL = {"sgd": (0.01, 3e-5), "adam": (1e-3, 0.0), "adamw": (1e-3, 1e-2)}
_FACTORS = Range(0.1, 10.0, is_log=True)
_OF_OPTIMIZER = ("learning_rate", "weight_decay")
_TRAINING_SETTINGS = (
    "optimizer",
    "learning_rate",
    "learning_rate_factor",
    "weight_decay",
    "weight_decay_factor",
    "momentum",
    "schedule",
    "warmup_fraction",
)
_NETWORK = "network."


def default_space(
    plan: Mapping[str, Any], optimizers: Sequence[str], declared: Mapping[str, Domain]
) -> dict[str, Domain]:
    """What is varied where the study does not say.

    Args:
        plan: the plan as JSON values.
        optimizers: those that the family tries; the plan's own is one of them in any case.
        declared: `SEARCH_SPACE` of the architecture.

    Returns:
        Choice of the optimiser where there is one, learning rate and weight decay by a factor of up to ten either way,
        and what the architecture declares as `network.FIELD`, but for fields that the user has set for the entry.
    """
    names = list(dict.fromkeys([plan["optimizer"]["name"], *optimizers]))
    space: dict[str, Domain] = {"optimizer": Choice(tuple(names))} if len(names) > 1 else {}
    space |= {f"{setting}_factor": _FACTORS for setting in _OF_OPTIMIZER}
    is_set = plan["overrides"].get("network", {})
    return space | {_NETWORK + field: domain for field, domain in declared.items() if field not in is_set}


def check_space(space: Mapping[str, Domain], network_fields: Sequence[str]) -> None:
    """Check the settings a user wants varied.

    Args:
        space: setting -> what it is drawn from.
        network_fields: of the architecture's `Config`.

    Raises:
        ValueError: an unknown setting, or a value and its factor at once.
    """
    known = [*_TRAINING_SETTINGS, *(_NETWORK + field for field in network_fields)]
    for setting in space:
        if setting not in known:
            near = difflib.get_close_matches(setting, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise ValueError(f"tuning.space has {setting!r}; {hint}settings are {', '.join(known)}")
    for setting in _OF_OPTIMIZER:
        if {setting, f"{setting}_factor"} <= space.keys():
            raise ValueError(f"tuning.space has {setting} and {setting}_factor, which both decide it; leave one out")


def planned_settings(plan: Mapping[str, Any], space: Mapping[str, Domain]) -> Settings | None:
    """The settings of the space that give the plan as it is; None where it lies outside."""
    optimizer, schedule = plan["optimizer"], plan["schedule"]
    planned = {f"{setting}_factor": 1.0 for setting in _OF_OPTIMIZER} | {
        "optimizer": optimizer["name"],
        "schedule": schedule["name"],
        "warmup_fraction": schedule["warmup_fraction"],
        **{setting: optimizer[setting] for setting in (*_OF_OPTIMIZER, "momentum") if setting in optimizer},
        **{_NETWORK + field: value for field, value in plan["network"].items()},
    }
    settings = {setting: planned.get(setting) for setting in space}
    return settings if all(_holds(domain, settings[setting]) for setting, domain in space.items()) else None


def _holds(domain: Domain, value: Any) -> bool:
    if isinstance(domain, Choice):
        return value in domain.values
    return isinstance(value, (int, float)) and domain.low <= value <= domain.high


def tuned_values(plan: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """What replaces the plan's values.

    A factor multiplies the planned value where the optimiser is the planned one, else the value usual for it: a rate
    that suits one optimiser is no measure for another.

    Args:
        plan: the plan as JSON values.
        settings: of a trial; keys as in `check_space`.

    Returns:
        Keys optimizer and schedule, whole; and network with the fields that replace planned ones, where there are such.
    """
    optimizer, schedule = copy.deepcopy((plan["optimizer"], plan["schedule"]))
    name = settings.get("optimizer", optimizer["name"])
    usual = dict(zip(_OF_OPTIMIZER, _USUAL[name], strict=True)) if name != optimizer["name"] else optimizer
    optimizer["name"] = name
    for setting in _OF_OPTIMIZER:
        value = settings.get(setting, usual[setting] * settings.get(f"{setting}_factor", 1))
        # Six digits say the same and can be read.
        optimizer[setting] = float(f"{value:.6g}")
    if "momentum" in settings:
        optimizer["momentum"] = settings["momentum"]
    for setting, key in (("schedule", "name"), ("warmup_fraction", "warmup_fraction")):
        if setting in settings:
            schedule[key] = settings[setting]
    network = {
        setting.removeprefix(_NETWORK): value for setting, value in settings.items() if setting.startswith(_NETWORK)
    }
    return {"optimizer": optimizer, "schedule": schedule} | ({"network": network} if network else {})


def resolved_settings(plan: Mapping[str, Any], settings: Settings) -> Settings:
    """What the settings of a trial come to, factors worked out: what was varied -> value it had."""
    values = tuned_values(plan, settings)
    schedule = {"schedule": values["schedule"]["name"], "warmup_fraction": values["schedule"]["warmup_fraction"]}
    resolved = values["optimizer"] | {"optimizer": values["optimizer"]["name"]} | schedule | settings
    return {
        name: values["optimizer"][name] if name in _OF_OPTIMIZER else resolved[name]
        for name in (setting.removesuffix("_factor") for setting in settings)
    }
