from __future__ import annotations

import io

import numpy as np
import pytest

from pipelines.reporting.figures import to_png
from pipelines.reporting.overlay_figures import overlay


def pixels(figure):
    from matplotlib.image import imread

    return imread(io.BytesIO(to_png(figure, 100)))


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
