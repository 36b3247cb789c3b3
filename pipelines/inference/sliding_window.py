"""Logits of a whole image from a network that sees one patch at a time.

Source: nnU-Net v2 (Isensee et al., 2021, and its code): tile positions, Gaussian importance, zero padding, mirroring.

Differs:
    - Float32 throughout. Half-precision weights and sums cost up to half a logit in the corners of the image.
    - The weighted mean is updated in place, mean += weight / weight_sum * (tile - mean), instead of dividing two
      sums at the end: where all tiles agree the result is exactly their value, and there is no pass over the image
      afterwards.
    - Tiles go through the network in batches.
Shapes:
    B tiles in a batch, C channels, K classes, Z Y X voxels. A 2D network gets (B, C, Y, X): its patches are one
    slice thick.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, product

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional


@torch.inference_mode()
def predict_logits(
    network: nn.Module,
    image: Tensor,
    patch_size: Sequence[int],
    num_classes: int,
    overlap: float = 0.5,
    mirror_axes: Sequence[int] = (),
    batch_tiles: int = 1,
) -> Tensor:
    """Predict every voxel as the Gaussian-weighted mean over the tiles that cover it.

    Args:
        network: in eval mode; (B, C, *patch) -> (B, K, *patch). Runs where its parameters are; bfloat16 autocast on
            a GPU.
        image: (C, Z, Y, X) float32, of any size: a side shorter than the patch is padded with zeros on both ends.
        patch_size: (Z, Y, X) for a 3D network, (Y, X) for a 2D one, which is led over every slice.
        num_classes: K.
        overlap: share of a patch that neighbouring tiles have in common at least, 0 <= overlap < 1.
        mirror_axes: spatial axes of the patch; the logits are the mean over all subsets of them mirrored.
        batch_tiles: tiles in one forward pass; changes memory and speed, not the result.

    Returns:
        (K, Z, Y, X) float32, on the image's device.
    """
    assert not network.training, "a network predicts in eval mode"
    assert image.ndim == 4, tuple(image.shape)
    is_2d = len(patch_size) == 2
    tile_size = (1, *patch_size) if is_2d else tuple(patch_size)
    padded, inside = _pad_to(image, tile_size)
    device = next(network.parameters(), image).device
    importance = torch.from_numpy(gaussian_importance(tuple(patch_size))).to(image.device).reshape(tile_size)
    logits = torch.zeros((num_classes, *padded.shape[1:]), device=image.device)
    weight_sum = torch.zeros(tuple(padded.shape[1:]), device=image.device)

    starts = list(product(*map(_axis_starts, padded.shape[1:], tile_size, [overlap] * 3)))
    for first in range(0, len(starts), batch_tiles):
        windows = [
            tuple(slice(start, start + side) for start, side in zip(corner, tile_size, strict=True))
            for corner in starts[first : first + batch_tiles]
        ]
        tiles = torch.stack([padded[(slice(None), *window)] for window in windows]).to(device)
        outputs = _mirrored_mean(network, tiles.squeeze(2) if is_2d else tiles, mirror_axes)
        outputs = (outputs.unsqueeze(2) if is_2d else outputs).to(image.device)
        assert outputs.shape[1:] == (num_classes, *tile_size), tuple(outputs.shape)
        for window, output in zip(windows, outputs, strict=True):
            weight_sum[window] += importance
            mean = logits[(slice(None), *window)]
            mean += importance / weight_sum[window] * (output - mean)
    return logits[(slice(None), *inside)]


def tile_starts(side: int, patch_side: int, overlap: float = 0.5) -> list[int]:
    """First voxels of the tiles along one axis, evenly spread from one end to the other.

    Examples:
        >>> tile_starts(110, 64)
        [0, 23, 46]
    """
    assert side >= patch_side, (side, patch_side)
    assert 0 <= overlap < 1, overlap
    num_steps = math.ceil((side - patch_side) / (patch_side * (1 - overlap)))
    return [0] + [round(step * (side - patch_side) / num_steps) for step in range(1, num_steps + 1)]


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


def _axis_starts(side: int, patch_side: int, overlap: float) -> list[int]:
    # A 2D network's tile is one voxel thick: every slice is its own, and none is seen twice.
    return list(range(side)) if patch_side == 1 else tile_starts(side, patch_side, overlap)


def _pad_to(image: Tensor, size: Sequence[int]) -> tuple[Tensor, tuple[slice, ...]]:
    """Pad with zeros, centred, to at least `size`; also give where the image lies in the result."""
    before = [max(least - side, 0) // 2 for side, least in zip(image.shape[1:], size, strict=True)]
    after = [max(least - side, 0) - low for side, least, low in zip(image.shape[1:], size, before, strict=True)]
    widths = list(chain.from_iterable(zip(reversed(before), reversed(after), strict=True)))
    inside = tuple(slice(low, low + side) for low, side in zip(before, image.shape[1:], strict=True))
    return functional.pad(image, widths), inside


def _mirrored_mean(network: nn.Module, tiles: Tensor, mirror_axes: Sequence[int]) -> Tensor:
    """Mean of the logits over all subsets of the mirror axes, float32."""
    if not mirror_axes:
        return _forward(network, tiles)
    axis, *others = mirror_axes
    mirrored = _mirrored_mean(network, tiles.flip(axis + 2), others).flip(axis + 2)
    # Halves of pairs, not one sum of all: equal logits then stay exactly what they are.
    return (_mirrored_mean(network, tiles, others) + mirrored) / 2


def _forward(network: nn.Module, tiles: Tensor) -> Tensor:
    with torch.autocast(tiles.device.type, dtype=torch.bfloat16, enabled=tiles.is_cuda):
        return network(tiles).float()
