from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import pytest

from pipelines.reporting.report import Search
from tests.pipelines.reporting.small_report import (
    GRAPH,
    SEGMENTATION,
    history,
    overlay_case,
    score,
    scores,
    write_small_report,
)

VOID = {"meta", "img", "br", "line", "circle", "path", "use", "rect", "stop", "image"}


class TagBalance(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = []
        self.text = ""
        self.shown = ""  # without script and style
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
        if self.open[-1:] not in (["script"], ["style"]):
            self.shown += data


def report(out_dir, entry_scores, comparison=SEGMENTATION, **more):
    write_small_report(out_dir, entry_scores, comparison, **more)
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
        fingerprint=["4 training cases were measured."],
        settings="family: segmentation",
        provenance={"commit": "abc", "machine": {"num_cores": 4}},
    )
    for words in (
        "organs <1>",
        "nnunet leads with a mean Dice of 0.815",
        "on the 1 case of the test split it has 0.800",
        "Best case: c1",
        "Dice 0.800 · liver 0.800 · spacing 3 × 1 × 1 mm",
        "4 training cases were measured.",
        "patch <= shape",
        "num_cores",
        "family: segmentation",
        "dvc repro",
    ):
        assert words in page.text
    # Nothing is fetched: pictures are inside, links stay within the page.
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    assert sum(address.startswith("data:") for address in page.addresses) == 9
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
        "figures/class_nsd.png",
        "figures/by_case.png",
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
    assert "nnunet is the only entry" in page.text
    assert not (tmp_path / "figures" / "curve_val_pseudo_dice.png").exists()


def test_scores_that_are_nan_are_dashes_and_null(tmp_path):
    entry_scores = {"nnunet": [row | dict.fromkeys(("dice", "iou", "hd95_mm", "nsd"), math.nan) for row in scores(0.8)]}
    page = report(tmp_path, entry_scores)
    assert "No entry has a score yet." in page.text
    assert "nan" not in page.shown.lower()
    row = json.loads((tmp_path / "ranking.json").read_text(), parse_constant=lambda name: pytest.fail(name))[0]
    assert row["score"] is None
    assert "| 1 | nnunet | – |" in (tmp_path / "ranking.md").read_text(encoding="utf-8")


def test_nothing_at_all_still_gives_a_page(tmp_path):
    assert "No entry has a score yet." in report(tmp_path, {}).text


def test_the_same_input_gives_the_same_bytes(tmp_path):
    arguments = {"histories": {"nnunet": {"fold0_seed0": history(3)}}}
    report(tmp_path / "a", {"nnunet": scores(0.8)}, **arguments)
    report(tmp_path / "b", {"nnunet": scores(0.8)}, **arguments)
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path.name


def test_a_graph_study_has_seeds_and_no_gallery(tmp_path):
    def nodes(level):
        return [
            {"case_id": f"node_{node}", "patient": f"node_{node}", "class_name": f"topic_{node % 2}", "split": "test"}
            | {"fold": 0, "seed": seed, "accuracy": float((node * 7 + seed * 3) % 10 < 10 * level)}
            for node in range(40)
            for seed in range(10)
        ]

    scores = {"gcn": nodes(0.8), "gat": nodes(0.9), "intensity": nodes(0.5)}
    curves = {"gcn": {"fold0_seed0": [{"epoch": 0, "step": 1, "train_loss": 1.0, "val_accuracy": 0.5}]}}
    page = report(tmp_path, scores, GRAPH, histories=curves)
    for words in ("gat leads with a mean accuracy of 0.9", "40 test nodes", "over 10 seeds", "Node by node"):
        assert words in page.text
    assert "Gallery" not in page.shown
    written = {path.name for path in (tmp_path / "figures").iterdir()}
    assert written >= {"by_seed.png", "class_accuracy.png", "curve_val_accuracy.png"}
    rows = json.loads((tmp_path / "ranking.json").read_text())
    assert next((row["entry"], len(row["score_per_seed"]), row["test"]) for row in rows) == ("gat", 10, None)


def test_right_or_wrong_is_not_drawn_as_points(tmp_path):
    rows = [score(f"c{case}", "liver", float(case % 2)) for case in range(8)]
    report(tmp_path, {"nnunet": rows})
    assert not (tmp_path / "figures" / "by_case.png").exists()


def test_classes_stand_in_the_order_of_the_labels(tmp_path):
    report(tmp_path, {"nnunet": scores(0.8)[::-1]})
    row = json.loads((tmp_path / "ranking.json").read_text())[0]
    assert list(row["classes"]) == ["liver", "tumour"]


def test_a_search_is_shown_with_what_it_found(tmp_path):
    trials = [
        {
            "trial": f"fold0_trial00{number}",
            "fold": 0,
            "score": 0.1 * number,
            "epochs": 3,
            "seconds": 1.0,
            "reason": None,
        }
        | {"status": "finished" if number > 3 else "stopped_early", "optimizer.learning_rate": 0.001 * number}
        for number in range(1, 7)
    ]
    best = {
        "num_trials": 6,
        "folds": {0: {"trial": "fold0_trial006", "optimizer": {"name": "sgd", "learning_rate": 0.006}}},
    }
    plan = {"optimizer": {"name": "sgd", "learning_rate": 0.01}}
    searches = {"nnunet": Search(trials, best)}
    page = report(tmp_path, {"nnunet": scores(0.8)}, plans={"nnunet": plan}, searches=searches)
    assert "6 trials: 3 stopped early and 3 finished." in page.text
    assert "optimizer.learning_rate" in page.text
    assert "optimizer.name" not in page.text, "it is what was planned"
    assert list((tmp_path / "figures").glob("search_nnunet_*.png"))
