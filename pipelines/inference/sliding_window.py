"""Logits of a whole image from networks that see one patch at a time.

Source: nnU-Net v2 (Isensee et al., 2021, and its code): tile positions, Gaussian importance, zero padding, mirroring,
the mean of the logits of several networks.

Differs:
    - Float32 throughout. Half-precision weights and sums cost up to half a logit in the corners of the image.
    - Means are updated in place, mean += share * (value - mean), instead of dividing two sums at the end: where all
      values agree the result is exactly that value.
    - Logits are held only for planes that tiles to come still reach, about a patch deep; finished planes are handed on.
    - Forward passes take several patches: tiles, and where those are few, mirrored copies of them.
    - Without memory it gives way in steps (`pipelines.inference.placement`) and goes on with the tile it was at.
Shapes:
    B tiles in a batch, C channels, K classes, Z Y X voxels. A 2D network gets (B, C, Y, X): its patches are one
    slice thick.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain, combinations, product

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional

from pipelines.inference.placement import Placement
from pipelines.planning.precision import autocast


@torch.inference_mode()
def predict_logits(
    networks: Sequence[nn.Module],
    image: Tensor,
    patch_size: Sequence[int],
    num_classes: int,
    overlap: float = 0.5,
    mirror_axes: Sequence[int] = (),
    placement: Placement | None = None,
) -> Tensor:
    """All blocks of `predict_blocks` in one tensor, (K, Z, Y, X) float32 on the CPU."""
    blocks = predict_blocks(networks, image, patch_size, num_classes, overlap, mirror_axes, placement)
    return torch.cat([block.cpu().clone() for block in blocks], dim=1)


@torch.inference_mode()
def predict_blocks(
    networks: Sequence[nn.Module],
    image: Tensor,
    patch_size: Sequence[int],
    num_classes: int,
    overlap: float = 0.5,
    mirror_axes: Sequence[int] = (),
    placement: Placement | None = None,
) -> Iterator[Tensor]:
    """Predict every voxel as the Gaussian-weighted mean over the tiles that cover it.

    Args:
        networks: in eval mode; (B, C, *patch) -> (B, K, *patch). Their logits are averaged. bfloat16 autocast on a GPU.
            Fastest with weights in channels last (`pipelines.planning.precision.place`).
        image: (C, Z, Y, X) floating point on the CPU, of any size: a side shorter than the patch is padded with zeros
            on both ends.
        patch_size: (Z, Y, X) for 3D networks, (Y, X) for 2D ones, which are led over every slice.
        num_classes: K.
        overlap: share of a patch that neighbouring tiles have in common at least, 0 <= overlap < 1.
        mirror_axes: spatial axes of the patch; the logits are the mean over all subsets of them mirrored.
        placement: devices and batch, by default one patch at a time on the CPU; changed where memory runs out. Batch
            and devices of sums change memory and speed, not the result.

    Yields:
        (K, n, Y, X) float32: the next n planes of axis 0, on the device of the sums. A block is overwritten when the
        next one is asked for.
    """
    assert networks, "no network to predict with"
    assert not any(network.training for network in networks), "a network predicts in eval mode"
    assert image.ndim == 4, tuple(image.shape)
    placement = placement or Placement()
    is_2d = len(patch_size) == 2
    tile_size = (1, *patch_size) if is_2d else tuple(patch_size)
    padded, inside = _pad_to(image, tile_size)
    corners = list(product(*map(_axis_starts, padded.shape[1:], tile_size, [overlap] * 3)))
    # The planes that the tiles of one batch span; a smaller batch spans no more.
    batches = zip(corners, corners[placement.batch_size - 1 :] or corners[-1:], strict=False)
    depth = max(last[0] - first[0] for first, last in batches) + tile_size[0]
    importance = torch.from_numpy(gaussian_importance(tuple(patch_size))).reshape(tile_size)
    means = _OpenPlanes(num_classes, min(depth, padded.shape[1]), padded.shape[2:], importance)
    rows, *within_plane = inside

    def outputs_of(batch: list[tuple[int, ...]]) -> Tensor:
        tiles = torch.stack([_tile(padded, corner, tile_size) for corner in batch])
        outputs = _mean_over_passes(networks, tiles.squeeze(2) if is_2d else tiles, mirror_axes, placement)
        outputs = outputs.unsqueeze(2) if is_2d else outputs
        assert outputs.shape[1:] == (num_classes, *tile_size), tuple(outputs.shape)
        return outputs.to(placement.sums_device)

    def closed(end: int) -> Tensor:
        first, last = max(rows.start, means.bottom), min(rows.stop, end)
        return means.logits[(slice(None), slice(first - means.bottom, last - means.bottom), *within_plane)]

    position = 0
    while position < len(corners):
        batch = corners[position : position + placement.batch_size]
        if (bottom := batch[0][0]) > means.bottom:
            yield closed(bottom)
            means.close(bottom)
        try:
            means.move_to(placement.sums_device)
            means.add(batch, outputs_of(batch))
        except (RuntimeError, MemoryError) as error:
            placement.give_way(error)
        else:
            position += len(batch)
    yield closed(padded.shape[1])


def tile_starts(side: int, patch_side: int, overlap: float = 0.5) -> list[int]:
    """First voxels of the tiles along one axis, evenly spread from one end to the other.

    Examples:
        >>> tile_starts(110, 64)
        [0, 23, 46]
    """
    assert side >= patch_side, (side, patch_side)
    assert 0 <= overlap < 1, overlap
    num_steps = math.ceil((side - patch_side) / (patch_side * (1 - overlap)))
    # Divided before it is multiplied, as in nnU-Net: where a position is half a voxel, that decides which it becomes.
    step = (side - patch_side) / max(num_steps, 1)
    return [round(step * number) for number in range(num_steps + 1)]


def gaussian_importance(patch_size: tuple[int, ...]) -> np.ndarray:
    """Weight of each voxel of a tile: a Gaussian about the centre, sigma an eighth of the side.

    Returns:
        `patch_size` float32, positive everywhere, largest value 1.
    """
    delta = np.zeros(patch_size)
    delta[tuple(side // 2 for side in patch_size)] = 1
    weight = gaussian_filter(delta, [side / 8 for side in patch_size], mode="constant")
    weight = (weight / weight.max()).astype(np.float32)
    return np.where(weight > 0, weight, weight[weight > 0].min())


class _OpenPlanes:
    """Weighted means of the tiles so far, for the planes that tiles to come may reach. Without memory until `move_to`.

    Args:
        num_classes: K.
        depth: planes held.
        plane_shape: (Y, X).
        importance: (z, y, x), weight of the voxels of a tile.
    """

    def __init__(self, num_classes: int, depth: int, plane_shape: Sequence[int], importance: Tensor) -> None:
        self.bottom = 0
        self._shape = (num_classes, depth, *plane_shape)
        self._importance = importance
        self._share = torch.empty_like(importance)
        self.logits = self._weights = torch.empty(0)

    def move_to(self, device: torch.device) -> None:
        """Begin, or go on, on a device."""
        if self.logits.numel() == 0:
            # Both or none, where memory runs out between them.
            shapes = (self._shape, self._shape[1:])
            self.logits, self._weights = (torch.zeros(shape, device=device) for shape in shapes)
        self.logits, self._weights = self.logits.to(device), self._weights.to(device)
        self._importance, self._share = self._importance.to(device), self._share.to(device)

    def add(self, corners: Sequence[tuple[int, ...]], outputs: Tensor) -> None:
        """Take in the logits of tiles, (B, K, z, y, x), at their first voxels in the image.

        Allocates nothing, so it cannot stop half way for want of memory.
        """
        for corner, output in zip(corners, outputs, strict=True):
            starts = (corner[0] - self.bottom, *corner[1:])
            window = tuple(slice(start, start + side) for start, side in zip(starts, output.shape[1:], strict=True))
            weights = self._weights[window]
            weights += self._importance
            torch.div(self._importance, weights, out=self._share)
            self.logits[(slice(None), *window)].lerp_(output, self._share)

    def close(self, bottom: int) -> None:
        """Forget the planes below `bottom`."""
        num_closed, depth = bottom - self.bottom, self._shape[1]
        # Plane by plane, because the two ranges may overlap; no second buffer is needed.
        for plane in range(depth - num_closed):
            self.logits[:, plane] = self.logits[:, plane + num_closed]
            self._weights[plane] = self._weights[plane + num_closed]
        self.logits[:, max(depth - num_closed, 0) :] = 0
        self._weights[max(depth - num_closed, 0) :] = 0
        self.bottom = bottom


def _axis_starts(side: int, patch_side: int, overlap: float) -> list[int]:
    # A 2D network's tile is one voxel thick: every slice is its own, and none is seen twice.
    return list(range(side)) if patch_side == 1 else tile_starts(side, patch_side, overlap)


def _pad_to(image: Tensor, size: Sequence[int]) -> tuple[Tensor, tuple[slice, ...]]:
    """Pad with zeros, centred, to at least `size`; also give where the image lies in the result."""
    before = [max(least - side, 0) // 2 for side, least in zip(image.shape[1:], size, strict=True)]
    after = [max(least - side, 0) - low for side, least, low in zip(image.shape[1:], size, before, strict=True)]
    widths = list(chain.from_iterable(zip(reversed(before), reversed(after), strict=True)))
    inside = tuple(slice(low, low + side) for low, side in zip(before, image.shape[1:], strict=True))
    return (functional.pad(image, widths) if any(widths) else image), inside


def _tile(image: Tensor, corner: Sequence[int], size: Sequence[int]) -> Tensor:
    window = tuple(slice(start, start + side) for start, side in zip(corner, size, strict=True))
    return image[(slice(None), *window)].float()


def _mean_over_passes(
    networks: Sequence[nn.Module], tiles: Tensor, mirror_axes: Sequence[int], placement: Placement
) -> Tensor:
    """Mean of the logits over the networks and all subsets of the mirror axes, float32."""
    tiles = tiles.to(placement.device)
    spatial = [axis + 2 for axis in mirror_axes]
    subsets = [subset for size in range(len(spatial) + 1) for subset in combinations(spatial, size)]
    at_once = max(placement.batch_size // len(tiles), 1)
    mean: Tensor | None = None
    num_passes = 0
    for network in networks:
        network.to(placement.device)
        for first in range(0, len(subsets), at_once):
            group = subsets[first : first + at_once]
            outputs = _forward(network, torch.cat([tiles.flip(axes) if axes else tiles for axes in group]))
            for axes, output in zip(group, outputs.chunk(len(group)), strict=True):
                num_passes += 1
                restored = output.flip(axes) if axes else output
                if mean is None:
                    mean = torch.zeros(restored.shape, device=restored.device)
                mean.lerp_(restored, 1 / num_passes)
    assert mean is not None
    return mean


def _forward(network: nn.Module, tiles: Tensor) -> Tensor:
    with autocast(tiles.device):
        return network(tiles).float()
