"""docs/reference/params.md says what pipelines/params.py reads: every key, with its default."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.params import Study
from pipelines.planning.overrides import check_overrides
from pipelines.tuning.space import check_space
from repro_models.contract import Range

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "params.md").read_text(encoding="utf-8")
# "| `key` | default | meaning |"; a default is code, or words where the key must be given.
ROWS = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+?) \|", PAGE, re.MULTILINE))


def keys_of(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key below a dataclass with its default; MISSING where it must be given."""
    hints = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        hint, key = hints[item.name], prefix + item.name
        values = typing.get_args(hint)
        if dataclasses.is_dataclass(hint):
            yield from keys_of(hint, f"{key}.")
        elif typing.get_origin(hint) is dict and dataclasses.is_dataclass(values[1]):
            yield from keys_of(values[1], f"{key}.NAME.")
        elif item.default_factory is not dataclasses.MISSING:
            yield key, item.default_factory()
        else:
            yield key, item.default


def section(title: str) -> str:
    """The text below a heading of the second level."""
    found = re.search(rf"^## {title}$(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


KEYS = dict(keys_of(Study))


@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_a_study_stands_on_the_page_with_its_default(key: str) -> None:
    assert key in ROWS
    if KEYS[key] is dataclasses.MISSING:
        assert ROWS[key] == "must be given"
    else:
        assert yaml.safe_load(ROWS[key].strip("`")) == KEYS[key]


def test_the_page_has_no_other_keys() -> None:
    named = set(re.findall(r"^\| `([^`]+)` \|", section("Keys"), re.MULTILINE))
    assert named == set(KEYS)


def test_every_override_stands_on_the_page() -> None:
    with pytest.raises(ValueError) as error:
        check_overrides({"no such override": 1})
    _, valid = str(error.value).split("valid are ")
    assert set(valid.split(", ")) <= ROWS.keys()


def test_every_setting_of_a_search_stands_on_the_page() -> None:
    with pytest.raises(ValueError) as error:
        check_space({"no such setting": Range(0, 1)}, ["FIELD"])
    _, valid = str(error.value).split("settings are ")
    assert set(valid.split(", ")) == set(re.findall(r"`([^`]+)`", "".join(first_cells(section("Search space")))))


def first_cells(text: str) -> list[str]:
    """The first cell of every row of the tables in a text, heads left out."""
    return re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE)
