"""One prepared case as one Arrow IPC file.

One row per slice. Columns: `image`, fixed-shape tensors (C, Y, X) float16 or float32, and `label`, fixed-shape tensors
(Y, X) int8 or int16 (left out for a case without a label). Schema metadata: `properties` (JSON), `locations/CLASS` (see
`locations.encoded`), `digest` (sha256 of the arrays with their types and shapes, the same for every compression),
`compression`, `num_slices` and `slices_per_batch`.

Without compression all slices are one record batch, read through a memory map without a copy: reading touches only the
pages of the crop, and processes share them through the page cache. With it a batch holds few slices, and a crop
decompresses the batches that it touches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.atomic_files import atomic_path
from pipelines.preprocessing.locations import StoredLocations, encoded
from pipelines.preprocessing.normalise import mean_and_std

COMPRESSIONS = ("none", "lz4", "zstd")
_HALF_MAX = 65504.0
_HALF_ERROR = 0.005
_LOCATIONS = "locations/"
# Arrow's names of the types; what it offers itself to get from one to the other imports pandas.
_DTYPES = {"halffloat": np.float16, "float": np.float32, "int8": np.int8, "int16": np.int16}
# Zstandard at 6 takes a tenth less space than at 3, beyond it hardly anything is won (hippocampus).
_ZSTD_LEVEL = 6
# Of a compressed batch before compression: small for a patch of few slices, large enough to find repetitions in.
_BATCH_BYTES = 2**18


class CompressedVoxels:
    """An image or a label map in compressed batches of slices.

    Indexed by whole numbers and by slices of step 1, and converted by `numpy.asarray`, like the array it stands for.

    Attributes:
        shape: as of the array.
        dtype: as of the array.
        ndim: as of the array.
    """

    def __init__(self, reader: Any, num_slices: int, slices_per_batch: int, slice_axis: int) -> None:
        """Keep the reader; nothing is decompressed yet.

        Args:
            reader: of record batches whose only column are the slices.
            num_slices: Z.
            slices_per_batch: in every batch but the last.
            slice_axis: of Z in the array: 1 in an image, 0 in a label map.
        """
        tensor = reader.schema.field(0).type
        inner = list(tensor.shape)
        self.shape = (*inner[:slice_axis], num_slices, *inner[slice_axis:])
        self.dtype = np.dtype(_DTYPES[str(tensor.value_type)])
        self.ndim = len(self.shape)
        self._reader = reader
        self._slices_per_batch = slices_per_batch
        self._slice_axis = slice_axis

    def __getitem__(self, key: Any) -> np.ndarray:
        keys = list(key) if isinstance(key, tuple) else [key]
        assert len(keys) <= self.ndim, f"{len(keys)} indices into {self.ndim} axes"
        keys += [slice(None)] * (self.ndim - len(keys))
        wanted, num_slices = keys[self._slice_axis], self.shape[self._slice_axis]
        if not isinstance(wanted, slice):
            position = range(num_slices)[wanted]
            keys[self._slice_axis] = position % self._slices_per_batch
            return self._batch(position // self._slices_per_batch)[tuple(keys)]
        first, stop, step = wanted.indices(num_slices)
        assert step == 1, f"step {step}"
        # Batch 0 gives an empty result its shape.
        batches = range(first // self._slices_per_batch, -(-stop // self._slices_per_batch)) if first < stop else [0]
        parts = []
        for number in batches:
            before = number * self._slices_per_batch
            keys[self._slice_axis] = slice(max(first - before, 0), max(stop - before, 0))
            parts.append(self._batch(number)[tuple(keys)])
        num_dropped = sum(not isinstance(item, slice) for item in keys[: self._slice_axis])
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=self._slice_axis - num_dropped)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a compressed case is read by decompressing it, which cannot do without a copy")
        return np.asarray(self[:], dtype=dtype)

    def _batch(self, number: int) -> np.ndarray:
        return np.moveaxis(self._reader.get_batch(number).column(0).to_numpy_ndarray(), 0, self._slice_axis)


Voxels = np.ndarray | CompressedVoxels


@dataclass(frozen=True)
class PreparedCase:
    """A prepared case on disk. Pickles as its path, so a worker process opens its own memory map.

    Attributes:
        path: the Arrow file.
        image: (C, Z, Y, X) float16 or float32, read-only view of the map, or decompressed where it is indexed.
        label: (Z, Y, X) int8 or int16, likewise, or None. -1 outside the nonzero mask.
        locations: class -> (k, 3) int32 voxels, see `locations.py`.
        properties: what export needs, see `prepare.py`; and `dtype`, `dtype_reason`.
        digest: sha256 of the arrays.
    """

    path: Path
    image: Voxels = field(repr=False)
    label: Voxels | None = field(repr=False)
    locations: Mapping[int, np.ndarray] = field(repr=False)
    properties: dict[str, Any] = field(repr=False)
    digest: str

    def __reduce__(self) -> tuple[Any, ...]:
        return open_case, (self.path,)


def write_case(
    path: Path | str,
    image: np.ndarray,
    label: np.ndarray | None,
    locations: Mapping[int, np.ndarray],
    properties: dict[str, Any],
    compression: str = "none",
) -> None:
    """Write a case atomically.

    Args:
        path: target file.
        image: (C, Z, Y, X) float. Stored as float16 where that keeps it, else float32 with the reason in the
            properties.
        label: (Z, Y, X) integers in the range of int16, or None.
        locations: class -> (k, 3) voxels of `label`.
        properties: JSON values; `dtype` and `dtype_reason` are added.
        compression: of `COMPRESSIONS`. Hippocampus cases take 0.66 of their size with lz4, 0.41 with zstd
            (`benchmarks.nnunet_preprocessing`).
    """
    import pyarrow as pa

    stored, reason = _stored_image(image)
    properties = {**properties, "dtype": str(stored.dtype), "dtype_reason": reason}
    arrays = {"image": stored}
    if label is not None:
        arrays["label"] = np.ascontiguousarray(label, dtype=_label_dtype(label))
    num_slices = len(stored)
    slice_bytes = sum(array.nbytes for array in arrays.values()) // num_slices
    slices_per_batch = num_slices if compression == "none" else min(max(_BATCH_BYTES // slice_bytes, 1), num_slices)
    metadata: dict[str, str | bytes] = {
        "properties": json.dumps(properties),
        "digest": _digest(arrays),
        "compression": compression,
        "num_slices": str(num_slices),
        "slices_per_batch": str(slices_per_batch),
    }
    metadata |= {f"{_LOCATIONS}{value}": encoded(voxels, image.shape[1:]) for value, voxels in locations.items()}
    types = {name: pa.fixed_shape_tensor(pa.from_numpy_dtype(a.dtype), a.shape[1:]) for name, a in arrays.items()}
    schema = pa.schema(list(types.items()), metadata=metadata)
    options = pa.ipc.IpcWriteOptions(compression=_codec(compression), use_threads=False)
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema, options=options) as writer,
    ):
        for first in range(0, num_slices, slices_per_batch):
            rows = slice(first, first + slices_per_batch)
            columns = [_tensor_column(array[rows], types[name]) for name, array in arrays.items()]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def open_case(path: Path | str) -> PreparedCase:
    """Open a case; no voxel is read, and nothing is decompressed.

    Raises:
        ValueError: the file is missing, cut short or not one of ours.
    """
    import pyarrow as pa

    path = Path(path)
    try:
        # The views keep the map alive; the file descriptor must not stay open for each of a thousand cases.
        with pa.memory_map(str(path)) as source:
            content = source.read_buffer()
        metadata = pa.ipc.open_file(content).schema.metadata
        properties, digest = json.loads(metadata[b"properties"]), metadata[b"digest"].decode()
        voxels = _voxels(content)
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise ValueError(f"{path}: not a readable prepared case ({error}); run the preprocess stage again") from error
    contents = {
        int(key.decode().removeprefix(_LOCATIONS)): value
        for key, value in metadata.items()
        if key.startswith(_LOCATIONS.encode())
    }
    image = voxels["image"]
    locations = StoredLocations(contents, image.shape[1:])
    return PreparedCase(path, image, voxels.get("label"), locations, properties, digest)


def read_digest(path: Path | str) -> str:
    """Content digest of a stored case, without reading its arrays."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).schema.metadata[b"digest"].decode()


def _voxels(content: Any) -> dict[str, Voxels]:
    """The columns of a file in memory, by name."""
    import pyarrow as pa

    reader = pa.ipc.open_file(content)
    metadata, names = reader.schema.metadata, reader.schema.names
    slice_axes = {name: 1 if name == "image" else 0 for name in names}
    if metadata[b"compression"] == b"none":
        batch = reader.get_batch(0)
        return {name: np.moveaxis(batch.column(name).to_numpy_ndarray(), 0, axis) for name, axis in slice_axes.items()}
    num_slices, slices_per_batch = int(metadata[b"num_slices"]), int(metadata[b"slices_per_batch"])
    voxels: dict[str, Voxels] = {}
    for number, (name, axis) in enumerate(slice_axes.items()):
        # Whoever wants a slice of the label does not wait for the image.
        alone = pa.ipc.IpcReadOptions(included_fields=[number], use_threads=False)
        voxels[name] = CompressedVoxels(pa.ipc.open_file(content, options=alone), num_slices, slices_per_batch, axis)
    return voxels


def _codec(compression: str) -> Any:
    import pyarrow as pa

    assert compression in COMPRESSIONS, compression
    if compression == "zstd":
        return pa.Codec("zstd", compression_level=_ZSTD_LEVEL)
    return None if compression == "none" else compression


def _stored_image(image: np.ndarray) -> tuple[np.ndarray, str]:
    """The image by slices, (Z, C, Y, X), in the type it is stored in, and why that type."""
    by_slice = np.moveaxis(image, 0, 1)
    largest = max(float(image.max(initial=0.0)), -float(image.min(initial=0.0)))
    if not np.isfinite(largest):
        return np.ascontiguousarray(by_slice, np.float32), "float32: values are not all finite"
    if largest > _HALF_MAX:
        reason = f"float32: largest |value| {largest:g} exceeds {_HALF_MAX:g}"
        return np.ascontiguousarray(by_slice, np.float32), reason
    half = np.ascontiguousarray(by_slice, np.float16)
    for channel, values in enumerate(image):
        pairs = zip(half[:, channel], values, strict=True)
        squares = sum(float(np.square(rounded.astype(np.float32) - plane).sum(dtype=float)) for rounded, plane in pairs)
        error, std = (squares / values.size) ** 0.5, mean_and_std(values)[1]
        if error > _HALF_ERROR * std:
            reason = f"float32: float16 rounds channel {channel} by {error:g}, its std is {std:g}"
            return np.ascontiguousarray(by_slice, np.float32), reason
    return half, f"float16: largest |value| {largest:g}, rounding below {_HALF_ERROR:g} of each channel's std"


def _label_dtype(label: np.ndarray) -> type[np.integer]:
    limits = np.iinfo(np.int8)
    return np.int8 if label.min(initial=0) >= limits.min and label.max(initial=0) <= limits.max else np.int16


def _tensor_column(array: np.ndarray, tensor_type: Any) -> Any:
    import pyarrow as pa

    # `pa.array` would import pandas, to see whether it is given one of its series.
    flat = pa.Array.from_buffers(pa.from_numpy_dtype(array.dtype), array.size, [None, pa.py_buffer(array)])
    storage = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(array.shape[1:])))
    return pa.ExtensionArray.from_storage(tensor_type, storage)


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()
