"""Pictures as arrays: PNG, TIFF, JPEG and BMP, grey or colour, one channel or three.

A picture has no spacing and no directions: a pixel counts as 1 mm, x runs to the right and y upwards, as in the view of
a scan. Rows are therefore turned round when read, and again when written.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np

from pipelines.atomic_files import atomic_path

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
# x, y, z of the file, whose rows run downwards.
AFFINE = np.diag([1.0, -1.0, 1.0, 1.0])
AXIS_CODES = "RPS"

# Modes of Pillow whose numbers are taken as they are.
_PLAIN = ("1", "L", "I", "F", "I;16", "I;16L", "I;16B", "RGB")


def is_raster(path: Path | str) -> bool:
    """Whether a file is a picture, by its name."""
    return str(path).lower().endswith(SUFFIXES)


def read_raster(path: Path | str, is_label: bool = False) -> tuple[np.ndarray, str]:
    """Read a picture whole.

    An alpha channel is dropped. A palette is looked up in an image; in a label map its indices are the numbers. A label
    map in colour whose channels are alike is one of a single channel, and one of 0 and 255 alone is a mask: 255 is
    read as 1.

    Args:
        path: of the file.
        is_label: whether it holds numbers of classes or objects.

    Returns:
        (C, Y, X), rows from the lowest up; and the sha256 of the file's bytes.

    Raises:
        ValueError: missing, damaged, or of several pages; the message names the file and the fix.
    """
    try:
        stored = Path(path).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; correct the path, or leave the case out") from None
    pixels = _decoded(path, stored, is_label)
    planes = pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if is_label:
        planes = _as_label(planes)
    return np.ascontiguousarray(planes[:, ::-1]), hashlib.sha256(stored).hexdigest()


def write_raster(path: Path | str, plane: np.ndarray) -> None:
    """Write (Y, X) of uint8 or uint16, rows from the lowest up, as a grey PNG; the same plane gives the same bytes."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(plane[::-1])).save(content, format="PNG")
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getvalue())


def _decoded(path: Path | str, stored: bytes, is_label: bool) -> np.ndarray:
    """(Y, X) or (Y, X, 3), rows from the highest down."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(stored)) as picture:
            num_pages = getattr(picture, "n_frames", 1)
            if num_pages == 1:
                is_plain = picture.mode in _PLAIN or (picture.mode == "P" and is_label)
                grey = "L" if picture.mode in ("LA", "La") else "RGB"
                pixels = np.asarray(picture if is_plain else picture.convert(grey))
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        on_one_line = " ".join(str(error).split())
        raise ValueError(
            f"{path}: cannot be read as a picture ({on_one_line}); the file is truncated, damaged or of a kind that "
            "is not known: save it as PNG, or leave the case out"
        ) from error
    if num_pages > 1:
        raise ValueError(f"{path}: {num_pages} pages in one file; save each page as a picture of its own")
    return pixels.astype(np.uint8) if pixels.dtype == bool else pixels


def _as_label(planes: np.ndarray) -> np.ndarray:
    if len(planes) > 1 and all(np.array_equal(planes[0], plane) for plane in planes[1:]):
        planes = planes[:1]
    if planes.max() == 255 and np.isin(planes, (0, 255)).all():
        planes = planes // 255
    return planes
