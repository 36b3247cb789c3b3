from __future__ import annotations

import re

import numpy as np
import pytest

from pipelines.reporting.curve_figures import learning_curves
from pipelines.reporting.figures import (
    ENTRY_COLOURS,
    INK,
    OTHERS_COLOUR,
    REFERENCE_COLOUR,
    entry_colours,
    page_colour,
    to_data_address,
    to_svg,
)
from pipelines.reporting.page import page


def figure():
    return learning_curves({"a": [(np.arange(2), np.array([1.0, 2.0]))]}, entry_colours(["a"]), "loss")


def test_references_are_grey_and_entries_differ():
    colours = entry_colours(["a", "reference", "b"], ["reference"])
    assert colours["reference"] == REFERENCE_COLOUR
    assert len(set(colours.values())) == 3


def test_of_many_entries_the_first_stands_out():
    colours = entry_colours([f"e{number}" for number in range(20)])
    assert colours.pop("e0") == ENTRY_COLOURS[0]
    assert set(colours.values()) == {OTHERS_COLOUR}
    assert len(colours) == 19


def test_svg_text_is_text_ids_are_prefixed_and_ink_follows_the_page():
    svg = to_svg(figure(), "loss", "The <loss>")
    assert svg.startswith('<svg role="img" aria-label="The &lt;loss&gt;"')
    assert ">epoch</text>" in svg
    assert INK not in svg
    assert "currentColor" in svg
    assert all(found.startswith("loss-") for found in re.findall(r'\bid="([^"]*)', svg))
    assert "<metadata" not in svg or "<dc:date" not in svg
    assert svg == to_svg(figure(), "loss", "The <loss>")


@pytest.mark.parametrize("colour", [*ENTRY_COLOURS, REFERENCE_COLOUR, OTHERS_COLOUR])
def test_every_colour_of_a_figure_has_a_light_and_a_dark_value_in_the_page(colour):
    name = page_colour(colour).removeprefix("var(").removesuffix(")")
    light, dark = re.findall(rf"{name}: (#[0-9a-f]{{6}});", page("", "", []))
    assert light == colour.lower() != dark


def test_the_colours_of_a_figure_are_those_of_the_page():
    svg = to_svg(figure(), "loss", "")
    assert "var(--entry-0)" in svg
    assert ENTRY_COLOURS[0].lower() not in svg


def test_png_address():
    assert to_data_address(b"\x89PNG") == "data:image/png;base64,iVBORw=="
