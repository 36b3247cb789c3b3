from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cases.case import DatasetInfo
from pipelines.evaluation.intervals import bootstrap_interval
from pipelines.evaluation.ranking import ranking_rows
from pipelines.reporting.overlays import OverlayCase
from pipelines.reporting.report import class_points, learning_curves_csv, read_history, write_report

INFO = DatasetInfo("organs <1>", ("CT",), {"background": 0, "liver": 1, "tumour": 2})
VOID = {"meta", "img", "br", "line", "circle", "path", "use", "rect", "stop"}


class TagBalance(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = []
        self.text = ""
        self.addresses = []

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for key, value in attributes if key in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def score(case_id, class_name, dice, split="validation", patient=None):
    return {
        "case_id": case_id,
        "patient": patient or case_id,
        "class_name": class_name,
        "split": split,
        "fold": 0,
        "seed": 0,
        "dice": dice,
        "iou": dice,
        "hd95_mm": 3.0,
        "assd_mm": 1.0,
        "nsd": dice,
    }


def scores(level, with_test=False):
    rows = [score(f"c{case}", name, level + case / 100) for case in range(4) for name in ("liver", "tumour")]
    return rows + ([score("t0", "liver", level, split="test")] if with_test else [])


def history(num_epochs, with_validation=True):
    return [
        {"epoch": epoch, "step": 10 * (epoch + 1), "train_loss": 1 / (epoch + 1)}
        | ({"val_pseudo_dice": 0.5} if with_validation else {})
        for epoch in range(num_epochs)
    ]


def overlay_case(caption):
    label = np.zeros((6, 8, 10), dtype=np.uint8)
    label[2:4, 2:5, 3:6] = 1
    return OverlayCase("c1", np.ones((1, 6, 8, 10), np.float32), label, label, (3.0, 1.0, 1.0), 0.8, caption)


def report(out_dir, entry_scores, **more):
    info = {entry: {"is_reference": entry == "intensity"} for entry in entry_scores}
    arguments = {
        "dataset_info": INFO,
        "ranking": ranking_rows(entry_scores, info, num_samples=50) if entry_scores else [],
        "scores": entry_scores,
        "histories": {},
        "overlays": [],
        "plans": {},
        "provenance": {},
        "command": "dvc repro",
    }
    write_report(out_dir, **(arguments | more))
    page = TagBalance()
    page.feed((out_dir / "index.html").read_text(encoding="utf-8"))
    assert page.open == []
    return page


def test_the_whole_report(tmp_path):
    page = report(
        tmp_path,
        {"nnunet": scores(0.8, with_test=True), "unetr": scores(0.6, with_test=True), "intensity": scores(0.3)},
        histories={"nnunet": {"fold0_seed0": history(3), "fold1_seed0": history(2)}},
        overlays=[overlay_case("best"), overlay_case("median"), overlay_case("worst")],
        plans={"nnunet": {"architecture": "segmentation/nnunet", "patch_size": [8, 8], "reasons": ["patch <= shape"]}},
        provenance={"commit": "abc", "machine": {"num_cores": 4}},
    )
    for words in (
        "organs <1>",
        "nnunet leads with a mean Dice of 0.815",
        "On the 1 cases of the test split",
        "Best case: c1, mean Dice 0.800, spacing 3 × 1 × 1 mm",
        "patch <= shape",
        "num_cores: 4",
        "dvc repro",
    ):
        assert words in page.text
    # Nothing is fetched: pictures are inside, links stay within the page.
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    assert sum(address.startswith("data:") for address in page.addresses) == 9
    assert "<script" not in (tmp_path / "index.html").read_text(encoding="utf-8")
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    planes = {
        f"figures/case_{case}_{plane}.png"
        for case in ("best", "median", "worst")
        for plane in ("axial", "coronal", "sagittal")
    }
    assert written == planes | {
        "index.html",
        "ranking.json",
        "ranking.md",
        "learning_curves.csv",
        "figures/class_dice.png",
        "figures/class_hd95_mm.png",
        "figures/curve_train_loss.png",
        "figures/curve_val_pseudo_dice.png",
    }
    assert [row["entry"] for row in json.loads((tmp_path / "ranking.json").read_text())] == [
        "nnunet",
        "unetr",
        "intensity",
    ]


def test_ids_are_unique_in_the_page(tmp_path):
    report(tmp_path, {"nnunet": scores(0.8)}, histories={"nnunet": {"fold0_seed0": history(3)}})
    ids = re.findall(r'\bid="([^"]*)', (tmp_path / "index.html").read_text(encoding="utf-8"))
    assert len(ids) == len(set(ids)) > 10


def test_a_single_entry_without_test_split_or_validation(tmp_path):
    page = report(
        tmp_path, {"nnunet": scores(0.8)}, histories={"nnunet": {"fold0_seed0": history(1, with_validation=False)}}
    )
    assert "nnunet, the only entry with a score" in page.text
    assert not (tmp_path / "figures" / "curve_val_pseudo_dice.png").exists()


def test_scores_that_are_nan_are_dashes_and_null(tmp_path):
    entry_scores = {"nnunet": [row | dict.fromkeys(("dice", "iou", "hd95_mm", "nsd"), math.nan) for row in scores(0.8)]}
    page = report(tmp_path, entry_scores)
    assert "No entry has an out-of-fold score yet." in page.text
    assert "nan" not in page.text.lower()
    row = json.loads((tmp_path / "ranking.json").read_text(), parse_constant=lambda name: pytest.fail(name))[0]
    assert row["dice"] is None
    assert "| 1 | nnunet | – |" in (tmp_path / "ranking.md").read_text(encoding="utf-8")


def test_nothing_at_all_still_gives_a_page(tmp_path):
    assert "No entry has an out-of-fold score yet." in report(tmp_path, {}).text


def test_the_same_input_gives_the_same_bytes(tmp_path):
    arguments = {"histories": {"nnunet": {"fold0_seed0": history(3)}}}
    report(tmp_path / "a", {"nnunet": scores(0.8)}, **arguments)
    report(tmp_path / "b", {"nnunet": scores(0.8)}, **arguments)
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path.name


def test_the_learning_curves_of_all_entries_are_one_table():
    text = learning_curves_csv(
        {"a": {"fold0_seed1": history(1)}, "b": {"fold2_seed0": history(1, with_validation=False)}}
    )
    assert text.splitlines() == [
        "entry,fold,seed,epoch,step,train_loss,val_pseudo_dice",
        "a,0,1,0,10,1.0,0.5",
        "b,2,0,0,10,1.0,",
    ]


def test_class_points_are_means_over_the_cases_all_entries_predicted():
    entry_scores = {
        "a": [
            score("c0", "liver", 0.2, patient="p"),
            score("c1", "liver", 0.6, patient="q"),
            score("c2", "liver", 0.9),
        ],
        "b": [
            score("c0", "liver", 0.5, patient="p"),
            score("c1", "liver", math.nan, patient="q"),
            score("t", "liver", 0.0, "test"),
        ],
    }
    first, second = class_points(entry_scores, ["a", "b"], ["liver"], "dice")
    assert (first.mean, first.low, first.high) == bootstrap_interval([0.2, 0.6], ["p", "q"])
    assert (second.mean, second.low, second.high) == (0.5, 0.5, 0.5)


def test_a_history_is_read_by_training(tmp_path):
    rows = [
        {"fold": 1, "seed": 0, "epoch": 1, "step": 20, "train_loss": 0.5},
        {"fold": 1, "seed": 0, "epoch": 0, "step": 10, "train_loss": 1.0},
    ]
    rows.append({"fold": 0, "seed": 2, "epoch": 0, "step": 10, "train_loss": 2.0})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "history.parquet")
    found = read_history(tmp_path / "history.parquet")
    assert list(found) == ["fold0_seed2", "fold1_seed0"]
    assert [row["train_loss"] for row in found["fold1_seed0"]] == [1.0, 0.5]
