from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.cases.collect import collect_cases, open_source
from pipelines.cases.nifti import read_label
from pipelines.cases.obtain import content_digest
from pipelines.cases.sources import isbi2012_em

SHARED = Path(__file__).parents[4] / "../shared/data/isbi2012_em"
SOURCE = "pipelines/cases/sources/isbi2012_em.py"


@pytest.fixture
def sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`data/isbi2012_em` with sections of 4 x 4 pixels, which the source takes for the right ones."""
    monkeypatch.chdir(tmp_path)
    contents = {}
    for number in range(30):
        for kind, value in (("image", number), ("label", 255)):
            path = isbi2012_em.LOCAL_DIR / f"train/{kind}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4), value, np.uint8)).save(path)
            contents[f"train/{kind}/{number}.png"] = path.read_bytes()
    monkeypatch.setattr(isbi2012_em, "DIGEST", content_digest(contents))
    return tmp_path


def test_folds_are_blocks_of_neighbours(sections: Path) -> None:
    raw = open_source(str(isbi2012_em.make(sections / "out")), sections)
    assert [(entry.case_id, entry.fold) for entry in raw.entries[5:7]] == [("section_05", 0), ("section_06", 1)]
    assert {entry.fold for entry in raw.entries} == {0, 1, 2, 3, 4}
    assert raw.info.measures == ("pixel_error", "rand_error")
    assert raw.info.labels == {"membrane": 0, "cell": 1}


def test_a_missing_or_changed_file_is_told(sections: Path) -> None:
    path = isbi2012_em.LOCAL_DIR / "train/label/7.png"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ValueError, match="data/isbi2012_em: the digest of its 60 files is"):
        isbi2012_em.make(sections / "out")
    path.unlink()
    with pytest.raises(ValueError, match=r"train/label/7\.png is missing, while others are there; copy it from https"):
        isbi2012_em.make(sections / "out")


def test_without_files_they_are_downloaded(sections: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = (sections / isbi2012_em.LOCAL_DIR).rename(sections / "served")
    monkeypatch.setattr(isbi2012_em, "ADDRESS", f"{served.as_uri()}/")
    raw = open_source(str(isbi2012_em.make(sections / "out")), sections)
    assert len(raw.entries) == 30
    assert raw.entries[29].image_paths == (str(sections / "out/train/image/29.png"),)
    (served / "train/image/3.png").unlink()
    with pytest.raises(ValueError, match=r"cannot be downloaded .*put the files into data/isbi2012_em"):
        isbi2012_em.make(sections / "again")


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/isbi2012_em is not there")
def test_the_real_sections_are_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isbi2012_em, "LOCAL_DIR", SHARED)
    raw = open_source(str(isbi2012_em.make(tmp_path / "out")), tmp_path)
    assert len(raw.entries) == 30
    assert raw.entries[0].label_path is not None
    label, _ = read_label(raw.entries[0].label_path)
    assert label.shape == (1, 512, 512)
    assert label.mean() == pytest.approx(0.7807, abs=1e-4)
    table = str(tmp_path / "out/manifest.csv")
    collect_cases(table, "isbi2012_em", tmp_path / "cases", num_folds=5)
