from __future__ import annotations

import numpy as np
import pytest

from pipelines.preprocessing.border import border_weights, instances_of


def two_cells() -> np.ndarray:
    instances = np.zeros((6, 10), np.int32)
    instances[1:5, 1:4], instances[1:5, 6:9] = 1, 2
    return instances


# fmt: off
ROW = [4.753111, 7.065307, 8.26149, 9.352702, 9.352702, 9.352702, 9.352702, 8.26149, 7.065307, 4.753111]
BACKGROUND_ROW = [4.753111, 1, 1, 1, 9.352702, 9.352702, 1, 1, 1, 4.753111]
# fmt: on


@pytest.mark.parametrize(
    ("is_background_only", "row", "total"), [(False, ROW, 444.882621), (True, BACKGROUND_ROW, 271.446628)]
)
def test_the_published_example(is_background_only: bool, row: list[float], total: float) -> None:
    # The examples hold the balance of classes, 1, as well.
    weights = 1 + border_weights(two_cells(), is_background_only=is_background_only).astype(np.float64)
    assert weights[2].tolist() == pytest.approx(row, abs=1e-6)
    assert weights.sum() == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize(("is_background_only", "total"), [(False, 140.533948), (True, 100.219974)])
def test_a_smaller_sigma_weighs_less(is_background_only: bool, total: float) -> None:
    weights = 1 + border_weights(two_cells(), sigma=2, is_background_only=is_background_only).astype(np.float64)
    assert weights.sum() == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("num_cells", [0, 1])
def test_fewer_than_two_cells_have_no_gap(num_cells: int) -> None:
    instances = np.zeros((4, 5), np.int32)
    instances[:num_cells, 0] = 7
    assert not border_weights(instances).any()


def test_of_three_cells_the_two_nearest_count_by_hand() -> None:
    # Voxel 3: distances 3, 1 and 5 to the cells at 0, 4 and 8.
    instances = np.zeros((1, 9), np.int32)
    instances[0, [0, 4, 8]] = [5, 2, 9]
    weights = border_weights(instances, w0=1, sigma=2)
    assert weights[0, 3] == pytest.approx(np.exp(-((1 + 3) ** 2) / 8))
    assert weights[0, 7] == pytest.approx(np.exp(-((1 + 3) ** 2) / 8))


def test_a_volume_has_gaps_too() -> None:
    instances = np.zeros((5, 3, 3), np.int32)
    instances[0], instances[4] = 1, 2
    assert border_weights(instances, w0=1)[2] == pytest.approx(np.full((3, 3), np.exp(-16 / 50)))


def test_instances_are_what_hangs_together_of_a_class() -> None:
    labels = np.array([[1, 1, 0, 1], [0, 0, 0, 2], [3, -1, 1, 2]])
    expected = [[1, 1, 0, 2], [0, 0, 0, 4], [0, 0, 3, 4]]
    assert instances_of(labels, ignore_label=3).tolist() == expected
    assert instances_of(np.zeros((2, 2), int)).tolist() == [[0, 0], [0, 0]]
