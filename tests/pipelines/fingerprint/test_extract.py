from __future__ import annotations

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.cases.case import Case, DatasetInfo
from pipelines.fingerprint.extract import Fingerprint, read_fingerprint, take_fingerprint, write_fingerprint

INFO = DatasetInfo("data", ("MRI",), {"background": 0, "a": 1, "b": 2}, ignore_label=3)


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pipelines.ray_session.map_cases.map_cases",
        lambda function, items, desc, unit="case": list(map(function, items)),
    )


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
        affine=tuple(affine.ravel()),
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


def test_every_case_has_an_even_share_of_the_values(tmp_path: Path) -> None:
    # Two values for two cases: one of the four in the first case, the only one in the second.
    result = take_fingerprint(cases(tmp_path), INFO, max_values_per_channel=2)
    assert result.intensity[0]["max"] == 5
    assert result.intensity[0]["min"] in (1, 2, 3, 4)
    assert result.intensity[0]["mean"] == pytest.approx((result.intensity[0]["min"] + 5) / 2)


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
