from __future__ import annotations

import math
from itertools import pairwise

import pytest

from pipelines.reporting.figures import entry_colours
from pipelines.reporting.score_figures import Strip, strips

COLOURS = entry_colours(["a", "b"])


def strip(entry, group="", values=(0.7, 0.8, 0.9)):
    return Strip(entry, group, tuple(values), 0.8, 0.75, 0.85)


def names(axes):
    """Names of the rows and where they stand, top first."""
    found = sorted((text.get_position()[1], text.get_text()) for text in axes.texts if text.get_ha() == "right")
    return [name for _, name in found], [place for place, _ in found]


def points(axes):
    return axes.collections[0].get_offsets()


def test_every_value_is_a_point_on_the_row_of_its_entry():
    (axes,) = strips([strip("a"), strip("b", values=(0.1, 0.2))], COLOURS, "Dice").axes
    found = points(axes)
    assert sorted(found[:, 0]) == [0.1, 0.2, 0.7, 0.8, 0.9]
    assert [round(height) for height in found[:, 1]] == [0, 0, 0, 1, 1]
    assert names(axes)[0] == ["a", "b"]
    assert axes.yaxis_inverted()


def test_the_mean_and_its_interval_stand_on_the_row():
    (axes,) = strips([strip("a")], COLOURS, "Dice").axes
    (interval,) = axes.collections[1].get_segments()
    assert interval.tolist() == [[0.75, 0.0], [0.85, 0.0]]
    assert list(axes.lines[0].get_xdata()) == [0.8]


def test_equal_values_do_not_hide_each_other():
    (axes,) = strips([strip("a", values=[0.5] * 50)], COLOURS, "Dice").axes
    heights = sorted(points(axes)[:, 1])
    assert min(after - before for before, after in pairwise(heights)) > 0.001
    assert heights[-1] - heights[0] < 0.7


def test_groups_stand_one_below_the_other_under_their_names():
    figure = strips([strip(entry, group) for group in ("liver", "spleen") for entry in "ab"], COLOURS, "Dice")
    (axes,) = figure.axes
    liver, spleen = (text for text in axes.texts if text.get_ha() == "left")
    a, b, c, d = names(axes)[1]
    assert [liver.get_text(), spleen.get_text()] == ["liver", "spleen"]
    assert axes.get_ylim()[1] < liver.get_position()[1] < a < b < spleen.get_position()[1] < c < d
    assert names(axes)[0] == ["a", "b", "a", "b"]
    assert (b - a, d - c) == pytest.approx((1, 1))


def test_an_entry_without_a_score_keeps_an_empty_row():
    empty = Strip("b", "", (), math.nan, math.nan, math.nan)
    (axes,) = strips([strip("a"), empty], COLOURS, "Dice").axes
    assert len(points(axes)) == 3
    assert names(axes)[0] == ["a", "b"]


def test_thousands_of_points_become_a_picture():
    few, many = (strips([strip("a", values=[0.5] * count)], COLOURS, "Dice").axes[0] for count in (10, 3000))
    assert not few.collections[0].get_rasterized()
    assert many.collections[0].get_rasterized()


def test_long_names_are_cut():
    (axes,) = strips(
        [strip("a_very_long_name_of_an_entry_indeed")], {"a_very_long_name_of_an_entry_indeed": "k"}, ""
    ).axes
    assert names(axes)[0][0] == "a_very_long_name_of_an_en…"
