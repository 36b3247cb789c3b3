from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.cases.annotation import read_case_label, read_case_objects, read_objects
from pipelines.cases.case import Case, DatasetInfo, RawDataset, RawEntry
from pipelines.cases.integrity import examine

# Two objects that touch.
NUMBERS = np.array([[0, 1, 1, 0], [0, 2, 2, 0], [0, 0, 0, 0]], np.uint16)


def save(path: Path, array: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return str(path)


def masks(folder: Path, numbers: np.ndarray = NUMBERS) -> str:
    for value in range(1, int(numbers.max()) + 1):
        save(folder / f"mask_{value}.png", np.where(numbers == value, 255, 0).astype(np.uint8))
    return str(folder)


def case(label_path: str | None, instances_path: str | None) -> Case:
    return Case("a", (), label_path, "a", "train", 0, "", (1, 3, 4), (1, 1, 1), (), instances_path)


def entry(tmp_path: Path, label_path: str | None, instances_path: str | None, case_id: str = "a") -> RawEntry:
    rng = np.random.default_rng(len(case_id))
    image = save(tmp_path / f"{case_id}.png", rng.integers(0, 255, NUMBERS.shape).astype(np.uint8))
    return RawEntry(case_id, (image,), label_path, None, "train", None, instances_path)


def test_a_file_of_numbers_and_a_folder_of_masks_are_the_same_objects(tmp_path: Path) -> None:
    of_file = read_objects(save(tmp_path / "ids.png", NUMBERS))
    of_folder = read_objects(masks(tmp_path / "masks"))
    np.testing.assert_array_equal(of_file.array, of_folder.array)
    np.testing.assert_array_equal(of_file.array[0, 0], NUMBERS[::-1])


def test_the_digest_of_a_folder_is_that_of_its_masks_and_hidden_files_have_no_part_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    first = read_objects(masks(folder)).digest
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    assert read_objects(folder).digest == first
    masks(folder, np.roll(NUMBERS, 1, axis=1))
    assert read_objects(folder).digest != first


def test_a_label_made_of_objects_has_one_class(tmp_path: Path) -> None:
    path = masks(tmp_path / "masks")
    label, spacing_mm = read_case_label(case(path, path))
    np.testing.assert_array_equal(label[0], NUMBERS[::-1] > 0)
    assert label.dtype == np.int16
    assert spacing_mm == (1.0, 1.0, 1.0)


def test_a_label_of_its_own_is_kept_beside_the_objects(tmp_path: Path) -> None:
    label_path = save(tmp_path / "label.png", np.where(NUMBERS == 2, 2, NUMBERS).astype(np.uint8))
    of_case = case(label_path, masks(tmp_path / "masks"))
    assert read_case_label(of_case)[0].max() == 2
    objects = read_case_objects(of_case)
    assert objects is not None
    np.testing.assert_array_equal(objects[0], NUMBERS[::-1])
    assert read_case_objects(case(label_path, None)) is None


def test_masks_that_overlap_or_differ_in_size_are_refused(tmp_path: Path) -> None:
    folder = Path(masks(tmp_path / "masks"))
    save(folder / "mask_3.png", np.full((3, 4), 255, np.uint8))
    with pytest.raises(ValueError, match=r"mask_3\.png: overlaps mask_\d\.png; a pixel belongs to one object"):
        read_objects(folder)
    save(folder / "mask_3.png", np.zeros((5, 4), np.uint8))
    with pytest.raises(ValueError, match=r"mask_3\.png: shape .* mask_1\.png beside it has"):
        read_objects(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no mask file; give an image without objects a picture of zeros"):
        read_objects(tmp_path / "empty")


def test_objects_are_whole_numbers_of_one_channel(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.tif: object numbers that are not whole numbers"):
        read_objects(save(tmp_path / "a.tif", np.array([[0.5]], np.float32)))
    with pytest.raises(ValueError, match=r"b\.png: 3 channels; save one map"):
        read_objects(save(tmp_path / "b.png", np.arange(12, dtype=np.uint8).reshape(2, 2, 3)))


def test_a_sound_case_of_objects_has_no_finding(tmp_path: Path) -> None:
    path = masks(tmp_path / "masks")
    info, (facts,), findings = examine(RawDataset(DatasetInfo("x", (), {}), [entry(tmp_path, path, path)]))
    assert info.labels == {"background": 0, "class_1": 1}
    assert facts.label_values == (0, 1)
    assert [finding.kind for finding in findings] == ["no-spacing"]
    assert "a pixel counts as 1 mm" in findings[0].message


def test_objects_count_in_the_digest_of_a_case(tmp_path: Path) -> None:
    label = save(tmp_path / "label.png", (NUMBERS > 0).astype(np.uint8))
    found = []
    for folder in ("one", "two"):
        numbers = NUMBERS if folder == "one" else (NUMBERS > 0).astype(np.uint16)
        raw = RawDataset(DatasetInfo("x", (), {}), [entry(tmp_path, label, masks(tmp_path / folder, numbers))])
        found.append(examine(raw)[1][0].digest)
    without = RawDataset(DatasetInfo("x", (), {}), [entry(tmp_path, label, None)])
    assert len({*found, examine(without)[1][0].digest}) == 3


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [(np.zeros((3, 4), np.uint8), "objects-disagree"), (np.zeros((4, 4), np.uint8), "shape")],
    ids=["values", "shape"],
)
def test_objects_that_do_not_fit_the_label_are_found(tmp_path: Path, numbers: np.ndarray, kind: str) -> None:
    label = save(tmp_path / "label.png", (NUMBERS > 0).astype(np.uint8))
    raw = RawDataset(DatasetInfo("x", (), {}), [entry(tmp_path, label, save(tmp_path / "ids.png", numbers))])
    assert kind in [finding.kind for finding in examine(raw)[2]]


def test_files_that_are_not_there_or_damaged_are_findings(tmp_path: Path) -> None:
    gone = entry(tmp_path, str(tmp_path / "gone"), str(tmp_path / "gone"), "a")
    folder_as_label = entry(tmp_path, masks(tmp_path / "masks"), None, "bb")
    (tmp_path / "empty").mkdir()
    empty = entry(tmp_path, str(tmp_path / "empty"), str(tmp_path / "empty"), "ccc")
    findings = examine(RawDataset(DatasetInfo("x", (), {}), [gone, folder_as_label, empty]))[2]
    kinds = {finding.case_id: finding.kind for finding in findings if finding.severity == "error"}
    assert kinds == {"a": "missing-file", "bb": "missing-file", "ccc": "unreadable"}


def test_many_objects_in_one_case_are_no_slips_of_the_pen(tmp_path: Path) -> None:
    many = np.zeros((3, 40), np.uint16)
    many[1, ::2] = np.arange(1, 21)
    entries = []
    for index in range(6):
        numbers = many if index == 5 else np.pad(NUMBERS, ((0, 0), (0, 36)))
        path = save(tmp_path / f"ids_{index}.png", numbers)
        image = np.random.default_rng(index).integers(0, 255, numbers.shape).astype(np.uint8)
        entries.append(
            RawEntry(f"c{index}", (save(tmp_path / f"c{index}.png", image),), path, None, "train", None, path)
        )
    with_objects = examine(RawDataset(DatasetInfo("x", (), {}), entries))[2]
    assert "pieces" not in {finding.kind for finding in with_objects}
    without = [replace(entry, instances_path=None, label_path=entry.label_path) for entry in entries]
    for index, item in enumerate(without):
        label = (np.asarray(Image.open(f"{tmp_path}/ids_{index}.png")) > 0).astype(np.uint8)
        without[index] = replace(item, label_path=save(tmp_path / f"label_{index}.png", label))
    assert "pieces" in {finding.kind for finding in examine(RawDataset(DatasetInfo("x", (), {}), without))[2]}
