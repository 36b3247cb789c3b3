"""From logits on the prepared grid to a label map on the grid of the scan.

Source: nnU-Net v2: logits, not labels, are resampled, linearly; where one axis is much coarser than the others its
nearest slice is taken (`pipelines.preprocessing.resample`).

Differs:
    - Logits come in blocks of planes and are gone when the next block comes. A block is resampled a few planes and one
      class at a time, with a running maximum: beside the block, only the last plane of the one before is held of all
      classes.
Shapes:
    K classes, n planes of a block, m planes of the scan; Z Y X voxels, in transposed order unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipelines.metrics.discrimination import FULL_SCALE, in_16_bits
from pipelines.preprocessing.resample import nearest_indices, separate_axis

_PLANES_AT_ONCE = 16
_Chosen = TypeVar("_Chosen")


@torch.inference_mode()
def to_scan_grid(blocks: Iterable[Tensor], properties: Mapping[str, Any]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Choose the best class of every voxel of the scan.

    Args:
        blocks: (K, n, Y, X) float32 on any device: the planes of the prepared grid along axis 0, in order. A block may
            be overwritten when the next one is asked for.
        properties: of the prepared case (`pipelines.preprocessing.prepare`): `shape` and `spacing_mm` of the scan
            (z, y, x), `transpose_forward`, and in transposed order `box`, `shape_after_crop`,
            `shape_after_resampling`, `spacing_after_mm`.

    Returns:
        (Z, Y, X) label map of the scan's shape and axis order, uint8 (uint16 above 256 classes); 0 outside the box, the
        lower class in a tie.
    """
    inside = np.concatenate(list(_planes(blocks, properties, _best_class)))
    return _placed(inside, properties, outside=0)


@torch.inference_mode()
def to_scan_grid_with_probabilities(
    blocks: Iterable[Tensor], properties: Mapping[str, Any]
) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], NDArray[np.uint16]]:
    """The label map of `to_scan_grid`, and how probable every class is: the softmax of the logits on the scan's grid.

    Args:
        blocks: as there.
        properties: as there.

    Returns:
        The label map, and (K, Z, Y, X) probabilities, 65535 for 1; outside the box all is background. The memory of all
        classes at once is needed.
    """
    parts = list(_planes(blocks, properties, _best_class_and_probabilities))
    label = _placed(np.concatenate([labels for labels, _ in parts]), properties, outside=0)
    of_classes = np.concatenate([probabilities for _, probabilities in parts], axis=1)
    placed = [
        _placed(of_class, properties, outside=0 if value else FULL_SCALE) for value, of_class in enumerate(of_classes)
    ]
    return label, np.stack(placed)


def _placed(inside: NDArray, properties: Mapping[str, Any], outside: int) -> NDArray:
    """What was predicted inside the box, on the whole scan in its own order of axes."""
    forward = properties["transpose_forward"]
    whole = np.full([properties["shape"][axis] for axis in forward], outside, dtype=inside.dtype)
    whole[tuple(slice(low, high) for low, high in properties["box"])] = inside
    return np.ascontiguousarray(whole.transpose(np.argsort(forward)))


def _planes(
    blocks: Iterable[Tensor], properties: Mapping[str, Any], chosen: Callable[[Iterable[Tensor], int], _Chosen]
) -> Iterator[_Chosen]:
    """What `chosen` makes of the logits of planes of the new grid, as soon as the logits on both sides are there.

    Args:
        blocks: as of `to_scan_grid`.
        properties: likewise.
        chosen: of the logits of one class after the other, (m, Y, X), and their number.
    """
    shape, new_shape = properties["shape_after_resampling"], properties["shape_after_crop"]
    scan_spacing = [properties["spacing_mm"][axis] for axis in properties["transpose_forward"]]
    axis = separate_axis(properties["spacing_after_mm"], scan_spacing)
    low, high, share = _neighbours(shape[0], new_shape[0], is_nearest=axis == 0)
    num_done = end = 0
    last_plane = torch.empty(0)
    for block in blocks:
        begin, end = end, end + block.shape[1]
        num_ready = int(np.searchsorted(high, end))
        for first in range(num_done, num_ready, _PLANES_AT_ONCE):
            wanted = slice(first, min(first + _PLANES_AT_ONCE, num_ready))
            source = slice(low[wanted][0], high[wanted][-1] + 1)
            logits_of_classes = (
                logits[source.start - begin : source.stop - begin]
                if source.start >= begin
                else torch.cat([last_plane[value].to(logits.device), logits[: source.stop - begin]])
                for value, logits in enumerate(block)
            )
            neighbours = low[wanted] - source.start, high[wanted] - source.start, share[wanted]
            yield chosen(
                (_resampled_in_plane(_between(logits, *neighbours), new_shape, axis) for logits in logits_of_classes),
                len(block),
            )
        num_done = num_ready
        last_plane = block[:, -1:].clone()
    assert (end, num_done) == (shape[0], new_shape[0]), (end, num_done)


def _neighbours(size: int, new_size: int, is_nearest: bool) -> tuple[NDArray, NDArray, NDArray[np.float32]]:
    """For every new sample the old ones below and above it, and the share of the upper one; edge values go on."""
    if is_nearest:
        nearest = nearest_indices(size, new_size)
        return nearest, nearest, np.zeros(new_size, np.float32)
    centres = np.clip((np.arange(new_size) + 0.5) * (size / new_size) - 0.5, 0, size - 1)
    low, high = np.floor(centres).astype(np.int64), np.ceil(centres).astype(np.int64)
    return low, high, (centres - low).astype(np.float32)


def _between(planes: Tensor, low: NDArray, high: NDArray, share: NDArray[np.float32]) -> Tensor:
    """(m, Y, X) between the planes `low` and `high` of (n, Y, X)."""
    lower, upper, weight = (torch.from_numpy(values).to(planes.device) for values in (low, high, share))
    below = planes.index_select(0, lower)
    return below.lerp_(planes.index_select(0, upper), weight[:, None, None]) if share.any() else below


def _resampled_in_plane(planes: Tensor, new_shape: Sequence[int], axis: int | None) -> Tensor:
    """(m, Y, X) linearly to `new_shape[1:]`, along the separate axis by the nearest row."""
    if axis is not None and axis > 0:
        nearest = torch.from_numpy(nearest_indices(planes.shape[axis], new_shape[axis]))
        planes = planes.index_select(axis, nearest.to(planes.device))
    if list(planes.shape[1:]) == list(new_shape[1:]):
        return planes
    return functional.interpolate(planes[None], list(new_shape[1:]), mode="bilinear", align_corners=False)[0]


def _best_class(logits_of_classes: Iterable[Tensor], num_classes: int) -> NDArray:
    """Number of the class with the largest logit, voxel by voxel; the first of equals."""
    # Torch knows little of uint16.
    held, given = (torch.uint8, np.uint8) if num_classes <= 256 else (torch.int16, np.uint16)
    classes = iter(logits_of_classes)
    best = next(classes)
    winner = torch.zeros(best.shape, dtype=held, device=best.device)
    for value, logits in enumerate(classes, start=1):
        winner.masked_fill_(logits > best, value)
        best = torch.maximum(best, logits)
    return winner.cpu().numpy().astype(given, copy=False)


def _best_class_and_probabilities(
    logits_of_classes: Iterable[Tensor], num_classes: int
) -> tuple[NDArray, NDArray[np.uint16]]:
    """As `_best_class`, and (K, m, Y, X) probabilities in 16 bits."""
    logits = torch.stack(list(logits_of_classes))
    return _best_class(iter(logits), num_classes), in_16_bits(logits.softmax(0).cpu().numpy())
