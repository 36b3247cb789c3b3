from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.cases.collect import open_source
from pipelines.cases.integrity import examine
from pipelines.cases.obtain import content_digest
from pipelines.cases.sources import chase_db1

SHARED = Path(__file__).parents[4] / "../shared/data/chase_db1"


@pytest.fixture
def eyes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`data/chase_db1` with photographs of 4 x 4 pixels, which the source takes for the right ones."""
    monkeypatch.chdir(tmp_path)
    chase_db1.LOCAL_DIR.mkdir(parents=True)
    contents = {}
    for child in range(1, 15):
        for side in "LR":
            for name, side_length in ((f"Image_{child:02}{side}.jpg", 3), (f"Image_{child:02}{side}_1stHO.png", None)):
                shape = (4, 4) if side_length is None else (4, 4, side_length)
                path = chase_db1.LOCAL_DIR / name
                Image.fromarray(np.full(shape, child, np.uint8)).save(path)
                contents[name] = path.read_bytes()
    monkeypatch.setattr(chase_db1, "DIGEST", content_digest(contents))
    return tmp_path


def test_both_eyes_of_a_child_are_on_one_side(eyes: Path) -> None:
    raw = open_source(str(chase_db1.make(eyes / "out")), eyes)
    test = [entry for entry in raw.entries if entry.split == "test"]
    assert [entry.case_id for entry in test] == ["11L", "11R", "12L", "12R", "13L", "13R", "14L", "14R"]
    folds: dict[int | None, set[str | None]] = {}
    for entry in raw.entries[:20]:
        folds.setdefault(entry.fold, set()).add(entry.patient)
    assert folds == {fold: {f"child_{fold + 1:02}", f"child_{fold + 6:02}"} for fold in range(5)}
    assert raw.info.measures == ("auc", "sensitivity", "specificity")


def test_a_missing_or_changed_file_is_told(eyes: Path) -> None:
    path = chase_db1.LOCAL_DIR / "Image_03R_1stHO.png"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ValueError, match="data/chase_db1: the digest of its 56 files is"):
        chase_db1.make(eyes / "out")
    path.unlink()
    with pytest.raises(ValueError, match=r"Image_03R_1stHO\.png is missing, while others are there"):
        chase_db1.make(eyes / "out")


def test_without_files_they_are_downloaded(eyes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = (eyes / chase_db1.LOCAL_DIR).rename(eyes / "served")
    monkeypatch.setattr(chase_db1, "ADDRESS", f"{served.as_uri()}/")
    assert len(open_source(str(chase_db1.make(eyes / "out")), eyes).entries) == 28


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/chase_db1 is not there")
def test_the_real_photographs_are_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chase_db1, "LOCAL_DIR", SHARED)
    raw = open_source(str(chase_db1.make(tmp_path / "out")), tmp_path)
    _, facts, findings = examine(raw)
    assert [finding for finding in findings if finding.severity == "error"] == []
    assert {(case.num_channels, case.shape, case.label_values) for case in facts} == {(3, (1, 960, 999), (0, 1))}
