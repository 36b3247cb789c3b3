from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.cases.annotation import read_objects
from pipelines.cases.collect import open_source
from pipelines.cases.nifti import read_image
from pipelines.cases.sources import dsb2018_nuclei

SHARED = Path(__file__).parents[4] / "../shared/data/dsb2018_nuclei.zip"
FIRST, SECOND = f"{0xA1:064x}", "ab" * 32


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def write_archive(path: Path, **more: bytes) -> Path:
    """Two images of 3 x 4 pixels with two nuclei and with none; `more` replaces files by their place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left, right = np.zeros((2, 3, 4), np.uint8)
    left[0, :2], right[2, 2:] = 255, 255
    colours = np.full((3, 4, 4), (9, 8, 7, 255), np.uint8)
    files = {
        f"top/stage1_train/{FIRST}/images/{FIRST}.png": png(colours),
        f"top/stage1_train/{FIRST}/masks/1.png": png(left),
        f"top/stage1_train/{FIRST}/masks/2.png": png(right),
        f"top/stage1_train/{SECOND}/images/{SECOND}.png": png(colours + 1),
        "top/README.md": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (files | more).items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_masks_become_one_file_of_numbers(here: Path) -> None:
    write_archive(here / "data/dsb2018_nuclei.zip")
    raw = open_source(str(dsb2018_nuclei.make(here / "out")), here)
    assert [entry.case_id for entry in raw.entries] == [FIRST[:12], SECOND[:12]]
    entry = raw.entries[0]
    assert entry.label_path == entry.instances_path is not None
    assert read_objects(entry.instances_path).array[0, 0, ::-1].tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 2, 2]]
    assert not read_objects(str(raw.entries[1].instances_path)).array.any()
    assert read_image(entry.image_paths[0]).array[:, 0, 0, 0].tolist() == [9, 8, 7]
    assert raw.info.labels == {"background": 0, "nucleus": 1}
    assert raw.info.measures == ("object_ap", "object_ap50", "aggregated_jaccard")


def test_an_unpacked_folder_is_the_same(here: Path) -> None:
    archive = write_archive(here / "data/dsb2018_nuclei.zip")
    first = dsb2018_nuclei.make(here / "out")
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(here / "data/dsb2018_nuclei")
    archive.unlink()
    second = dsb2018_nuclei.make(here / "again")
    for path in sorted(first.parent.rglob("*.*")):
        assert (second.parent / path.relative_to(first.parent)).read_bytes() == path.read_bytes()


def test_without_files_the_archive_is_downloaded_and_not_kept(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsb2018_nuclei, "ADDRESS", write_archive(here / "served.zip").as_uri())
    table = dsb2018_nuclei.make(here / "out")
    assert len(open_source(str(table), here).entries) == 2
    assert not list((here / "out").rglob("*.zip"))


def test_what_is_no_such_archive_is_told(here: Path) -> None:
    with zipfile.ZipFile(here / "x.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    (here / "data").mkdir()
    (here / "x.zip").rename(here / "data/dsb2018_nuclei.zip")
    with pytest.raises(ValueError, match="data/dsb2018_nuclei: no file like stage1_train/ID/images"):
        dsb2018_nuclei.make(here / "out")


def test_a_mask_of_another_size_is_told(here: Path) -> None:
    wrong = {f"top/stage1_train/{FIRST}/masks/2.png": png(np.zeros((3, 3), np.uint8))}
    write_archive(here / "data/dsb2018_nuclei.zip", **wrong)
    with pytest.raises(ValueError, match=r"mask 2 is \(3, 3\), the image \(3, 4\)"):
        dsb2018_nuclei.make(here / "out")


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_file(), reason="../shared/data/dsb2018_nuclei.zip is not there")
def test_the_real_nuclei_are_all_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsb2018_nuclei, "LOCAL_DIR", SHARED.with_suffix(""))
    raw = open_source(str(dsb2018_nuclei.make(tmp_path / "out")), tmp_path)
    assert len(raw.entries) == 150
    num_nuclei = sum(int(read_objects(str(entry.instances_path)).array.max()) for entry in raw.entries)
    assert num_nuclei == 6049
