from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from pipelines.preprocessing.shards import open_case, read_digest, write_case

IMAGE = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
LABEL = np.arange(60).reshape(3, 4, 5) % 4 - 1
LOCATIONS = {1: np.array([[2, 3, 4], [0, 0, 1]], np.int32), -1: np.array([[1, 2, 3]], np.int32)}
PROPERTIES = {"shape": [3, 4, 5], "spacing_mm": [1.0, 0.5, 0.25], "box": [[0, 3], [0, 4], [0, 5]], "name": "é"}


def stored(folder: Path, image: np.ndarray = IMAGE, label: np.ndarray | None = LABEL) -> Path:
    path = folder / "case.arrow"
    write_case(path, image, label, LOCATIONS, PROPERTIES)
    return path


def test_everything_comes_back(tmp_path: Path) -> None:
    case = open_case(stored(tmp_path))
    assert case.image.dtype == np.float16
    np.testing.assert_array_equal(case.image, IMAGE.astype(np.float16))
    assert case.label is not None
    assert case.label.dtype == np.int8
    np.testing.assert_array_equal(case.label, LABEL)
    assert set(case.locations) == {1, -1}
    for value, voxels in LOCATIONS.items():
        np.testing.assert_array_equal(case.locations[value], voxels)
        assert case.locations[value].dtype == np.int32
    assert {key: case.properties[key] for key in PROPERTIES} == PROPERTIES
    assert case.properties["dtype"] == "float16"
    assert list(tmp_path.iterdir()) == [case.path]


def test_arrays_are_views_of_the_map_and_hold_no_file_descriptor(tmp_path: Path) -> None:
    import pyarrow as pa

    path = stored(tmp_path)
    allocated, descriptors = pa.total_allocated_bytes(), len(list(Path("/proc/self/fd").iterdir()))
    case = open_case(path)
    assert pa.total_allocated_bytes() == allocated
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert not case.image.flags.writeable
    assert not case.image.flags.owndata


def test_a_case_pickles_as_its_path(tmp_path: Path) -> None:
    large = np.random.default_rng(0).normal(size=(1, 40, 40, 40)).astype(np.float32)
    case = open_case(stored(tmp_path, large, None))
    sent = pickle.dumps(case)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent).image, case.image)


def test_a_case_without_label(tmp_path: Path) -> None:
    assert open_case(stored(tmp_path, label=None)).label is None


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.array([0, 1_561_665]), "float32: largest |value| 1.56166e+06 exceeds 65504"),
        (np.array([0, np.nan]), "float32: values are not all finite"),
        (np.array([-np.inf, 0]), "float32: values are not all finite"),
        (np.array([30_000.0, 30_003.0, 30_006.0]), "float32: float16 rounds channel 0 by"),
        (np.array([-1.5, 0.25, 65504]), "float16: largest |value| 65504"),
    ],
)
def test_float16_only_where_it_keeps_the_values(tmp_path: Path, image: np.ndarray, reason: str) -> None:
    image = image.astype(np.float32).reshape(1, 1, 1, -1)
    case = open_case(stored_without_locations(tmp_path, image))
    assert case.properties["dtype_reason"].startswith(reason)
    assert case.image.dtype == np.dtype(case.properties["dtype"]) == np.dtype(reason.split(":")[0])
    np.testing.assert_allclose(case.image, image, rtol=1e-3)


def stored_without_locations(folder: Path, image: np.ndarray, label: np.ndarray | None = None) -> Path:
    path = folder / "case.arrow"
    write_case(path, image, label, {}, {})
    return path


@pytest.mark.parametrize(("largest", "dtype"), [(127, np.int8), (128, np.int16)])
def test_label_type(tmp_path: Path, largest: int, dtype: type) -> None:
    label = np.array([-1, 0, largest]).reshape(1, 1, 3)
    case = open_case(stored_without_locations(tmp_path, np.zeros((1, 1, 1, 3)), label))
    assert case.label is not None
    assert case.label.dtype == dtype
    np.testing.assert_array_equal(case.label, label)


def test_the_digest_follows_the_arrays_and_nothing_else(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b", "image", "label", "none")]
    changed_image, changed_label = IMAGE.copy(), LABEL.copy()
    changed_image[1, 2, 3, 4] += 1
    changed_label[0, 0, 0] = 3
    write_case(paths[0], IMAGE, LABEL, LOCATIONS, PROPERTIES)
    write_case(paths[1], IMAGE, LABEL, {}, {})
    write_case(paths[2], changed_image, LABEL, LOCATIONS, PROPERTIES)
    write_case(paths[3], IMAGE, changed_label, LOCATIONS, PROPERTIES)
    write_case(paths[4], IMAGE, None, LOCATIONS, PROPERTIES)
    digests = [read_digest(path) for path in paths]
    assert digests[0] == digests[1] == open_case(paths[0]).digest
    assert len(set(digests)) == 4


@pytest.mark.parametrize("content", [b"", b"not arrow", None])
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = stored(tmp_path)
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(ValueError, match=r"case\.arrow: not a readable prepared case"):
        open_case(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.arrow"):
        open_case(tmp_path / "gone.arrow")
