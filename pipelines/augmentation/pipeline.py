"""nnU-Net v2's list of training augmentations, drawn for one sample and applied to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from pipelines.augmentation.intensity import (
    BackgroundOutside,
    RandomBlur,
    RandomBrightness,
    RandomContrast,
    RandomGamma,
    RandomLowResolution,
    RandomNoise,
    ZeroOutside,
)
from pipelines.augmentation.spatial import Affine, Box, CentreCrop, RandomAffine, RandomElastic, RandomMirror
from pipelines.planning.patch import rotation_degrees


class Transform(Protocol):
    """Something drawn: applied twice, it gives the same result twice."""

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Change image (C, *spatial) and label (*spatial); the arguments stay as they are."""


class RandomTransform(Protocol):
    """Something to draw from."""

    def draw(self, rng: np.random.Generator) -> Transform | None:
        """Draw for one sample; None: nothing happens to it."""


@dataclass(frozen=True)
class Augmentation:
    """Random transforms in order, then those every sample gets."""

    random: tuple[RandomTransform, ...]
    always: tuple[Transform, ...]

    def draw(self, rng: np.random.Generator) -> tuple[Transform, ...]:
        """Draw what one sample gets; the result is the record of it (print it, apply it again)."""
        drawn = (transform.draw(rng) for transform in self.random)
        return (*(transform for transform in drawn if transform is not None), *self.always)

    def apply(self, transforms: Sequence[Transform], image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Apply what was drawn.

        Args:
            transforms: from `draw`.
            image: (C, *initial_patch_size) float32, any device; or what `box` says of it.
            label: (*initial_patch_size) integers, same device; -1 outside.

        Returns:
            Image (C, *patch_size) and label (*patch_size), -1 replaced by 0.
        """
        for transform in transforms:
            image, label = transform.apply(image, label)
        return image.contiguous(), label.contiguous()


def box(transforms: Sequence[Transform], shape: Sequence[int]) -> Box:
    """First voxel and size, per axis, of the part of an initial patch of `shape` that `transforms` look at."""
    if transforms and isinstance(transforms[0], (Affine, CentreCrop)):
        return transforms[0].box(shape)
    return (0,) * len(shape), tuple(shape)


def training_augmentation(
    spatial_dims: int,
    patch_size: Sequence[int],
    mirror_axes: Sequence[int],
    is_dummy_2d: bool,
    uses_nonzero_mask: Sequence[bool],
    elastic_probability: float = 0.0,
) -> Augmentation:
    """nnU-Net's list and probabilities, and, which it has not, elastic deformation.

    Args:
        spatial_dims: 2 or 3.
        patch_size: final patch; the spatial step goes there straight from the initial patch.
        mirror_axes: spatial axes that may be flipped.
        is_dummy_2d: rotate and scale only within slices along axis 0.
        uses_nonzero_mask: per image channel; its length is the number of channels.
        elastic_probability: of an elastic deformation; with 0 none is drawn for.
    """
    assert len(patch_size) == spatial_dims
    size, num_channels = tuple(patch_size), len(uses_nonzero_mask)
    masked = tuple(channel for channel, is_masked in enumerate(uses_nonzero_mask) if is_masked)
    outside = (ZeroOutside(masked),) if masked else ()
    elastic = (RandomElastic(size, elastic_probability, is_in_plane=is_dummy_2d),) if elastic_probability else ()
    return Augmentation(
        random=(
            RandomAffine(size, rotation_degrees(size), is_in_plane=is_dummy_2d),
            *elastic,
            RandomNoise(),
            RandomBlur(num_channels, spatial_dims),
            RandomBrightness(num_channels),
            RandomContrast(num_channels),
            RandomLowResolution(num_channels, keeps_first_axis=is_dummy_2d),
            RandomGamma(num_channels, is_inverted=True, probability=0.1),
            RandomGamma(num_channels, is_inverted=False, probability=0.3),
            RandomMirror(tuple(mirror_axes)),
        ),
        always=(*outside, BackgroundOutside()),
    )


def validation_augmentation() -> Augmentation:
    """What a validation patch, cut at its final size, gets: label -1 becomes 0."""
    return Augmentation(random=(), always=(BackgroundOutside(),))
