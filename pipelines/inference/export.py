"""From logits on the prepared grid to a label map on the grid of the scan.

Source: nnU-Net v2: logits, not labels, are resampled, linearly; where one axis is much coarser than the others its
nearest slice is taken (`pipelines.preprocessing.resample`).

Differs:
    - One class at a time with a running maximum, float32: memory does not grow with the number of classes beyond the
      logits themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipelines.preprocessing.resample import resample_channel, separate_axis


def to_scan_grid(
    logits: Tensor | NDArray[np.float32], properties: Mapping[str, Any]
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Choose the best class of every voxel of the scan.

    Args:
        logits: (K, Z, Y, X) float32 on the prepared grid; a tensor may be on any device.
        properties: of the prepared case (`pipelines.preprocessing.prepare`): `shape` and `spacing_mm` of the scan
            (z, y, x), `transpose_forward`, and in transposed order `box`, `shape_after_crop`, `spacing_after_mm`.

    Returns:
        (Z, Y, X) label map of the scan's shape, uint8 (uint16 above 256 classes); 0 outside the box, the lower class
        in a tie.
    """
    forward = properties["transpose_forward"]
    scan_shape = [properties["shape"][axis] for axis in forward]
    scan_spacing = [properties["spacing_mm"][axis] for axis in forward]
    box = tuple(slice(low, high) for low, high in properties["box"])
    label = np.zeros(scan_shape, dtype=np.uint8 if len(logits) <= 256 else np.uint16)
    axis = separate_axis(properties["spacing_after_mm"], scan_spacing)
    label[box] = _best_class(logits, properties["shape_after_crop"], axis, label.dtype)
    return np.ascontiguousarray(label.transpose(np.argsort(forward)))


def _best_class(logits: Tensor | NDArray[np.float32], shape: list[int], axis: int | None, dtype: np.dtype) -> NDArray:
    winner = np.zeros(shape, dtype=dtype)
    best = np.full(shape, -np.inf, dtype=np.float32)
    for value, channel in enumerate(logits):
        values = channel.cpu().numpy() if isinstance(channel, Tensor) else channel
        resampled = resample_channel(values, shape, axis, order=1)
        winner[resampled > best] = value
        np.maximum(best, resampled, out=best)
    return winner
