"""One prepared case as one Arrow IPC file, read through a memory map without a copy.

One record batch, uncompressed, one row per slice. Columns: `image`, fixed-shape tensors (C, Y, X) float16 or float32,
and `label`, fixed-shape tensors (Y, X) int8 or int16 (left out for a case without a label). Schema metadata:
`properties` (JSON), `locations` (JSON: class -> base64 of little-endian uint32 flat voxel indices), `digest` (sha256
of the arrays with their types and shapes).

Reading touches only the pages of the crop, and processes share them through the page cache.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.atomic_files import atomic_path

_HALF_MAX = 65504.0
_HALF_ERROR = 0.005


@dataclass(frozen=True)
class PreparedCase:
    """A prepared case on disk. Pickles as its path, so a worker process opens its own memory map.

    Attributes:
        path: the Arrow file.
        image: (C, Z, Y, X) float16 or float32, read-only view of the map.
        label: (Z, Y, X) int8 or int16, read-only view, or None. -1 outside the nonzero mask.
        locations: class -> (k, 3) int32 voxels, see `locations.py`.
        properties: what export needs, see `prepare.py`; and `dtype`, `dtype_reason`.
        digest: sha256 of the arrays.
    """

    path: Path
    image: np.ndarray = field(repr=False)
    label: np.ndarray | None = field(repr=False)
    locations: dict[int, np.ndarray] = field(repr=False)
    properties: dict[str, Any] = field(repr=False)
    digest: str

    def __reduce__(self) -> tuple[Any, ...]:
        return open_case, (self.path,)


def write_case(
    path: Path | str,
    image: np.ndarray,
    label: np.ndarray | None,
    locations: dict[int, np.ndarray],
    properties: dict[str, Any],
) -> None:
    """Write a case atomically.

    Args:
        path: target file.
        image: (C, Z, Y, X) float. Stored as float16 where that keeps it, else float32 with the reason in the
            properties.
        label: (Z, Y, X) integers in the range of int16, or None.
        locations: class -> (k, 3) voxels of `label`.
        properties: JSON values; `dtype` and `dtype_reason` are added.
    """
    import pyarrow as pa

    stored, reason = _stored_image(image)
    properties = {**properties, "dtype": str(stored.dtype), "dtype_reason": reason}
    arrays = {"image": np.ascontiguousarray(np.moveaxis(stored, 0, 1))}
    if label is not None:
        arrays["label"] = np.ascontiguousarray(label, dtype=_label_dtype(label))
    metadata = {
        "properties": json.dumps(properties),
        "locations": json.dumps(_encoded_locations(locations, image.shape[1:])),
        "digest": _digest(arrays),
    }
    types = {name: pa.fixed_shape_tensor(pa.from_numpy_dtype(a.dtype), a.shape[1:]) for name, a in arrays.items()}
    schema = pa.schema(list(types.items()), metadata=metadata)
    columns = [_tensor_column(array, types[name]) for name, array in arrays.items()]
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        writer.write_batch(pa.record_batch(columns, schema=schema))


def open_case(path: Path | str) -> PreparedCase:
    """Open a case; arrays are views of the memory map, no voxel is read.

    Raises:
        ValueError: the file is missing, cut short or not one of ours.
    """
    import pyarrow as pa

    path = Path(path)
    try:
        # The views keep the map alive; the file descriptor must not stay open for each of a thousand cases.
        with pa.memory_map(str(path)) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
        metadata = {key.decode(): value.decode() for key, value in batch.schema.metadata.items()}
        image = np.moveaxis(batch.column("image").to_numpy_ndarray(), 1, 0)
        encoded = json.loads(metadata["locations"])
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise ValueError(f"{path}: not a readable prepared case ({error}); run the preprocess stage again") from error
    label = batch.column("label").to_numpy_ndarray() if "label" in batch.schema.names else None
    locations = {int(value): _decoded(text, image.shape[1:]) for value, text in encoded.items()}
    return PreparedCase(path, image, label, locations, json.loads(metadata["properties"]), metadata["digest"])


def read_digest(path: Path | str) -> str:
    """Content digest of a stored case, without reading its arrays."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).schema.metadata[b"digest"].decode()


def _stored_image(image: np.ndarray) -> tuple[np.ndarray, str]:
    largest = np.abs(image).max(initial=0.0)
    if not np.isfinite(largest):
        return image.astype(np.float32), "float32: values are not all finite"
    if largest > _HALF_MAX:
        return image.astype(np.float32), f"float32: largest |value| {largest:g} exceeds {_HALF_MAX:g}"
    half = image.astype(np.float16)
    for channel, (values, rounded) in enumerate(zip(image, half, strict=True)):
        error = np.sqrt(np.mean((rounded.astype(np.float32) - values) ** 2, dtype=np.float64))
        if error > _HALF_ERROR * values.std(dtype=np.float64):
            reason = f"float32: float16 rounds channel {channel} by {error:g}, its std is {values.std():g}"
            return image.astype(np.float32), reason
    return (
        half,
        f"float16: largest |value| {largest:g}, rounding below {_HALF_ERROR:g} of each channel's std",
    )


def _label_dtype(label: np.ndarray) -> type[np.integer]:
    limits = np.iinfo(np.int8)
    return np.int8 if label.min(initial=0) >= limits.min and label.max(initial=0) <= limits.max else np.int16


def _tensor_column(array: np.ndarray, tensor_type: Any) -> Any:
    import pyarrow as pa

    flat = pa.array(array.reshape(-1))
    storage = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(array.shape[1:])))
    return pa.ExtensionArray.from_storage(tensor_type, storage)


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _encoded_locations(locations: dict[int, np.ndarray], shape: tuple[int, ...]) -> dict[str, str]:
    encoded = {}
    for value, voxels in locations.items():
        flat = np.ravel_multi_index(tuple(np.asarray(voxels, np.int64).T), shape).astype("<u4")
        encoded[str(value)] = base64.b64encode(flat.tobytes()).decode()
    return encoded


def _decoded(text: str, shape: tuple[int, ...]) -> np.ndarray:
    flat = np.frombuffer(base64.b64decode(text), "<u4")
    return np.stack(np.unravel_index(flat.astype(np.int64), shape), axis=1).astype(np.int32)
