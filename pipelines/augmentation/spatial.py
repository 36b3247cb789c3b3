"""Rotation, scaling and mirroring of a patch (nnU-Net v2), and elastic deformation (U-Net, Ronneberger et al., 2015).

Each transform is two classes: `Random…` draws, the other is what was drawn and can be applied again. Images are
(C, *spatial) float, labels (*spatial) of any integer type; spatial axes are (Z, Y, X) or (Y, X).

Differs:
    - Rotation turns voxels. nnU-Net turns coordinates scaled to -1..1 of the initial patch, which shears a patch whose
      sides differ.
    - The centre is that of the plain crop, so zero rotation and unit scale equal the crop exactly.
    - Labels: the largest share in linear interpolation, counted over the at most eight voxels around a point, so the
      cost does not grow with the number of classes. nnU-Net resamples one indicator per class and thresholds it.
    - Elastic deformation: displacements have a deviation of U-Net's 10 voxels, but no more than a tenth of the shortest
      side, because patches may be small.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipelines.preprocessing.crop import OUTSIDE

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""First voxel and size, per axis."""


def centre_offsets(shape: Sequence[int], size: Sequence[int]) -> list[int]:
    """First voxel, per axis, of the central box of `size` in `shape`."""
    return [(full - part) // 2 for full, part in zip(shape, size, strict=True)]


@dataclass(frozen=True)
class CentreCrop:
    """Cut the central box of `size`."""

    size: tuple[int, ...]

    def box(self, shape: Sequence[int]) -> Box:
        """What this looks at of an image of `shape`: first voxel and size per axis."""
        return tuple(centre_offsets(shape, self.size)), self.size

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

    def box(self, shape: Sequence[int]) -> Box:
        """What this looks at of an image of `shape`: first voxel and size per axis, with the centre of the image.

        Cut to it, the image gives the same result, up to the rounding of positions.
        """
        num_untouched = len(self.size) - len(self.matrix)
        first, size = list(centre_offsets(shape, self.size)), list(self.size)
        halves = [(length - 1) / 2 for length in self.size[num_untouched:]]
        for axis, row in enumerate(self.matrix, start=num_untouched):
            reach = sum(abs(factor) * half for factor, half in zip(row, halves, strict=True))
            centre = first[axis] + (self.size[axis] - 1) / 2
            # One voxel more than the cell that holds the outermost position, because positions are rounded.
            margin = min(math.floor(centre - reach) - 1, shape[axis] - math.floor(centre + reach) - 3)
            first[axis] = max(margin, 0)
            size[axis] = shape[axis] - 2 * first[axis]
        return tuple(first), tuple(size)

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Resample both to `size`: image linearly with 0 outside, label by the largest linear share, -1 outside."""
        if len(self.matrix) < len(self.size):
            first = centre_offsets(label.shape, self.size)[0]
            image = image[:, first : first + self.size[0]]
            label = label[first : first + self.size[0]]
        return _resampled(image, label, self.size, self.matrix)


@dataclass(frozen=True)
class Elastic:
    """Look, for every voxel, beside where it is: displacements on a coarse grid, with bicubic ones between.

    Attributes:
        num_nodes: of the grid along an axis; the outer ones are the corners of the patch.
        shifts: in voxels; for the last axes of the patch, as many as move, one after the other, those of all nodes.
        num_dims: how many axes move; in a 3D patch two leave the slices apart.
    """

    num_nodes: int
    shifts: tuple[float, ...]
    num_dims: int

    def displacement(self, size: Sequence[int]) -> Tensor:
        """In voxels, (num_dims, *last sides of `size`)."""
        field = torch.tensor(self.shifts).view(self.num_dims, *[self.num_nodes] * self.num_dims)
        basis = torch.eye(self.num_nodes).view(1, self.num_nodes, self.num_nodes, 1)
        for side in size[-self.num_dims :]:
            weights = functional.interpolate(basis, size=(side, 1), mode="bicubic", align_corners=True)[0, :, :, 0]
            # The axis in front goes to the end, so that all have had their turn when they are in order again.
            field = torch.tensordot(field, weights, dims=([1], [0]))
        return field

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Resample both: image linearly with 0 outside, label by the largest linear share, -1 outside."""
        identity = torch.eye(self.num_dims).tolist()
        displacement = self.displacement(label.shape).to(image.device)
        return _resampled(image, label, tuple(label.shape), identity, displacement)


def _resampled(
    image: Tensor,
    label: Tensor,
    size: tuple[int, ...],
    matrix: Sequence[Sequence[float]],
    displacement: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Central box of `size`, mapped by `matrix` about its centre and then displaced (num_dims, *size)."""
    num_dims = len(matrix)
    # A border stands for everything outside: one voxel below, and two above, so that a position there has a cell.
    border = [1, 2] * num_dims
    values = functional.pad(image, border).flatten(-num_dims)
    classes = functional.pad(label.to(torch.int16), border, value=OUTSIDE).flatten(-num_dims)
    cells = _Cells.around(matrix, size[-num_dims:], label.shape[-num_dims:], image.device, displacement)
    winner = _largest_share(classes.view(-1, classes.shape[-1]), cells)
    return cells.interpolated(values).view(-1, *size), winner.view(size).to(label.dtype)


@dataclass(frozen=True)
class _Cells:
    """The cell of eight (2D: four) voxels around each of N positions in a bordered source, which is flat.

    Attributes:
        first: index of the lowest voxel, (N,) int64.
        shares: per axis, the share of the upper voxels, (N,).
        strides: per axis, from a lower voxel to the upper one.
    """

    first: Tensor
    shares: tuple[Tensor, ...]
    strides: tuple[int, ...]

    @classmethod
    def around(
        cls,
        matrix: Sequence[Sequence[float]],
        size: Sequence[int],
        shape: Sequence[int],
        device: torch.device,
        displacement: Tensor | None = None,
    ) -> _Cells:
        """Cells of the box of `size` in the middle of a source of `shape`, mapped by `matrix` about its centre.

        What is mapped is displaced by `displacement` (num_dims, *size) voxels, where there is one.
        """
        num_dims = len(shape)
        strides = tuple(math.prod(side + 3 for side in shape[axis + 1 :]) for axis in range(num_dims))
        centres = [(length - 1) / 2 for length in size]
        offsets = [
            (torch.arange(length, device=device) - centre).view([-1 if axis == own else 1 for axis in range(num_dims)])
            for own, (length, centre) in enumerate(zip(size, centres, strict=True))
        ]
        # Whole numbers below 2**24 are exact in float32.
        is_small = math.prod(side + 3 for side in shape) < 2**24
        first = torch.full(tuple(size), sum(strides), dtype=torch.float32 if is_small else torch.float64, device=device)
        shares = []
        for axis, (row, length, start, centre, stride) in enumerate(
            zip(matrix, shape, centre_offsets(shape, size), centres, strides, strict=True)
        ):
            position = offsets[0] * row[0] + (start + centre)
            for factor, offset in zip(row[1:], offsets[1:], strict=True):
                position = position + factor * offset
            if displacement is not None:
                position = position + displacement[axis]
            # Farther out there is only more of the border.
            below = position.clamp_(-1, length).floor()
            first.add_(below, alpha=stride)
            shares.append(position.sub_(below).flatten())
        return cls(first.flatten().to(torch.int64), tuple(shares), strides)

    def offsets(self) -> Tensor:
        """From the lowest voxel of a cell to each of its voxels, (corners, 1)."""
        steps = [sum(steps) for steps in itertools.product(*((0, stride) for stride in self.strides))]
        return torch.tensor(steps, device=self.first.device)[:, None]

    def weights(self, where: Tensor) -> Tensor:
        """Weights of all voxels of the cells `where`, (corners, N)."""
        weights = torch.ones(1, len(where), device=where.device)
        for share in self.shares:
            upper = share[where]
            weights = (weights[:, None] * torch.stack([1 - upper, upper])).flatten(0, 1)
        return weights

    def interpolated(self, values: Tensor) -> Tensor:
        """Linear interpolation of values (..., M) in each cell: (..., N)."""
        # One row alone is read as such, which is faster.
        rows = values.view(-1, values.shape[-1])
        return self._interpolated(rows[0] if len(rows) == 1 else rows, 0, 0)

    def _interpolated(self, values: Tensor, axis: int, offset: int) -> Tensor:
        if axis == len(self.strides):
            return values[..., offset:].index_select(-1, self.first)
        low = self._interpolated(values, axis + 1, offset)
        high = self._interpolated(values, axis + 1, offset + self.strides[axis])
        return low.lerp_(high, self.shares[axis])


def _largest_share(classes: Tensor, cells: _Cells) -> Tensor:
    """Label with the largest sum of weights in each of N cells, (R, N); classes (R, M)."""
    lowest = highest = classes
    for stride in cells.strides:
        lowest = torch.minimum(lowest[:, :-stride], lowest[:, stride:])
        highest = torch.maximum(highest[:, :-stride], highest[:, stride:])
    winner = classes.index_select(1, cells.first)
    # Most cells hold one label and most others two: only what is left is counted label by label.
    row, where = (lowest != highest).index_select(1, cells.first).nonzero(as_tuple=True)
    first = cells.first[where]
    lower, upper = lowest[row, first], highest[row, first]
    labels, weights = classes[row, first + cells.offsets()], cells.weights(where)
    is_upper = labels == upper
    share = weights.masked_fill(~is_upper, 0).sum(dim=0)
    chosen = torch.where(share > 0.5, upper, torch.where(share < 0.5, lower, labels[0]))
    third = (~is_upper & (labels != lower)).any(dim=0).nonzero()[:, 0]
    if len(third):
        chosen[third] = _counted(labels[:, third], weights[:, third])
    winner[row, where] = chosen
    return winner


def _counted(labels: Tensor, weights: Tensor) -> Tensor:
    """Label with the largest sum of weights, the first of equal ones; both (corners, N)."""
    chosen, best = labels[0], torch.zeros_like(weights[0])
    for candidate in labels:
        share = weights.masked_fill(labels != candidate, 0).sum(dim=0)
        chosen = torch.where(share > best, candidate, chosen)
        best = torch.maximum(best, share)
    return chosen


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


@dataclass(frozen=True)
class RandomElastic:
    """Elastic deformation with `probability`.

    Attributes:
        size: of the patch.
        probability: of any deformation.
        std_voxels: deviation of the displacement of a node along an axis.
        num_nodes: of the grid along an axis.
        is_in_plane: a 3D patch is treated as its slices along axis 0.
    """

    size: tuple[int, ...]
    probability: float
    std_voxels: float = 10.0
    num_nodes: int = 3
    is_in_plane: bool = False

    def draw(self, rng: np.random.Generator) -> Elastic | None:
        """Draw displacements for one sample; None moves nothing."""
        if rng.random() >= self.probability:
            return None
        num_dims = len(self.size) - self.is_in_plane
        std = min(self.std_voxels, min(self.size[-num_dims:]) / 10)
        shifts = rng.normal(0, std, num_dims * self.num_nodes**num_dims)
        return Elastic(self.num_nodes, tuple(shifts.tolist()), num_dims)


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
