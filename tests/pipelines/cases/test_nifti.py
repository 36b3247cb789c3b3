from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipelines.cases.nifti import read_file, read_image, read_label, write_label

# Voxel axes x, y, z of the file to mm; sizes 2, 3, 5 mm along right, anterior, superior.
AFFINES = {
    "RAS": [[2, 0, 0, -7], [0, 3, 0, 4], [0, 0, 5, 1]],
    "LPS": [[-2, 0, 0, 7], [0, -3, 0, 4], [0, 0, 5, 1]],
    "SRA": [[0, 2, 0, -7], [0, 0, 3, 4], [5, 0, 0, 1]],
    "ILP": [[0, -2, 0, 30], [0, 0, -3, 4], [-5, 0, 0, 1]],
    "oblique": [[1.98, -0.3, 0, -7], [0.2, 2.97, 0.3, 4], [0, -0.2, 4.9, 1]],
}


def affine_of(name: str) -> np.ndarray:
    return np.array([*AFFINES[name], [0, 0, 0, 1]], float)


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    nib.Nifti1Image(array, affine).to_filename(path)
    return path


@pytest.mark.parametrize("name", ["RAS", "LPS", "SRA", "ILP"])
def test_the_same_anatomy_reads_the_same_in_every_orientation(tmp_path: Path, name: str) -> None:
    affine = affine_of(name)
    voxel_shape = tuple(round(side) for side in np.abs(np.linalg.inv(affine[:3, :3]) @ [2 * 4, 3 * 6, 5 * 3]))
    corner = affine @ [*(side - 1 for side in voxel_shape), 1]
    first_mm = np.minimum(affine[:3, 3], corner[:3])
    voxels = np.moveaxis(np.indices(voxel_shape), 0, -1)
    mm = voxels @ affine[:3, :3].T + affine[:3, 3] - first_mm
    value = mm[..., 0] + 100 * mm[..., 1] + 10_000 * mm[..., 2]

    image = read_image(save(tmp_path / "a.nii.gz", value.astype(np.float32), affine))

    z, y, x = np.meshgrid(np.arange(3) * 5, np.arange(6) * 3, np.arange(4) * 2, indexing="ij")
    assert image.array.shape == (1, 3, 6, 4)
    assert image.array.dtype == np.float32
    np.testing.assert_array_equal(image.array[0], x + 100 * y + 10_000 * z)
    assert image.spacing_mm == (5.0, 3.0, 2.0)
    np.testing.assert_array_equal(image.affine, affine)


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_a_written_label_lies_on_the_grid_of_the_scan(tmp_path: Path, name: str, ending: str) -> None:
    original = np.random.default_rng(0).integers(0, 4, (4, 6, 3)).astype(np.uint8)
    like = save(tmp_path / "like.nii.gz", original, affine_of(name))
    label, _ = read_label(like)

    write_label(tmp_path / f"out{ending}", label, like)

    written = nib.load(tmp_path / f"out{ending}")
    np.testing.assert_array_equal(np.asarray(written.dataobj), original)
    np.testing.assert_array_equal(written.affine, nib.load(like).affine)
    assert written.get_data_dtype() == np.uint8
    for code in ("qform_code", "sform_code"):
        assert written.header[code] == nib.load(like).header[code]


def test_a_written_label_has_no_trace_of_the_scan_s_scaling(tmp_path: Path) -> None:
    scan = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    scan.header.set_slope_inter(2.5, 10)
    scan.header["descrip"] = b"name of a patient"
    scan.to_filename(tmp_path / "scan.nii")
    array = np.arange(64).reshape(4, 4, 4) * 5

    write_label(tmp_path / "out.nii.gz", array, tmp_path / "scan.nii")

    assert nib.load(tmp_path / "out.nii.gz").header["descrip"] == b""
    assert nib.load(tmp_path / "out.nii.gz").get_data_dtype() == np.uint16
    np.testing.assert_array_equal(read_label(tmp_path / "out.nii.gz")[0], array)


def test_the_same_label_gives_the_same_bytes(tmp_path: Path) -> None:
    like = save(tmp_path / "like.nii.gz", np.ones((4, 4, 4), np.uint8), np.eye(4))
    for name in ("a", "b"):
        write_label(tmp_path / f"{name}.nii.gz", np.ones((4, 4, 4), int), like)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_2d_file_gets_a_z_axis_and_gives_a_2d_label(tmp_path: Path) -> None:
    original = np.arange(12, dtype=np.uint8).reshape(3, 4)
    path = save(tmp_path / "slice.nii.gz", original, np.diag([2.0, 3.0, 1.0, 1.0]))
    image = read_image(path)
    assert image.array.shape == (1, 1, 4, 3)
    assert image.spacing_mm == (1.0, 3.0, 2.0)
    write_label(tmp_path / "out.nii.gz", image.array[0].astype(int), path)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "out.nii.gz").dataobj), original)


def test_channels_are_the_last_axis_of_a_4d_file_or_files_of_their_own(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)
    together = save(tmp_path / "both.nii.gz", array, np.eye(4))
    apart = [save(tmp_path / f"{c}.nii.gz", array[..., c], np.eye(4)) for c in range(2)]
    np.testing.assert_array_equal(read_image(together).array, array.transpose(3, 2, 1, 0))
    np.testing.assert_array_equal(read_image(apart).array, array.transpose(3, 2, 1, 0))


def test_a_scaled_file_reads_scaled(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.full((2, 2, 2), 30, np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, 1)
    image.to_filename(tmp_path / "a.nii")
    stored = nib.load(tmp_path / "a.nii")
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii").array[0], stored.get_fdata())


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "u2", "i4", "f4", ">f4", "f8"])
@pytest.mark.parametrize("scaling", [None, (1, -1024), (2.5, 10)], ids=["as stored", "moved", "scaled"])
def test_voxels_are_those_that_nibabel_gives(tmp_path: Path, dtype: str, scaling: tuple[float, float] | None) -> None:
    order = ">" if dtype.startswith(">") else "<"
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(np.dtype(dtype))
    image = nib.Nifti1Image(np.arange(24).reshape(2, 3, 4).astype(dtype), np.eye(4), header)
    if scaling:
        image.header.set_slope_inter(*scaling)
    image.to_filename(tmp_path / "a.nii.gz")
    expected = np.asanyarray(nib.load(tmp_path / "a.nii.gz").dataobj)
    array = read_file(tmp_path / "a.nii.gz").array[0].T
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)


def test_nifti_2_reads_like_nifti_1(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    nib.Nifti2Image(array, np.eye(4)).to_filename(tmp_path / "two.nii.gz")
    np.testing.assert_array_equal(read_label(tmp_path / "two.nii.gz")[0], array.transpose(2, 1, 0))


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.7])
def test_a_truncated_file_is_named_with_the_fix(tmp_path: Path, ending: str, part: float) -> None:
    array = np.random.default_rng(0).normal(size=(8, 8, 8))
    path = save(tmp_path / f"a{ending}", array, np.eye(4))
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(ValueError, match=rf"a{ending}: cannot be read as NIfTI .* truncated or damaged: copy it again"):
        read_file(path)


def test_a_damaged_gzip_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(8, 8, 8)), np.eye(4))
    content = bytearray(path.read_bytes())
    content[1000:1100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.nii.gz: cannot be read as NIfTI"):
        read_file(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none.nii: no such file; correct the path"):
        read_image(tmp_path / "none.nii")


def test_channels_of_two_shapes_are_refused(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{side}.nii", np.zeros((side, 4, 4)), np.eye(4)) for side in (4, 5)]
    with pytest.raises(ValueError, match=r"5.nii: shape \(z, y, x\) \(4, 4, 5\), but .*4.nii has \(4, 4, 4\)"):
        read_image(paths)


def test_a_fractional_label_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "l.nii", np.full((2, 2, 2), 0.5), np.eye(4))
    with pytest.raises(ValueError, match=r"l.nii: label values that are not whole numbers"):
        read_label(path)


def test_a_singular_affine_is_refused(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.header["sform_code"], image.header["srow_z"] = 1, 0
    content = bytearray(image.to_bytes())
    (tmp_path / "a.nii").write_bytes(content)
    broken = nib.Nifti1Image.from_bytes(bytes(content)).header
    broken["sform_code"], broken["srow_z"] = 1, 0
    (tmp_path / "a.nii").write_bytes(broken.binaryblock + bytes(content[348:]))
    with pytest.raises(ValueError, match=r"a.nii: its affine .* has no inverse"):
        read_file(tmp_path / "a.nii")
