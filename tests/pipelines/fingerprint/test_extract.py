from __future__ import annotations

import dataclasses
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.cases.case import Case, DatasetInfo
from pipelines.fingerprint.extract import (
    Fingerprint,
    _Measured,
    read_fingerprint,
    take_fingerprint,
    write_fingerprint,
)
from pipelines.fingerprint.intensity import Moments, ValueCounts

ROOT = Path(__file__).parents[3]
INFO = DatasetInfo("data", ("MRI",), {"background": 0, "a": 1, "b": 2}, ignore_label=3)


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("pipelines.ray_session.map_cases.num_local_cpus", lambda: 1)


def make_case(folder: Path, case_id: str, image: np.ndarray, label: np.ndarray, spacing_xyz: tuple[float, ...]) -> Case:
    affine = np.diag([*spacing_xyz, 1.0])
    paths = []
    for kind, array in (("image", image.astype(np.float32)), ("label", label.astype(np.uint8))):
        path = folder / f"{case_id}_{kind}.nii.gz"
        nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), affine), path)
        paths.append(str(path))
    return Case(
        case_id=case_id,
        image_paths=(paths[0],),
        label_path=paths[1],
        patient=case_id,
        split="train",
        fold=0,
        digest="",
        shape=image.shape,
        spacing_mm=tuple(reversed(spacing_xyz)),
        affine=tuple(affine.ravel().tolist()),
    )


def cases(folder: Path) -> list[Case]:
    """Two cases, (z, y, x) = (4, 5, 6), nonzero in a box of (2, 3, 4) and everywhere."""
    image = np.zeros((4, 5, 6))
    image[1:3, 1:4, 1:5] = 10
    label = np.zeros((4, 5, 6))
    label[1, 1, 1:5] = 1
    image[1, 1, 1:5] = [1, 2, 3, 4]
    label[2, 1, 1] = 3
    first = make_case(folder, "first", image, label, (1.0, 2.0, 3.0))
    label = np.zeros((4, 5, 6))
    label[0, 0, 0] = 2
    image = np.full((4, 5, 6), 7.0)
    image[0, 0, 0] = 5
    return [first, make_case(folder, "second", image, label, (1.0, 1.0, 2.0))]


def test_fingerprint_by_hand(tmp_path: Path) -> None:
    result = take_fingerprint(cases(tmp_path), INFO)
    assert result.case_ids == ("first", "second")
    assert result.spacings_mm == ((3, 2, 1), (2, 1, 1))
    assert result.shapes_after_crop == ((2, 3, 4), (4, 5, 6))
    assert result.median_relative_size_after_cropping == pytest.approx((24 / 120 + 1) / 2)
    assert result.label_voxels == {"background": 115 + 119, "a": 4, "b": 1}
    assert result.intensity[0]["mean"] == pytest.approx(3)  # of 1, 2, 3, 4 and 5; the ignored 10 is left out
    assert result.intensity[0]["median"] == pytest.approx(3)
    assert (result.intensity[0]["min"], result.intensity[0]["max"]) == (1, 5)


def test_rows_and_json_come_back(tmp_path: Path) -> None:
    result = take_fingerprint(cases(tmp_path), INFO)
    write_fingerprint(tmp_path / "out", result)
    assert read_fingerprint(tmp_path / "out" / "fingerprint.json") == result
    first, second = pq.read_table(tmp_path / "out" / "fingerprint.parquet").to_pylist()
    assert (first["case_id"], first["voxels_a"], first["shape_after_crop_z"], first["spacing_z_mm"]) == (
        "first",
        4,
        2,
        3,
    )
    assert (second["case_id"], second["MRI_mean"], second["relative_size_after_cropping"]) == ("second", 5, 1)
    assert Fingerprint.from_json(result.to_json()) == result


@pytest.fixture
def noise(tmp_path: Path) -> list[Case]:
    """Five cases of noise, whole numbers and others, of unequal shapes with a margin of zeros."""
    result = []
    for number in range(5):
        rng = np.random.default_rng(number)
        shape = (20 + number, 30, 40 - number)
        image, label = rng.normal(0, 400, shape), rng.integers(0, 4, shape)
        image[:number] = image[:, :, 37:] = 0
        result.append(make_case(tmp_path, f"n{number}", image.round() if number % 2 else image, label, (1.0, 1.0, 2.0)))
    return result


def test_intensities_are_those_numpy_gives_of_all_foreground_voxels(noise: list[Case]) -> None:
    values = []
    for number, case in enumerate(noise):
        image, label = (np.asarray(nib.load(path).dataobj).T for path in (case.image_paths[0], str(case.label_path)))
        inside = np.isin(label, [1, 2])
        inside[:number] = inside[:, :, 37:] = False
        values.append(image[inside].astype(float))
    whole = np.concatenate(values)
    result = take_fingerprint(noise, INFO)
    low, median, high = np.percentile(whole, [0.5, 50, 99.5])
    assert result.intensity[0] == pytest.approx(
        {
            "mean": whole.mean(), "median": median, "std": whole.std(), "min": whole.min(), "max": whole.max(),
            "percentile_00_5": low, "percentile_99_5": high, "percentile_error": 0,
        },
        rel=1e-12,
    )  # fmt: skip
    assert result.case_rows[3]["MRI_std"] == pytest.approx(values[3].std(), rel=1e-12)
    assert result.case_rows[3]["MRI_median"] == pytest.approx(np.median(values[3]), rel=1e-12)
    assert result.shapes_after_crop[3] == (20, 30, 37)


def test_neither_processes_nor_the_order_they_finish_in_change_a_byte(
    noise: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = take_fingerprint(noise, INFO)
    monkeypatch.setattr("pipelines.ray_session.map_cases.num_local_cpus", lambda: 2)
    in_processes = take_fingerprint(noise, INFO)
    assert in_processes.to_json() == expected.to_json()
    assert in_processes.case_rows == expected.case_rows

    def last_first(function: Callable, items: Sequence, **_: object) -> list[tuple[int, object]]:
        return [(index, function(item)) for index, item in reversed(list(enumerate(items)))]

    monkeypatch.setattr("pipelines.ray_session.map_cases.each_case", last_first)
    assert take_fingerprint(noise, INFO).to_json() == expected.to_json()


def test_where_blocks_of_a_case_end_changes_nothing_but_rounding(
    noise: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = take_fingerprint(noise, INFO).intensity[0]
    monkeypatch.setattr("pipelines.fingerprint.geometry.BLOCK_VOXELS", 3000)
    result = take_fingerprint(noise, INFO).intensity[0]
    for key in ("median", "min", "max", "percentile_00_5", "percentile_99_5", "percentile_error"):
        assert result[key] == expected[key]
    assert result == pytest.approx(expected, rel=1e-12)


def test_memory_does_not_grow_with_the_number_of_cases(noise: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    pool = np.random.default_rng(0).normal(size=100_000).astype(np.float32)

    def measured(seed: int) -> _Measured:
        values = np.random.default_rng(seed).choice(pool, 60_000, replace=False)
        parts = (Moments.of(values),), (ValueCounts.of(values),)
        return _Measured({}, (1, 1, 1), (1, 1, 1), 1.0, dict.fromkeys(INFO.labels, 1), *parts)

    def peak_mib(num_cases: int) -> float:
        monkeypatch.setattr(
            "pipelines.ray_session.map_cases.each_case",
            lambda function, items, **_: ((index, measured(index)) for index in range(len(items))),
        )
        tracemalloc.start()
        take_fingerprint([noise[0]] * num_cases, INFO)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak / 2**20

    peak_mib(2)
    # A case holds 0.7 MiB of values.
    assert peak_mib(60) < peak_mib(10) + 2


def test_channels_may_have_one_name(tmp_path: Path) -> None:
    first, _ = cases(tmp_path)
    twice = dataclasses.replace(first, image_paths=first.image_paths * 2)
    result = take_fingerprint([twice], dataclasses.replace(INFO, channels=("CT", "CT")))
    assert result.intensity[0] == result.intensity[1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_foreground_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    image = np.ones((4, 5, 6))
    image[1, 2, 3] = value
    case = make_case(tmp_path, "bad", image, np.ones((4, 5, 6)), (1.0, 1.0, 1.0))
    with pytest.raises(
        ValueError, match=r"case bad: channel MRI \(.*bad_image.nii.gz\) has foreground voxels that are NaN"
    ):
        take_fingerprint([case], INFO)


def test_a_case_without_foreground_has_a_row_and_no_part_in_the_intensities(tmp_path: Path) -> None:
    empty = make_case(tmp_path, "empty", np.full((4, 5, 6), 9.0), np.zeros((4, 5, 6)), (1.0, 1.0, 1.0))
    result = take_fingerprint([*cases(tmp_path), empty], INFO)
    assert result.intensity == take_fingerprint(cases(tmp_path), INFO).intensity
    assert np.isnan(result.case_rows[2]["MRI_mean"])


def test_what_takes_long_to_import_is_not_needed(noise: list[Case]) -> None:
    script = f"""
import sys
from pipelines.cases.case import Case, DatasetInfo
from pipelines.fingerprint.extract import _measure_case
_measure_case({noise[1]!r}, ("MRI",), {INFO.labels!r}, 3)
sys.exit(", ".join(name for name in ("torch", "scipy.ndimage", "ray", "pandas", "mlflow") if name in sys.modules) or 0)
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_nothing_to_learn_from_is_named(tmp_path: Path) -> None:
    first, second = cases(tmp_path)
    with pytest.raises(ValueError, match="data set data: no training case"):
        take_fingerprint([], INFO)
    with pytest.raises(ValueError, match="training case second has no label; add its label file"):
        take_fingerprint([first, dataclasses.replace(second, label_path=None)], INFO)
    assert first.label_path is not None
    empty = make_case(tmp_path, "empty", np.ones((4, 5, 6)), np.zeros((4, 5, 6)), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="no foreground voxel in any of the 1 training cases"):
        take_fingerprint([empty], INFO)
