"""The committed results are those of the studies as they ship."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.params import read_params
from repro_models import registry

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
STUDIES = ["zoo_3d", "zoo_2d", "isbi2012_em", "chase_db1"]
# Networks that a minute of processor time does not bring above the yardstick: docs/results/README.md says why.
BELOW_THE_YARDSTICK = {
    "zoo_3d": {"kiunet_small", "lightm_unet_small"},
    "zoo_2d": {
        "deeplab_small",
        "deeplab_v3_small",
        "fcn_small",
        "h_vmunet_small",
        "kiunet_small",
        "lightm_unet_small",
        "nnunet_small",
        "segnet_small",
        "setr_small",
        "smp_unet",
        "swin_unet_small",
        "swin_unetr_small",
        "transfuse_small",
        "unet_plus_plus_small",
        "unetr_small",
        "vm_unet_small",
    },
}


def ranking(study: str) -> dict[str, dict[str, Any]]:
    rows = json.loads((RESULTS / study / "ranking.json").read_text(encoding="utf-8"))
    return {row["entry"]: row for row in rows}


@pytest.mark.parametrize("study", STUDIES)
def test_a_ranking_has_the_entries_of_its_study_beside_the_yardstick(study: str) -> None:
    entries = set(read_params(ROOT / "studies" / f"{study}.yaml").architectures)
    assert set(ranking(study)) == entries | {"intensity_classifier"}


@pytest.mark.parametrize("study", STUDIES)
def test_its_report_and_table_are_of_the_same_run(study: str) -> None:
    table = (RESULTS / study / "ranking.md").read_text(encoding="utf-8")
    report = (RESULTS / study / "index.html").read_text(encoding="utf-8")
    for entry, row in ranking(study).items():
        assert f"{entry} | {row['score']:.3f} (" in table
        assert f"{row['score']:.3f}" in report


@pytest.mark.parametrize(("study", "spatial_dims"), [("zoo_3d", 3), ("zoo_2d", 2)])
def test_every_network_that_serves_the_dimensions_is_in_the_study_of_the_zoo(study: str, spatial_dims: int) -> None:
    params = read_params(ROOT / "studies" / f"{study}.yaml")
    compared = {str(params.entry(name).architecture) for name in params.architectures}
    serving = {
        name
        for name in registry.names()
        if name.startswith("segmentation/") and spatial_dims in registry.load(name).CONSTRAINTS.spatial_dims
    }
    assert serving <= compared


@pytest.mark.parametrize("study", sorted(BELOW_THE_YARDSTICK))
def test_a_minute_brings_networks_clearly_above_the_yardstick_unless_the_page_says_why_not(study: str) -> None:
    rows = ranking(study)
    rows.pop("intensity_classifier")
    below = {entry for entry, row in rows.items() if row["above_reference"]["low"] <= 0}
    assert below == BELOW_THE_YARDSTICK[study]
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert all(f"`{entry}`" in page for entry in BELOW_THE_YARDSTICK[study])
