"""A study of a graph goes through the same stages as one of images, and again does nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tiny_study import copy_project, ray_head, repro

from tests.tiny_graph import DATASET, PARAMS, write_planetoid

pytestmark = pytest.mark.slow


def test_a_graph_goes_from_its_files_to_the_report(tmp_path: Path) -> None:
    folder = copy_project(tmp_path, **PARAMS)
    shutil.rmtree(folder / "data")
    write_planetoid(folder / "data" / DATASET)
    with ray_head(folder):
        ran = repro(folder)
    assert len(ran) == 5 + 2 * 4
    assert ran[-1] == f"compare@{DATASET}"
    assert repro(folder) == []

    ranking = json.loads((folder / "reports" / DATASET / "ranking.json").read_text(encoding="utf-8"))
    rows = {row["entry"]: row for row in ranking}
    assert set(rows) == {"gcn_tiny", "gat_tiny", "feature_classifier"}
    assert {row["measure"] for row in ranking} == {"accuracy"}
    assert {row["num_cases"] for row in ranking} == {30}
    assert rows["feature_classifier"]["rank"] is None
    for entry in ("gcn_tiny", "gat_tiny"):
        row = rows[entry]
        assert set(row["score_per_seed"]) == {"0", "1"}
        scores = pq.read_table(folder / "results" / DATASET / entry / "cases.parquet").to_pylist()
        test = [score["accuracy"] for score in scores if score["split"] == "test"]
        assert row["score"] == pytest.approx(sum(test) / len(test))
    page = (folder / "reports" / DATASET / "index.html").read_text(encoding="utf-8")
    assert "logistic regression on the node" in page
    assert "pseudo" not in page.lower()
