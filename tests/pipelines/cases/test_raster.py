from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.cases.nifti import label_suffix, read_file, read_image, read_label, write_label
from pipelines.cases.raster import read_raster, write_raster

# Rows as a viewer shows them: the first one is the top.
GREY = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)


def save(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(path)
    return path


def test_a_picture_is_a_scan_of_one_slice_with_rows_upwards_and_voxels_of_1_mm(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", GREY)
    file = read_file(path)
    assert file.array.tolist() == [[[[4, 5, 6], [1, 2, 3]]]]
    assert (file.shape, file.spacing_mm, file.axis_codes) == ((1, 2, 3), (1.0, 1.0, 1.0), "RPS")
    assert file.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    # The lowest row of the file is row 0 of the array.
    np.testing.assert_array_equal(file.canonical_affine @ [2, 0, 0, 1], file.affine @ [2, 1, 0, 1])
    assert read_image(path).array.dtype == np.float32


@pytest.mark.parametrize("ending", ["png", "tif", "TIFF", "bmp"])
def test_kinds_of_pictures_have_the_same_numbers(tmp_path: Path, ending: str) -> None:
    np.testing.assert_array_equal(read_raster(save(tmp_path / f"a.{ending}", GREY))[0][0], GREY[::-1])


def test_colours_become_channels_and_alpha_is_dropped(tmp_path: Path) -> None:
    colours = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    array, _ = read_raster(save(tmp_path / "a.png", colours))
    np.testing.assert_array_equal(array, colours[::-1, :, :3].transpose(2, 0, 1))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_pictures_keep_their_numbers(tmp_path: Path, dtype: type) -> None:
    deep = GREY.astype(dtype) * 300
    np.testing.assert_array_equal(read_raster(save(tmp_path / "a.tif", deep))[0][0], deep[::-1])


def test_a_photograph_is_read(tmp_path: Path) -> None:
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    array, _ = read_raster(save(tmp_path / "a.jpg", flat))
    assert array.shape == (3, 16, 16)
    np.testing.assert_allclose(array.mean(axis=(1, 2)), (200, 100, 50), atol=3)


def test_a_palette_is_looked_up_in_an_image_and_its_indices_are_the_numbers_of_a_label(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode=None)
    picture = picture.convert("P")
    picture.putdata([0, 1, 2])
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(tmp_path / "a.png")
    assert read_raster(tmp_path / "a.png")[0].tolist() == [[[0, 255, 0]], [[0, 0, 255]], [[0, 0, 0]]]
    assert read_raster(tmp_path / "a.png", is_label=True)[0].tolist() == [[[0, 1, 2]]]


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ([[0, 255]], [[0, 1]]),
        ([[255, 255]], [[1, 1]]),
        ([[0, 1]], [[0, 1]]),
        ([[1, 255]], [[1, 255]]),
        ([[0, 0]], [[0, 0]]),
    ],
)
def test_a_mask_of_0_and_255_is_one_class_and_255_beside_another_is_kept_for_the_check(
    tmp_path: Path, stored: list[list[int]], read: list[list[int]]
) -> None:
    path = save(tmp_path / "a.png", np.array(stored, np.uint8))
    assert read_label(path)[0].tolist() == [read]
    assert read_raster(path)[0][0].tolist() == stored, "an image keeps its numbers"


def test_a_mask_of_one_bit_and_one_saved_in_colour_are_labels(tmp_path: Path) -> None:
    mask = np.array([[0, 255], [255, 0]], np.uint8)
    save(tmp_path / "bit.png", mask, "1")
    save(tmp_path / "colour.png", mask, "RGB")
    for name in ("bit.png", "colour.png"):
        assert read_label(tmp_path / name)[0].tolist() == [[[1, 0], [0, 1]]], name


def test_a_damaged_picture_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.zeros((64, 64), np.uint8))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"a\.png: cannot be read as a picture \(.*\); .* save it as PNG"):
        read_raster(path)
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"b\.png: cannot be read as a picture"):
        read_raster(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"c\.png: no such file; correct the path"):
        read_raster(tmp_path / "c.png")


def test_several_pages_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY) for _ in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=r"stack\.tif: 3 pages in one file; save each page"):
        read_raster(tmp_path / "stack.tif")


def test_a_label_map_comes_back_as_it_was_written(tmp_path: Path) -> None:
    like, path = save(tmp_path / "a.jpg", GREY), tmp_path / "out.png"
    label = np.array([[[0, 1, 2], [2, 1, 0]]], np.uint8)
    assert label_suffix(like) == ".png"
    write_label(path, label, like)
    np.testing.assert_array_equal(read_label(path)[0], label)
    assert np.asarray(Image.open(path)).tolist() == label[0, ::-1].tolist()
    first = path.read_bytes()
    write_label(path, label, like)
    assert path.read_bytes() == first


def test_16_bits_are_kept_where_they_are_asked_for(tmp_path: Path) -> None:
    like = save(tmp_path / "a.png", GREY)
    write_label(tmp_path / "p.png", np.ones((1, 2, 3), np.uint16), like, np.uint16)
    with Image.open(tmp_path / "p.png") as picture:
        assert np.asarray(picture).dtype == np.uint16
    write_raster(tmp_path / "q.png", np.full((2, 3), 40_000, np.uint16))
    assert read_raster(tmp_path / "q.png")[0].max() == 40_000
