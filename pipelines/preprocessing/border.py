"""Gaps between neighbouring cells, as U-Net weighs them (Ronneberger et al., 2015, equation 2).

Differs:
    - Where instances are not known, they are what hangs together of a class (`instances_of`), so cells that touch are
      one.
Shapes:
    *s voxels, of two axes or three.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

W0 = 10.0
SIGMA = 5.0


def border_weights(
    instances: np.ndarray, w0: float = W0, sigma: float = SIGMA, is_background_only: bool = False
) -> np.ndarray:
    """w_0 exp(-(d_1 + d_2)^2 / (2 sigma^2)) of every voxel, d being Euclidean distances to the two nearest cells.

    The distance to a cell is that to its nearest voxel, 0 inside. With fewer than two cells all is 0.

    Args:
        instances: (*s) integers, 0 where there is no cell.
        w0: largest weight.
        sigma: in voxels.
        is_background_only: leave cells themselves at 0, as many implementations do and the paper does not say.

    Returns:
        (*s) float32.
    """
    numbers = np.unique(instances[instances > 0])
    if len(numbers) < 2:
        return np.zeros(instances.shape, np.float32)
    # The two smallest so far: of many cells, a stack of all distances would not fit.
    nearest = np.full(instances.shape, np.inf)
    second = np.full(instances.shape, np.inf)
    for number in numbers:
        distance = ndimage.distance_transform_edt(instances != number)
        second = np.minimum(second, np.maximum(nearest, distance))
        nearest = np.minimum(nearest, distance)
    weights = w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    if is_background_only:
        weights[instances > 0] = 0
    return weights.astype(np.float32)


def instances_of(labels: np.ndarray, ignore_label: int | None = None) -> np.ndarray:
    """Number what hangs together, edge to edge, of every foreground class.

    Args:
        labels: (*s) integers, 0 and below for background.
        ignore_label: of voxels that nobody annotated, which are no cell.

    Returns:
        (*s) int32, 0 for background, then 1, 2, ...
    """
    instances = np.zeros(labels.shape, np.int32)
    num_instances = 0
    for value in np.unique(labels):
        if value <= 0 or value == ignore_label:
            continue
        parts, num_parts = ndimage.label(labels == value)
        instances[parts > 0] = parts[parts > 0] + num_instances
        num_instances += num_parts
    return instances
