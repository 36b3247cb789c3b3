from __future__ import annotations

import numpy as np
import pytest

from pipelines.reporting.curve_figures import MOST_POINTS, learning_curves, thinned
from pipelines.reporting.figures import entry_colours


def training(*values):
    return np.arange(len(values)), np.array(values)


def test_the_thick_line_is_the_mean_over_what_all_trainings_reached():
    figure = learning_curves({"a": [training(1.0, 2.0, 3.0), training(3.0, 4.0)]}, {"a": "#0072B2"}, "loss")
    mean = figure.axes[0].lines[-1]
    np.testing.assert_array_equal(mean.get_xdata(), [0, 1])
    np.testing.assert_array_equal(mean.get_ydata(), [2.0, 3.0])
    assert len(figure.axes[0].lines) == 3


def test_a_single_training_is_one_line_and_needs_no_legend():
    figure = learning_curves({"a": [training(1.0)]}, {"a": "#0072B2"}, "loss")
    assert len(figure.axes[0].lines) == 1
    assert not figure.legends


def test_few_entries_share_a_frame_and_differ_by_colour_and_dashes():
    names = list("abcdef")
    figure = learning_curves({name: [training(1.0, 2.0)] for name in names}, entry_colours(names), "loss")
    (axes,) = figure.axes
    looks = {(line.get_color(), str(line._dash_pattern)) for line in axes.lines}
    assert len(looks) == len({dashes for _, dashes in looks}) == 6
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names


def test_many_entries_have_a_frame_each_before_the_range_of_all():
    names = [f"entry_{number}" for number in range(20)]
    curves = {name: [training(float(number), 1.0), training(float(number))] for number, name in enumerate(names)}
    figure = learning_curves(curves, entry_colours(names), "loss")
    assert [axes.get_title(loc="left") for axes in figure.axes] == names
    band = figure.axes[3].collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (0, 19)
    assert [list(line.get_ydata()) for line in figure.axes[3].lines] == [[3.0, 1.0], [3.0], [3.0]]


@pytest.mark.parametrize("num_epochs", [1, MOST_POINTS, MOST_POINTS + 1, 1000])
def test_long_curves_are_drawn_by_means_over_stretches(num_epochs):
    epochs, values = thinned((np.arange(num_epochs), np.full(num_epochs, 3.0)))
    assert len(epochs) == len(values) <= MOST_POINTS
    assert (values == 3).all()
    assert epochs[0] <= num_epochs / MOST_POINTS
    assert epochs[-1] >= num_epochs - 1 - num_epochs / MOST_POINTS
