"""The overlap-tile strategy of U-Net (Ronneberger et al., 2015, figure 2), for networks without padding.

Such a network gives logits of the centre of what it sees. Tiles are placed so that the centres cover the image, and
what a tile sees beyond the image is the image mirrored at its border.

Padded networks, which studies train, are led over an image by `pipelines/inference/sliding_window.py` instead: their
tiles overlap, too, but are averaged by weights that fall off towards the border, where a padded tile lacks context.

Differs:
    - Tiles go on by a multiple of the network's divisor, so the next one may cover a few pixels again. Poolings of all
      tiles then lie on one grid, and the result is that of one pass over the whole mirrored image.
Shapes:
    C channels, K classes, *s pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.inference_mode()
def predict_overlap_tiles(
    network: nn.Module, image: Tensor, tile_size: Sequence[int], output_size: Sequence[int], divisor: int
) -> Tensor:
    """Predict every pixel of an image by the tile whose centre it is in.

    Args:
        network: in eval mode; (1, C, *tile_size) -> (1, K, *output_size).
        image: (C, *s).
        tile_size: pixels that the network sees at once.
        output_size: pixels of which it gives logits; those missing are missing evenly on both sides.
        divisor: of the network, by which its poolings divide a side.

    Returns:
        (K, *s).

    Raises:
        ValueError: a tile whose output is smaller than the divisor, so that tiles would leave gaps.
    """
    sides = tuple(image.shape[1:])
    margins = [(seen - given) // 2 for seen, given in zip(tile_size, output_size, strict=True)]
    steps = [given // divisor * divisor for given in output_size]
    if min(steps) == 0:
        raise ValueError(
            f"tiles of {tuple(tile_size)} give {tuple(output_size)} pixels; each side must be {divisor} or more, so "
            "take a larger tile"
        )
    # Tiles begin at the multiples of their step, so the last ones may reach beyond the image.
    starts = [range(0, side, step) for side, step in zip(sides, steps, strict=True)]
    padded = image
    for axis, (side, margin, first, given) in enumerate(zip(sides, margins, starts, output_size, strict=True), start=1):
        padded = padded.index_select(axis, _mirrored(side, margin, first[-1] + given + margin, image.device))
    logits: Tensor | None = None
    for corner in itertools.product(*starts):
        seen = tuple(slice(low, low + length) for low, length in zip(corner, tile_size, strict=True))
        tile = network(padded[(slice(None), *seen)][None])[0]
        if logits is None:
            logits = tile.new_empty(len(tile), *sides)
        place = tuple(slice(low, low + length) for low, length in zip(corner, output_size, strict=True))
        inside = tuple(
            slice(0, min(length, side - low)) for low, length, side in zip(corner, output_size, sides, strict=True)
        )
        logits[(slice(None), *place)] = tile[(slice(None), *inside)]
    assert logits is not None
    return logits


def _mirrored(side: int, before: int, end: int, device: torch.device) -> Tensor:
    """Pixels of an axis at the positions -`before` to `end` - 1, mirrored at its first and last one, over and over."""
    period = max(2 * (side - 1), 1)
    positions = torch.arange(-before, end, device=device) % period
    return torch.minimum(positions, period - positions) if side > 1 else torch.zeros_like(positions)
