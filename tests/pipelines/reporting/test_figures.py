from __future__ import annotations

import io
import re

import numpy as np
import pytest

from pipelines.reporting.figures import (
    INK,
    REFERENCE_COLOUR,
    ClassPoint,
    class_scores,
    entry_colours,
    learning_curves,
    overlay,
    to_data_address,
    to_png,
    to_svg,
)


def training(*values):
    return np.arange(len(values)), np.array(values)


def pixels(figure):
    from matplotlib.image import imread

    return imread(io.BytesIO(to_png(figure, 100)))


def test_references_are_grey_and_entries_differ():
    colours = entry_colours(["a", "reference", "b"], ["reference"])
    assert colours["reference"] == REFERENCE_COLOUR
    assert len(set(colours.values())) == 3


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


def test_every_class_and_entry_has_a_dot_between_its_bounds():
    points = [ClassPoint(entry, name, 0.8, 0.7, 0.9) for name in ("liver", "spleen") for entry in ("a", "b")]
    figure = class_scores(points, entry_colours(["a", "b"]), "Dice")
    lines = figure.axes[0].lines
    assert [list(line.get_xdata()) for line in lines] == [[0.7, 0.9], [0.8]] * 4
    heights = [line.get_ydata()[0] for line in lines[::2]]
    assert heights == sorted(heights)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_svg_text_is_text_ids_are_prefixed_and_ink_follows_the_page():
    figure = learning_curves({"a": [training(1.0, 2.0)]}, {"a": "#0072B2"}, "loss")
    svg = to_svg(figure, "loss")
    assert svg.startswith("<svg")
    assert ">epoch</text>" in svg
    assert INK not in svg
    assert "currentColor" in svg
    assert all(found.startswith("loss-") for found in re.findall(r'\bid="([^"]*)', svg))
    assert "<metadata" not in svg or "<dc:date" not in svg
    assert svg == to_svg(figure, "loss")


def test_png_address():
    assert to_data_address(b"\x89PNG") == "data:image/png;base64,iVBORw=="


@pytest.fixture
def cube():
    reference = np.zeros((20, 24, 28), dtype=np.uint8)
    reference[5:9, 10:16, 12:20] = 1
    return reference


def test_planes_have_the_sides_of_the_body_in_mm(cube):
    spacing_mm = (5.0, 1.0, 2.0)
    figures = overlay(np.zeros(cube.shape), cube, cube, spacing_mm, [1])
    assert list(figures) == ["axial", "coronal", "sagittal"]
    # The box is 20 x 6 x 16 mm; 8 mm are added on each side, in whole voxels, where the image goes on.
    height, width, depth = 8 * 5.0, 22 * 1.0, 16 * 2.0
    ratios = {plane: figure.get_figwidth() / figure.get_figheight() for plane, figure in figures.items()}
    assert ratios == pytest.approx({"axial": depth / width, "coronal": depth / height, "sagittal": width / height})


def test_a_plane_goes_through_most_of_the_reference_with_superior_up(cube):
    cube[7, 9:18, 10:22] = 1
    image = np.zeros(cube.shape)
    image[7] = 1
    image[12:] = 0.5
    figures = overlay(image, cube, np.zeros_like(cube), (1.0, 1.0, 1.0), [1])
    shown = {plane: figure.axes[0].images[0] for plane, figure in figures.items()}
    assert (shown["axial"].get_array() == 1).all()
    assert shown["coronal"].origin == "lower"
    picture = pixels(figures["coronal"])[..., 0]
    assert picture[2, 2] == pytest.approx(0.5, abs=0.01)
    assert picture[-3, 2] == 0


def test_a_prediction_equal_to_the_reference_is_a_line_on_its_border(cube):
    figure = overlay(np.zeros(cube.shape), cube, cube, (1.0, 1.0, 1.0), [1])["axial"]
    (contours,) = figure.axes[0].collections
    vertices = contours.get_paths()[0].vertices
    filled = np.argwhere(figure.axes[0].images[1].get_array()[..., 3] > 0)
    for column in (0, 1):
        assert vertices[:, 1 - column].min() == pytest.approx(filled[:, column].min() - 0.5, abs=0.1)
        assert vertices[:, 1 - column].max() == pytest.approx(filled[:, column].max() + 0.5, abs=0.1)


def test_empty_maps_show_the_whole_middle(cube):
    nothing = np.zeros_like(cube)
    figures = overlay(np.zeros(cube.shape), nothing, nothing, (1.0, 1.0, 1.0), [1])
    assert figures["axial"].axes[0].images[0].get_array().shape == (24, 28)
    assert not figures["axial"].axes[0].collections


def test_an_image_of_one_slice_has_one_plane(cube):
    figures = overlay(np.zeros((1, 24, 28)), cube[6:7], cube[6:7], (1.0, 1.0, 1.0), [1])
    assert list(figures) == ["axial"]
