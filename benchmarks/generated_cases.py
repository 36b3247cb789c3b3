"""Four CT-like cases of 96x160x160 voxels and unequal spacing, for benchmarks that must not need a download.

A smooth body in air with bones, noise, an organ (label 1) and a lesion in it (label 2). The same voxels each time.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from pipelines.cases.case import DatasetInfo, RawDataset, RawEntry
from pipelines.cases.nifti import write_nifti

SHAPE = (96, 160, 160)
SPACINGS_MM = ((5.0, 0.8, 0.8), (3.0, 0.8, 0.8), (3.0, 0.9, 0.9), (2.5, 0.7, 0.7))
_AIR, _FAT, _ORGAN, _LESION, _BONE = -1000, -80, 60, 110, 400
_NOISE = 15.0


def write_generated_cases(folder: Path) -> RawDataset:
    """Write the cases as NIfTI files `ct_N.nii.gz` and `ct_N_label.nii.gz` to `folder`, and list them."""
    entries = []
    for number, spacing_mm in enumerate(SPACINGS_MM):
        image, label = generated_case(number)
        affine = np.diag([*spacing_mm[::-1], 1.0])
        paths = [folder / f"ct_{number}{ending}" for ending in (".nii.gz", "_label.nii.gz")]
        for path, array in zip(paths, (image, label), strict=True):
            write_nifti(path, nib.Nifti1Image(np.asfortranarray(array.T), affine))
        entries.append(RawEntry(f"ct_{number}", (str(paths[0]),), str(paths[1]), None, "train", None))
    labels = {"background": 0, "organ": 1, "lesion": 2}
    return RawDataset(DatasetInfo("Generated", ("CT",), labels, description="generated CT-like cases"), entries)


def generated_case(number: int, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Image int16 and label uint8 of one case, both (Z, Y, X) of `shape`."""
    rng = np.random.default_rng(number)
    axes = np.ogrid[tuple(slice(-1.0, 1.0, size * 1j) for size in shape)]

    def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
        parts = zip(axes, np.add(centre, rng.normal(0, 0.03, 3)), radii, strict=True)
        return sum(((axis - middle) / radius) ** 2 for axis, middle, radius in parts) <= 1

    body = ellipsoid((0, 0, 0), (1.2, 0.8, 0.9))
    spine = ellipsoid((0, 0.5, 0), (1.2, 0.12, 0.12))
    organ = ellipsoid((0.1, -0.1, -0.35), (0.5, 0.4, 0.35)) & body
    lesion = ellipsoid((0.1, -0.1, -0.35), (0.12, 0.15, 0.15)) & organ
    waves = sum(np.cos(axis * rng.uniform(2, 6) + rng.uniform(0, 6)) for axis in axes)
    image = np.where(body, _FAT + 20 * waves, _AIR)
    for inside, value in ((spine, _BONE), (organ, _ORGAN), (lesion, _LESION)):
        image[inside] = value + 5 * waves[inside]
    image += rng.normal(0, _NOISE, shape)
    label = organ.astype(np.uint8) + lesion
    return image.round().astype(np.int16), label
