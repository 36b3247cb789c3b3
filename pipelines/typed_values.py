"""Plain values, as YAML has them, into frozen dataclasses.

Types are checked, and an unknown key is an error that lists the valid ones.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from typing import Any, Literal


class ParamsError(ValueError):
    """A key or value of a params file that a study cannot have."""


def parse(kind: Any, value: Any, file: str, where: str = "") -> Any:
    """`value` as YAML has it, as a `kind`.

    Args:
        kind: a dataclass or a type; dictionaries, lists, unions and `Literal` included.
        value: plain values.
        file: it stands in, for messages.
        where: in the file, as `section.key`.

    Raises:
        ParamsError: an unknown or missing key, or a value of another type.
    """
    if dataclasses.is_dataclass(kind):
        return _parse_dataclass(kind, value, file, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value not in arguments:
            raise ParamsError(f"{file}: {where} is {value!r}; it must be one of {', '.join(map(str, arguments))}")
        return value
    if origin in (types.UnionType, typing.Union):
        for option in arguments:
            if _fits(option, value):
                return parse(option, value, file, where)
    elif _fits(kind, value):
        if origin is dict:
            for key in value:
                if not _fits(arguments[0], key):
                    raise ParamsError(f"{file}: {where} has the key {key!r}; it must be {_describe(arguments[0])}")
            return {key: parse(arguments[1], item, file, f"{where}.{key}") for key, item in value.items()}
        if origin is list:
            return [parse(arguments[0], item, file, f"{where}[{index}]") for index, item in enumerate(value)]
        return float(value) if kind is float else value
    raise ParamsError(f"{file}: {where} is {value!r}; it must be {_describe(kind)}")


def _fits(kind: Any, value: Any) -> bool:
    if kind is Any:
        return True
    if kind is type(None):
        return value is None
    plain = typing.get_origin(kind) or kind
    if plain in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float)) if plain is float else isinstance(value, plain)


def _describe(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    options = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    words = {dict: "a mapping", list: "a list"}
    return " or ".join(names.get(option) or words.get(typing.get_origin(option), str(option)) for option in options)


def _parse_dataclass(kind: Any, values: Any, file: str, where: str) -> Any:
    if not isinstance(values, dict):
        raise ParamsError(f"{file}: {where or 'the file'} is {values!r}; it must be a mapping of keys to values")
    fields, hints = {item.name: item for item in dataclasses.fields(kind)}, typing.get_type_hints(kind)
    prefix = f"{where}." if where else ""
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            raise ParamsError(f"{file}: unknown key {prefix}{key}{hint} Valid keys here: {', '.join(fields)}")
    for name, item in fields.items():
        has_default = item.default is not dataclasses.MISSING or item.default_factory is not dataclasses.MISSING
        if name not in values and not has_default:
            how = f", `{name}: {{}}` for the defaults" if dataclasses.is_dataclass(hints[name]) else ""
            raise ParamsError(f"{file}: {prefix}{name} is missing; add it{how} (keys here: {', '.join(fields)})")
    return kind(**{key: parse(hints[key], value, file, prefix + key) for key, value in values.items()})
