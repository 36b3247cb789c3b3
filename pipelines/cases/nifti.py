"""NIfTI files as arrays in one orientation, and label maps back on the grid of a scan.

A file's axes may run in any order and direction. In memory they are always z, y, x of the orientation nearest to
right-anterior-superior: the axis order of the file is permuted and flipped, never resampled. A picture
(`pipelines.cases.raster`) is a scan of one slice with voxels of 1 mm.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt2axcodes, ornt_transform
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from nibabel.wrapstruct import WrapStructError

from pipelines.atomic_files import atomic_path
from pipelines.cases.case import Case
from pipelines.cases.raster import AFFINE, AXIS_CODES, is_raster, read_raster, write_raster

NIFTI_SUFFIXES = (".nii.gz", ".nii")
_GZIP_MAGIC = b"\x1f\x8b"
_NIFTI2_HEADER_BYTES = 540


@dataclass(frozen=True)
class NiftiFile:
    """A whole file, read once.

    Attributes:
        array: (C, Z, Y, X), values scaled as the header says, in the type they have then; not to be written to.
        spacing_mm: (z, y, x).
        affine: (4, 4) of the file as stored.
        canonical_affine: (4, 4) voxel x, y, z of the reoriented grid to mm.
        axis_codes: direction of each stored axis, such as "LPS".
        digest: sha256 of the file's bytes.
    """

    array: np.ndarray
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray
    canonical_affine: np.ndarray
    axis_codes: str
    digest: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z, y, x) voxels."""
        _, z, y, x = self.array.shape
        return z, y, x


@dataclass(frozen=True)
class Image:
    """An image in memory.

    Attributes:
        array: (C, Z, Y, X) float32.
        spacing_mm: (z, y, x).
        affine: (4, 4) of the first file as stored.
    """

    array: np.ndarray
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray


def _unreadable(path: Path | str, reason: object) -> ValueError:
    on_one_line = " ".join(str(reason).split())
    return ValueError(
        f"{path}: cannot be read as NIfTI ({on_one_line}); the file is truncated or damaged: copy it again from where "
        "it came, or leave the case out"
    )


def _open(path: Path | str) -> tuple[Any, np.ndarray, str]:
    """Give the nibabel image of a file, its voxels as stored but scaled, and the sha256 of its bytes."""
    try:
        stored = Path(path).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; correct the path, or leave the case out") from None
    try:
        content = gzip.decompress(stored) if stored.startswith(_GZIP_MAGIC) else stored
        is_second = _NIFTI2_HEADER_BYTES in (int.from_bytes(content[:4], "little"), int.from_bytes(content[:4], "big"))
        image = (nib.Nifti2Image if is_second else nib.Nifti1Image).from_bytes(content)
        voxels = _voxels(image.dataobj, content)
    except (EOFError, OSError, ValueError, zlib.error, ImageFileError, HeaderDataError, WrapStructError) as error:
        raise _unreadable(path, error) from error
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-12:
        raise ValueError(
            f"{path}: its affine {image.affine[:3].tolist()} has no inverse, so the axes have no direction; "
            "correct qform and sform in the header"
        )
    return image, voxels, hashlib.sha256(stored).hexdigest()


def _voxels(proxy: Any, content: bytes) -> np.ndarray:
    """What nibabel's proxy would read of a file with this content, but not copied where nothing is to be scaled."""
    num_bytes = math.prod(proxy.shape) * proxy.dtype.itemsize
    if proxy.offset + num_bytes > len(content):
        raise ValueError(f"its header tells of {num_bytes} bytes of voxels, there are {len(content) - proxy.offset}")
    flat = np.frombuffer(content, proxy.dtype, math.prod(proxy.shape), proxy.offset)
    return apply_read_scaling(flat.reshape(proxy.shape, order="F"), np.float64(proxy.slope), np.float64(proxy.inter))


def _stored_spacing(image: Any) -> list[float]:
    """Spacing along the three stored axes in mm; a 2D file may leave its third open."""
    zooms = [float(zoom) for zoom in image.header.get_zooms()[:3]]
    if len(zooms) == 2:
        zooms.append(float(image.header["pixdim"][3]) or 1.0)
    return zooms


def read_file(path: Path | str, is_label: bool = False) -> NiftiFile:
    """Read one file whole: voxels, geometry and digest.

    A 2D file (X, Y) gets a z axis of length 1; the last axis of a 4D file (X, Y, Z, C) becomes the channels.

    Args:
        path: NIfTI or a picture.
        is_label: whether it holds numbers of classes or objects, for which pictures have forms of their own.

    Raises:
        ValueError: missing, truncated or damaged, not 2D to 4D, colour or complex voxels, or a singular affine; the
            message names the file and the fix.
    """
    if is_raster(path):
        planes, digest = read_raster(path, is_label)
        return NiftiFile(planes[:, np.newaxis], (1.0, 1.0, 1.0), AFFINE, _canonical(planes.shape), AXIS_CODES, digest)
    image, array, digest = _open(path)
    if array.ndim not in (2, 3, 4) or array.dtype.kind not in "biuf":
        raise ValueError(
            f"{path}: shape {array.shape} of {array.dtype}; an image has 2 or 3 axes, or 4 with the channels last, of "
            "plain numbers: save each channel as a file of its own"
        )
    if array.ndim == 2:
        array = array[:, :, np.newaxis]
    if array.ndim == 3:
        array = array[..., np.newaxis]

    orientation = io_orientation(image.affine)
    spacing_xyz = np.empty(3)
    spacing_xyz[orientation[:, 0].astype(int)] = _stored_spacing(image)
    reoriented = apply_orientation(array, orientation)
    return NiftiFile(
        array=reoriented.transpose(3, 2, 1, 0),
        spacing_mm=(float(spacing_xyz[2]), float(spacing_xyz[1]), float(spacing_xyz[0])),
        affine=image.affine,
        canonical_affine=image.affine @ nib.orientations.inv_ornt_aff(orientation, array.shape[:3]),
        axis_codes="".join(ornt2axcodes(orientation)),
        digest=digest,
    )


def _canonical(shape: tuple[int, ...]) -> np.ndarray:
    """Of a picture whose rows were turned round: voxel x, y, z to mm."""
    orientation = io_orientation(AFFINE)
    canonical: np.ndarray = AFFINE @ nib.orientations.inv_ornt_aff(orientation, (shape[2], shape[1], 1))
    return canonical


def read_image(source: Case | Path | str | Sequence[Path | str]) -> Image:
    """Read the image of a case: the channels of its files, one after the other.

    Args:
        source: a case, a file, or the files of all channels.

    Raises:
        ValueError: a file cannot be read, or the files of the channels differ in shape.
    """
    if isinstance(source, Case):
        source = source.image_paths
    paths = [source] if isinstance(source, str | Path) else list(source)
    files = [read_file(path) for path in paths]
    for path, file in zip(paths, files, strict=True):
        if file.shape != files[0].shape:
            raise ValueError(
                f"{path}: shape (z, y, x) {file.shape}, but {paths[0]} has {files[0].shape}; all "
                "channels of a case lie on one grid: resample one onto the other"
            )
    array = np.empty((sum(len(file.array) for file in files), *files[0].shape), np.float32)
    np.concatenate([file.array for file in files], out=array, casting="same_kind")
    return Image(array, files[0].spacing_mm, files[0].affine)


def read_label(path: Path | str) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Read a label map: ((Z, Y, X) int16, spacing (z, y, x) in mm).

    Raises:
        ValueError: the file cannot be read, has more than one channel, or values that are not whole numbers.
    """
    file = read_file(path, is_label=True)
    if len(file.array) != 1:
        raise ValueError(f"{path}: a label map with {len(file.array)} channels; save one map of class numbers")
    label = np.ascontiguousarray(file.array[0], np.int16)
    if not np.array_equal(label, file.array[0]):
        raise ValueError(f"{path}: label values that are not whole numbers; save the class numbers as integers")
    return label, file.spacing_mm


def label_suffix(like_path: Path | str) -> str:
    """How the name of a label map of a scan ends: `.png` for that of a picture, else `.nii.gz`."""
    return ".png" if is_raster(like_path) else ".nii.gz"


def write_label(
    path: Path | str, array: np.ndarray, like_path: Path | str, dtype: type[np.unsignedinteger] | None = None
) -> None:
    """Write a label map on exactly the grid of a scan: its axis order, directions and affine.

    The same map gives the same bytes.

    Args:
        path: .nii.gz or .nii; .png where the scan is a picture.
        array: (Z, Y, X) integers from 0, as `read_label` would give them.
        like_path: the scan; a 2D scan gets a 2D label map.
        dtype: of the file; None for uint8, or uint16 where that is too small.

    Raises:
        ValueError: the scan cannot be read.
    """
    dtype = dtype or (np.uint8 if array.max() <= np.iinfo(np.uint8).max else np.uint16)
    if is_raster(like_path):
        assert len(array) == 1, f"label map {array.shape} is not on the grid of the picture {like_path}"
        assert array.min() >= 0
        write_raster(path, array[0].astype(dtype))
        return
    like, _, _ = _open(like_path)
    stored_shape = (*like.shape[:3], 1)[:3]
    to_stored = ornt_transform(axcodes2ornt(("R", "A", "S")), io_orientation(like.affine))
    stored = apply_orientation(array.transpose(2, 1, 0), to_stored)
    assert stored.shape == stored_shape, f"label map {array.shape} is not on the grid {stored_shape} of {like_path}"
    assert stored.min() >= 0

    header = like.header.copy()
    header.extensions.clear()
    header.set_data_dtype(dtype)
    header["descrip"] = b""
    header["cal_min"] = header["cal_max"] = 0
    voxels = stored.reshape(like.shape[:3]).astype(header.get_data_dtype())
    write_nifti(path, type(like)(voxels, like.affine, header))


def write_nifti(path: Path | str, image: nib.Nifti1Image) -> None:
    """Write a nibabel image atomically; without a time stamp, so that the same image gives the same bytes."""
    content = image.to_bytes()
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(content, 6, mtime=0) if str(path).endswith(".gz") else content)
