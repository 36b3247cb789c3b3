from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.preprocessing.shards import COMPRESSIONS, PreparedCase, open_case, read_digest, write_case

IMAGE = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
LABEL = np.arange(60).reshape(3, 4, 5) % 4 - 1
LOCATIONS = {1: np.array([[2, 3, 4], [0, 0, 1]], np.int32), -1: np.array([[1, 2, 3]], np.int32)}
PROPERTIES = {"shape": [3, 4, 5], "spacing_mm": [1.0, 0.5, 0.25], "box": [[0, 3], [0, 4], [0, 5]], "name": "é"}


def stored(
    folder: Path, image: np.ndarray = IMAGE, label: np.ndarray | None = LABEL, compression: str = "none"
) -> Path:
    path = folder / "case.arrow"
    write_case(path, image, label, LOCATIONS, PROPERTIES, compression)
    return path


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_everything_comes_back(tmp_path: Path, compression: str) -> None:
    case = open_case(stored(tmp_path, compression=compression))
    assert case.image.dtype == np.float16
    np.testing.assert_array_equal(case.image, IMAGE.astype(np.float16))
    assert case.label is not None
    assert case.label.dtype == np.int8
    np.testing.assert_array_equal(case.label, LABEL)
    assert set(case.locations) == {1, -1}
    for value, voxels in LOCATIONS.items():
        np.testing.assert_array_equal(case.locations[value], voxels[np.lexsort(voxels.T[::-1])])
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


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_case_pickles_as_its_path(tmp_path: Path, compression: str) -> None:
    large = np.random.default_rng(0).normal(size=(1, 40, 40, 40)).astype(np.float32)
    case = open_case(stored(tmp_path, large, None, compression))
    sent = pickle.dumps(case)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent).image, np.asarray(case.image))


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_case_without_label(tmp_path: Path, compression: str) -> None:
    case = open_case(stored(tmp_path, label=None, compression=compression))
    assert case.label is None
    np.testing.assert_array_equal(case.image, IMAGE.astype(np.float16))


# Of 40 000 bytes a slice: six slices a batch.
THICK = np.random.default_rng(0).normal(size=(2, 20, 100, 80)).astype(np.float32)
THICK_LABEL = (np.arange(THICK[0].size) % 5).reshape(THICK.shape[1:])


@pytest.fixture(scope="module", params=["lz4", "zstd"])
def compressed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreparedCase:
    return open_case(stored(tmp_path_factory.mktemp("compressed"), THICK, THICK_LABEL, request.param))


@pytest.mark.parametrize(
    "key",
    [
        np.s_[:],
        np.s_[0],
        np.s_[:, 7],
        np.s_[:, -1],
        np.s_[:, np.int64(19)],
        np.s_[:, 3:17, 5:9],
        np.s_[1, 4:7],
        np.s_[:, 6:12, 90:100, 0:80],
        np.s_[:, 4:4],
        np.s_[:, 20:30],
        np.s_[0, 5, 6, 7],
        np.s_[-1:, :2, :, 3],
    ],
    ids=str,
)
def test_a_compressed_image_is_indexed_like_the_array(compressed: PreparedCase, key: Any) -> None:
    expected = THICK.astype(np.float16)[key]
    np.testing.assert_array_equal(compressed.image[key], expected)
    assert np.shape(compressed.image[key]) == expected.shape


@pytest.mark.parametrize("key", [np.s_[:], 0, np.s_[5:7, 3], np.s_[11:13, 90:, :4], np.s_[3:2]], ids=str)
def test_a_compressed_label_is_indexed_like_the_array(compressed: PreparedCase, key: Any) -> None:
    assert compressed.label is not None
    np.testing.assert_array_equal(compressed.label[key], THICK_LABEL[key])


def test_a_compressed_case_converts_like_the_array(compressed: PreparedCase) -> None:
    assert compressed.image.shape == THICK.shape
    assert compressed.image.ndim == 4
    assert compressed.label is not None
    assert compressed.label.shape == THICK.shape[1:]
    assert compressed.label.dtype == np.int8
    whole = np.array(compressed.image, dtype=np.float32)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole, THICK.astype(np.float16))
    with pytest.raises(IndexError):
        compressed.image[:, 20]
    with pytest.raises(ValueError, match="cannot do without a copy"):
        np.array(compressed.image, copy=False)


def test_a_crop_decompresses_the_batches_that_it_touches_and_no_more(compressed: PreparedCase) -> None:
    import pyarrow as pa

    # Under a third of the 32 000 bytes of each of the 20 slices, and none of the label.
    before = pa.total_allocated_bytes()
    kept = compressed.image[:, 6:8]
    assert pa.total_allocated_bytes() - before <= 6 * 32_000
    assert kept.shape == (2, 2, 100, 80)


@pytest.mark.parametrize("patch", [(8, 40, 40), (40, 40)], ids=["3d", "2d"])
def test_training_samples_are_the_same_for_every_compression(tmp_path: Path, patch: tuple[int, ...]) -> None:
    import torch

    from pipelines.augmentation.patches import PatchSampler

    samples = {}
    for compression in COMPRESSIONS:
        folder = tmp_path / compression
        folder.mkdir()
        write_case(folder / "a.arrow", THICK, THICK_LABEL, {1: np.argwhere(THICK_LABEL == 1)}, {}, compression)
        sampler = PatchSampler([open_case(folder / "a.arrow")], patch, patch, 4, 0.5, 0)
        samples[compression] = [sampler.sample(step, index)[:2] for step in (0, 1) for index in range(4)]
    for compression in ("lz4", "zstd"):
        for one, other in zip(samples["none"], samples[compression], strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])


def test_compression_makes_a_smooth_case_small_and_none_is_no_larger_than_its_arrays(tmp_path: Path) -> None:
    values = np.round(np.linspace(0, 1, 40 * 50 * 60).reshape(1, 40, 50, 60), 2)
    label = (values[0] > 0.5).astype(np.int16)
    sizes = []
    for compression in COMPRESSIONS:
        write_case(tmp_path / f"{compression}.arrow", values, label, {}, {}, compression)
        sizes.append((tmp_path / f"{compression}.arrow").stat().st_size)
    assert sizes[0] < 3 * label.size + 4096
    assert sizes[1] < 0.5 * sizes[0]
    assert sizes[2] < 0.1 * sizes[0]


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
    paths = [tmp_path / name for name in ("a", "b", "image", "label", "none", "zstd")]
    changed_image, changed_label = IMAGE.copy(), LABEL.copy()
    changed_image[1, 2, 3, 4] += 1
    changed_label[0, 0, 0] = 3
    write_case(paths[0], IMAGE, LABEL, LOCATIONS, PROPERTIES)
    write_case(paths[1], IMAGE, LABEL, {}, {})
    write_case(paths[2], changed_image, LABEL, LOCATIONS, PROPERTIES)
    write_case(paths[3], IMAGE, changed_label, LOCATIONS, PROPERTIES)
    write_case(paths[4], IMAGE, None, LOCATIONS, PROPERTIES)
    write_case(paths[5], IMAGE, LABEL, LOCATIONS, PROPERTIES, "zstd")
    digests = [read_digest(path) for path in paths]
    assert digests[0] == digests[1] == digests[5] == open_case(paths[0]).digest
    assert len(set(digests)) == 4


@pytest.mark.parametrize("content", [b"", b"not arrow", None])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes | None, compression: str) -> None:
    path = stored(tmp_path, compression=compression)
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(ValueError, match=r"case\.arrow: not a readable prepared case"):
        open_case(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.arrow"):
        open_case(tmp_path / "gone.arrow")


def test_what_takes_long_to_import_is_not_needed(tmp_path: Path) -> None:
    program = """
import sys
import numpy as np
from pipelines.preprocessing.prepare import prepare_dataset
from pipelines.preprocessing.shards import open_case, write_case
for compression in ("none", "zstd"):
    write_case("case.arrow", np.ones((1, 3, 4, 5)), np.ones((3, 4, 5), int), {1: np.ones((1, 3), int)}, {}, compression)
    case = open_case("case.arrow")
    case.image[:, 1:], case.label[1], case.locations[1]
print(sorted({"torch", "pandas", "skimage", "scipy", "ray", "mlflow"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, text=True).stdout == "[]\n"
