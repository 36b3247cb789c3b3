"""Which patch of which case a training sample is (nnU-Net v2), without any sampler state.

A sample is a pure function of (seed, step, index in the global batch): a resumed training sees what an uninterrupted
one would, and any number of workers together see what one would.

Differs:
    - A forced foreground patch is kept within the same bounds as a random one at both ends of each axis, nnU-Net only
      at the lower end; so the final patch reaches past the image only where the image is smaller.
    - Counter-based random numbers instead of one free-running generator per worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipelines.augmentation.spatial import Box
from pipelines.preprocessing.crop import OUTSIDE
from pipelines.preprocessing.locations import ANNOTATED
from pipelines.preprocessing.shards import PreparedCase, Voxels


@dataclass(frozen=True)
class Place:
    """Where a training sample lies; nothing is read before `cut`.

    Attributes:
        case: what it is cut from.
        position: of its slice along axis 0; None for a patch of three dimensions.
        corner: lower corner of the initial patch in the case or slice, may lie outside of it.
        size: of the initial patch.
        rng: to draw this sample's augmentation from.
    """

    case: PreparedCase
    position: int | None
    corner: tuple[int, ...]
    size: tuple[int, ...]
    rng: np.random.Generator

    def cut(self, box: Box | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Read a box of the initial patch, or all of it.

        Args:
            box: first voxel in the initial patch, and size, per axis.

        Returns:
            Image (C, *size) float32, 0 outside the case; label (*size) int16, -1 outside.
        """
        first, size = box or ((0,) * len(self.size), self.size)
        corner = [low + step for low, step in zip(self.corner, first, strict=True)]
        image: Voxels = self.case.image
        label = self.case.label
        assert label is not None
        if self.position is not None:
            image, label = image[:, self.position], label[self.position]
        return (
            torch.from_numpy(_cut(image, corner, size, np.float32, 0)),
            torch.from_numpy(_cut(label, corner, size, np.int16, OUTSIDE)),
        )


class PatchSampler:
    """Draws patches from prepared cases.

    Of each global batch the last samples, from index round(batch_size * (1 - foreground_fraction)) on, are centred on a
    foreground voxel: a class uniformly among those present in the case, then one of its stored voxels. The other
    patches lie uniformly, or on an annotated voxel where the data set has an ignore label.

    With a two-dimensional patch a sample is one slice along axis 0.
    """

    def __init__(
        self,
        prepared: Sequence[PreparedCase],
        patch_size: Sequence[int],
        initial_patch_size: Sequence[int],
        batch_size: int,
        foreground_fraction: float,
        seed: int,
    ) -> None:
        """Keep the cases; nothing is read yet.

        Args:
            prepared: cases with labels.
            patch_size: what the network gets; length 2 or 3.
            initial_patch_size: what may be cut, larger so that a rotation finds something at the corners; the same as
                `patch_size` for validation.
            batch_size: of the whole step, over all workers.
            foreground_fraction: share of forced foreground samples, 0.33 in nnU-Net.
            seed: not negative.
        """
        if not prepared:
            raise ValueError("no case to sample patches from; the fold's training part needs one case at least")
        unlabelled = [str(case.path) for case in prepared if case.label is None]
        if unlabelled:
            raise ValueError(f"no label to train on in {unlabelled}; give these cases labels or take them out")
        assert len(patch_size) == len(initial_patch_size) in (2, 3)
        self.prepared = list(prepared)
        self.patch_size = tuple(patch_size)
        self.initial_patch_size = tuple(initial_patch_size)
        self.num_random = round(batch_size * (1 - foreground_fraction))
        self.seed = seed

    def place(self, step: int, index: int) -> Place:
        """Draw where sample `index` of the global batch of step `step` lies."""
        rng = np.random.default_rng([self.seed, step, index])
        case = self.prepared[rng.integers(len(self.prepared))]
        voxel = _foreground_voxel(case, rng) if index >= self.num_random else _annotated_voxel(case, rng)
        assert case.label is not None
        shape, position = case.label.shape, None
        if len(self.patch_size) == 2:
            position = int(rng.integers(shape[0]) if voxel is None else voxel[0])
            shape, voxel = shape[1:], None if voxel is None else voxel[1:]
        corner = patch_corner(shape, self.patch_size, self.initial_patch_size, voxel, rng)
        return Place(case, position, corner, self.initial_patch_size, rng)

    def sample(self, step: int, index: int) -> tuple[torch.Tensor, torch.Tensor, np.random.Generator]:
        """Cut sample `index` of the global batch of step `step` whole.

        Returns:
            Image (C, *initial_patch_size) float32, 0 outside the case; label (*initial_patch_size) int16, -1 outside;
            and the generator to draw this sample's augmentation from.
        """
        place = self.place(step, index)
        return *place.cut(), place.rng


def patch_corner(
    shape: Sequence[int],
    patch_size: Sequence[int],
    initial_patch_size: Sequence[int],
    voxel: Sequence[int] | np.ndarray | None,
    rng: np.random.Generator,
) -> tuple[int, ...]:
    """Lower corner of an initial patch, which may lie outside the case.

    Per axis the margin is the initial minus the final size, or what the case lacks of the initial size if that is
    more; the corner runs from -ceil(margin / 2) to shape + ceil(margin / 2) - initial size.

    Args:
        shape: of the case (or slice).
        patch_size: final size.
        initial_patch_size: size to cut.
        voxel: centre of the patch, kept within these bounds; None draws the corner uniformly.
        rng: source of the draw.
    """
    corner = []
    for axis, (size, final, initial) in enumerate(zip(shape, patch_size, initial_patch_size, strict=True)):
        margin = max(initial - final, initial - size)
        lowest = -((margin + 1) // 2)
        highest = size + (margin + 1) // 2 - initial
        if voxel is None:
            corner.append(int(rng.integers(lowest, highest + 1)))
        else:
            corner.append(min(max(int(voxel[axis]) - initial // 2, lowest), highest))
    return tuple(corner)


def _foreground_voxel(case: PreparedCase, rng: np.random.Generator) -> np.ndarray | None:
    classes = sorted(value for value in case.locations if value != ANNOTATED)
    if not classes:
        return _annotated_voxel(case, rng)
    voxels = case.locations[classes[rng.integers(len(classes))]]
    return voxels[rng.integers(len(voxels))]


def _annotated_voxel(case: PreparedCase, rng: np.random.Generator) -> np.ndarray | None:
    voxels = case.locations.get(ANNOTATED)
    return None if voxels is None else voxels[rng.integers(len(voxels))]


def _cut(
    values: Voxels, corner: Sequence[int], size: Sequence[int], dtype: type[np.generic], padding: float
) -> np.ndarray:
    """Copy a box of the last axes of `values`, `padding` where it runs past the border."""
    num_leading = values.ndim - len(size)
    source: list[slice] = [slice(None)] * num_leading
    target: list[slice] = [slice(None)] * num_leading
    for low, length, limit in zip(corner, size, values.shape[num_leading:], strict=True):
        first, last = max(low, 0), min(low + length, limit)
        source.append(slice(first, last))
        target.append(slice(first - low, last - low))
    patch = np.full((*values.shape[:num_leading], *size), padding, dtype)
    patch[tuple(target)] = values[tuple(source)]
    return patch
