"""The architecture behind a name: a file of `repro_models`, or a network from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any

from repro_models import registry


def is_target(name: str) -> bool:
    """Whether the name is the dotted path of a network from elsewhere; names of ours are `family/name`."""
    return "/" not in name


def load_architecture(
    name: str, arguments: Mapping[str, Any], in_channels: int = 1, num_classes: int = 2
) -> ModuleType:
    """What exports `Config`, `CONSTRAINTS` and `build`, as `repro_models/contract.py` says.

    Args:
        name: `family/name`, or the dotted path of a network from elsewhere.
        arguments: what such a network is called with (`network` of a plan); not read for one of ours.
        in_channels: channels of the image on which such a network is tried for the sides it takes.
        num_classes: likewise.

    Raises:
        UnknownArchitectureError: there is no such file.
    """
    if not is_target(name):
        return registry.load(name)
    import json

    return _target(name, json.dumps(dict(arguments)), in_channels, num_classes)


# One object for one network: what planning has measured of it is kept by it.
@lru_cache(maxsize=64)
def _target(name: str, arguments: str, in_channels: int, num_classes: int) -> ModuleType:
    import json

    from pipelines.planning.target import TargetArchitecture

    return TargetArchitecture(name, json.loads(arguments), in_channels, num_classes)
