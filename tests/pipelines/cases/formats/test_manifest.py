from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.cases.case import RawEntry
from pipelines.cases.collect import open_source
from pipelines.cases.formats import manifest
from pipelines.cases.integrity import examine

CHAOS = Path(__file__).parents[4] / "../shared/data/chaos_t2_mr"


def write(folder: Path, text: str) -> Path:
    path = folder / "cases.csv"
    path.write_text(text)
    return path


def test_all_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "case_id,image,label,patient,split,fold\n"
        "a,x/a.nii,x/al.nii,p,train,1\n"
        "b,/abs/b.nii,x/bl.nii,p,,1\n"
        "c,c0.nii;c1.nii,,q,test,\n",
    )
    raw = manifest.read(path)
    assert manifest.matches(path)
    assert raw.info.labels == {}
    assert raw.entries == [
        RawEntry("a", (str(tmp_path / "x/a.nii"),), str(tmp_path / "x/al.nii"), "p", "train", 1),
        RawEntry("b", ("/abs/b.nii",), str(tmp_path / "x/bl.nii"), "p", "train", 1),
        RawEntry("c", (str(tmp_path / "c0.nii"), str(tmp_path / "c1.nii")), None, "q", "test", None),
    ]


def test_a_column_a_channel_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffcase_id,image_0,image_1,label\na,t1.nii,t2.nii,l.nii\n")
    (entry,) = manifest.read(path).entries
    assert entry == RawEntry(
        "a", (str(tmp_path / "t1.nii"), str(tmp_path / "t2.nii")), str(tmp_path / "l.nii"), None, "train", None
    )


def test_the_file_beside_it_names_classes_and_channels(tmp_path: Path) -> None:
    path = write(tmp_path, "case_id,image,label\na,a.nii,l.nii\n")
    names = {"labels": {"background": 0, "liver": 1, "ignore": 2}, "channels": ["T2"]}
    (tmp_path / "cases.json").write_text(json.dumps(names))
    info = manifest.read(path).info
    assert (info.labels, info.ignore_label, info.channels) == ({"background": 0, "liver": 1}, 2, ("T2",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "case,image,label\n",
            r"columns \['case_id'\] are missing; found \['case', 'image', 'label'\], needed case_id",
        ),
        ("case_id,label\n", r"columns \['image \(or image_0, image_1, ...\)'\] are missing"),
        ("case_id;image;label\n", r"found \['case_id;image;label'\].* separated by commas"),
        ("", r"found \[\]"),
        ("case_id,image,label,split\na,a.nii,l.nii,val\n", r"cases.csv, line 2: split 'val'; it must be one of"),
        ("case_id,image,label,fold\na,a.nii,l.nii,x\n", r"line 2: fold 'x'; it must be a whole number"),
        (
            "case_id,image,label\na,a.nii,l.nii\nb,,l.nii\n",
            r"line 3: case_id 'b' with images \[\]; each row needs both",
        ),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        manifest.read(write(tmp_path, text))


def test_a_wrong_file_of_names_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "case_id,image,label\na,a.nii,l.nii\n")
    (tmp_path / "cases.json").write_text('{"labels": {"0": "background"}}')
    with pytest.raises(ValueError, match=r"cases.json: .* the form is"):
        manifest.read(path)


def test_objects_stand_in_place_of_a_label_or_beside_it(tmp_path: Path) -> None:
    path = write(
        tmp_path, "case_id,image,label,instances\na,a.png,,a_masks\nb,b.png,b_label.png,b_ids.png\nc,c.png,d.png,\n"
    )
    first, second, third = manifest.read(path).entries
    assert first.label_path == first.instances_path == str(tmp_path / "a_masks")
    assert (second.label_path, second.instances_path) == (str(tmp_path / "b_label.png"), str(tmp_path / "b_ids.png"))
    assert third.instances_path is None


def test_a_table_of_objects_needs_no_column_of_labels(tmp_path: Path) -> None:
    (entry,) = manifest.read(write(tmp_path, "case_id,image,instances\na,a.png,ids.png\n")).entries
    assert entry.label_path == str(tmp_path / "ids.png")


def test_the_file_of_names_may_ask_for_measures(tmp_path: Path) -> None:
    path = write(tmp_path, "case_id,image,label\na,a.nii,l.nii\n")
    (tmp_path / "cases.json").write_text('{"measures": ["object_ap"]}')
    assert manifest.read(path).info.measures == ("object_ap",)
    (tmp_path / "cases.json").write_text('{"measures": "object_ap"}')
    with pytest.raises(ValueError, match=r"cases.json: `measures` is 'object_ap'; the form is"):
        manifest.read(path)


@pytest.mark.shared_data
@pytest.mark.skipif(not CHAOS.is_dir(), reason="the CHAOS data are not beside the checkout")
def test_real_cases_without_names_get_classes_from_the_files(tmp_path: Path) -> None:
    rows = [f"chaos_{n},{CHAOS}/image_{n}.nii.gz,{CHAOS}/label_{n}.nii.gz" for n in (1, 2)]
    raw = open_source(str(write(tmp_path, "\n".join(["case_id,image,label", *rows]) + "\n")), tmp_path / "files")
    info, facts, findings = examine(raw)
    assert findings == []
    assert info.channels == ("channel_0",)
    assert info.labels == {"background": 0, "class_1": 1, "class_2": 2, "class_3": 3, "class_4": 4}
    assert facts[0].shape == (37, 256, 256)
    assert facts[0].spacing_mm == pytest.approx((7.7, 1.25, 1.25))
