"""Rotation, scaling and mirroring of a patch (nnU-Net v2).

Each transform is two classes: `Random…` draws, the other is what was drawn and can be applied again. Images are
(C, *spatial) float, labels (*spatial) int64; spatial axes are (Z, Y, X) or (Y, X).

Differs:
    - Rotation turns voxels. nnU-Net turns coordinates scaled to -1..1 of the initial patch, which shears a patch whose
      sides differ.
    - The centre is that of the plain crop, so zero rotation and unit scale equal the crop exactly.
    - Labels: the largest share in linear interpolation, counted over the at most eight voxels around a point, so the
      cost does not grow with the number of classes. nnU-Net resamples one indicator per class and thresholds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipelines.preprocessing.crop import OUTSIDE


def centre_offsets(shape: Sequence[int], size: Sequence[int]) -> list[int]:
    """First voxel, per axis, of the central box of `size` in `shape`."""
    return [(full - part) // 2 for full, part in zip(shape, size, strict=True)]


@dataclass(frozen=True)
class CentreCrop:
    """Cut the central box of `size`."""

    size: tuple[int, ...]

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Cut both to `size`."""
        offsets = centre_offsets(label.shape, self.size)
        box = tuple(slice(first, first + length) for first, length in zip(offsets, self.size, strict=True))
        return image[(slice(None), *box)], label[box]


@dataclass(frozen=True)
class Affine:
    """Resample the central box of `size` after a linear map about its centre.

    Attributes:
        size: final patch.
        matrix: rows of the map from an offset to the centre in the result to the offset in the source, in voxels; of
            size len(size), or one less: then it acts in the plane of the last two axes and slices stay apart.
    """

    size: tuple[int, ...]
    matrix: tuple[tuple[float, ...], ...]

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Resample both to `size`: image linearly with 0 outside, label by the largest linear share, -1 outside."""
        num_dims = len(self.matrix)
        if num_dims < len(self.size):
            first = centre_offsets(label.shape, self.size)[0]
            image = image[:, first : first + self.size[0]]
            label = label[first : first + self.size[0]]
        # A border of one voxel stands for everything outside.
        border = [1, 1] * num_dims
        values = functional.pad(image, border).flatten(-num_dims)
        classes = functional.pad(label.to(torch.int16), border, value=OUTSIDE).flatten(-num_dims)
        index, weight = self._corners(label.shape[-num_dims:], image.device)
        neighbours = values.index_select(-1, index.flatten()).unflatten(-1, index.shape)
        resampled = (neighbours * weight).sum(dim=-2)
        candidates = classes.index_select(-1, index.flatten()).unflatten(-1, index.shape)
        winner = _largest_share(candidates.movedim(-2, 0), weight)
        return resampled.view(-1, *self.size), winner.view(self.size).to(label.dtype)

    def _corners(self, shape: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Corners of the cell around each of N voxels: flat index in the bordered source and weight, (2**n, N)."""
        size = self.size[-len(shape) :]
        centres = [(length - 1) / 2 for length in size]
        offsets = torch.meshgrid(
            [torch.arange(n, device=device) - centre for n, centre in zip(size, centres, strict=True)], indexing="ij"
        )
        index, weight = torch.zeros(1, 1, dtype=torch.int32, device=device), torch.ones(1, 1, device=device)
        for row, length, first, centre in zip(self.matrix, shape, centre_offsets(shape, size), centres, strict=True):
            position = torch.full(size, first + centre, device=device)
            for factor, offset in zip(row, offsets, strict=True):
                position.add_(offset, alpha=factor)
            below = position.floor()
            share = (position - below).flatten()
            neighbours = torch.stack([below, below + 1]).clamp_(-1, length).to(torch.int32).flatten(1) + 1
            index = ((index * (length + 2))[:, None] + neighbours).flatten(0, 1)
            weight = (weight[:, None] * torch.stack([1 - share, share])).flatten(0, 1)
        return index, weight


def _largest_share(candidates: Tensor, weights: Tensor) -> Tensor:
    """Label with the largest sum of weights at each voxel; candidates (corners, ..., N), weights (corners, N)."""
    winner = candidates[0].flatten().clone()
    where = (candidates.amin(dim=0) != candidates.amax(dim=0)).flatten().nonzero()[:, 0]
    labels = candidates.flatten(1).index_select(1, where)
    weights = weights.index_select(1, where % weights.shape[1])
    best = torch.zeros(len(where), device=weights.device)
    chosen = labels[0]
    for label in labels:
        share = (weights * (labels == label)).sum(dim=0)
        chosen = torch.where(share > best, label, chosen)
        best = torch.maximum(best, share)
    winner[where] = chosen
    return winner


@dataclass(frozen=True)
class RandomAffine:
    """Rotation and scaling, drawn independently; without either the patch is only cut, which costs nothing.

    Attributes:
        size: final patch.
        rotation_degrees: largest angle either way; one angle per axis in 3D, one in the plane.
        rotation_probability: of any rotation.
        scale: lowest and highest factor of the field of view, one for all axes (above 1: things get smaller).
        scale_probability: of any scaling.
        is_in_plane: a 3D patch is treated as its slices along axis 0 (nnU-Net's dummy 2D).
    """

    size: tuple[int, ...]
    rotation_degrees: float
    rotation_probability: float = 0.2
    scale: tuple[float, float] = (0.7, 1.4)
    scale_probability: float = 0.2
    is_in_plane: bool = False

    def draw(self, rng: np.random.Generator) -> Affine | CentreCrop:
        """Draw a map for one sample."""
        is_rotated = rng.random() < self.rotation_probability
        is_scaled = rng.random() < self.scale_probability
        if not (is_rotated or is_scaled):
            return CentreCrop(self.size)
        num_dims = len(self.size) - self.is_in_plane
        matrix = np.eye(num_dims)
        if is_rotated:
            limit = np.deg2rad(self.rotation_degrees)
            matrix = rotation_matrix(rng.uniform(-limit, limit, 3 if num_dims == 3 else 1))
        if is_scaled:
            matrix = matrix * rng.uniform(*self.scale)
        return Affine(self.size, tuple(tuple(float(value) for value in row) for row in matrix))


def rotation_matrix(angles: Sequence[float] | np.ndarray) -> np.ndarray:
    """Rotation by angles in radians: one angle turns the plane; three turn about axis 0, then 1, then 2."""
    if len(angles) == 1:
        return _plane_rotation(2, 0, 1, angles[0])
    about_0, about_1, about_2 = angles
    return _plane_rotation(3, 0, 1, about_2) @ _plane_rotation(3, 2, 0, about_1) @ _plane_rotation(3, 1, 2, about_0)


def _plane_rotation(num_dims: int, first: int, second: int, angle: float) -> np.ndarray:
    matrix = np.eye(num_dims)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


@dataclass(frozen=True)
class Mirror:
    """Flip along spatial `axes` (0 is the first spatial axis)."""

    axes: tuple[int, ...]

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Flip both."""
        return image.flip([axis + 1 for axis in self.axes]), label.flip(list(self.axes))


@dataclass(frozen=True)
class RandomMirror:
    """Flip along each of `axes` with `probability`."""

    axes: tuple[int, ...]
    probability: float = 0.5

    def draw(self, rng: np.random.Generator) -> Mirror | None:
        """Draw the axes for one sample; None flips nothing."""
        axes = tuple(axis for axis in self.axes if rng.random() < self.probability)
        return Mirror(axes) if axes else None
