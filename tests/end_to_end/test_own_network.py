"""A network of a user's own package, outside of the project, through the whole study, and after an edit."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from tiny_study import PARAMS, copy_project, ray_head, repro

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.own_networks import PACKAGE, write_package

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ENTRY = "own"
STUDY = {
    "architectures": ["unet_3d_tiny", ENTRY],
    "entries": {
        "unet_3d_tiny": PARAMS["entries"]["unet_3d_tiny"],
        ENTRY: {"target": f"{PACKAGE}.nets.Hourglass", "arguments": {"width": 2, "supervision": "list"}},
    },
    "tuning": {"trials": 2, "entries": [ENTRY], "steps": 2, "space": {"network.width": [2, 3]}},
}


def test_a_user_s_network_is_trained_and_ranked_and_an_edit_trains_it_alone(tmp_path, monkeypatch):
    package = write_package(tmp_path / "elsewhere")
    path = f".{os.pathsep}{tmp_path / 'elsewhere'}"
    monkeypatch.setenv("PYTHONPATH", path)
    folder = copy_project(tmp_path / "study", **STUDY)
    with ray_head(folder, PYTHONPATH=path):
        repro(folder, PYTHONPATH=path)
        model = json.loads((folder / "models/blobs" / ENTRY / "model.json").read_text(encoding="utf-8"))
        assert model["plan"]["architecture"] == f"{PACKAGE}.nets.Hourglass"
        assert model["plan"]["network"]["in_channels"] == "$channels"
        best = yaml.safe_load((folder / "tuned/blobs" / ENTRY / "best.yaml").read_text(encoding="utf-8"))
        widths = {fold: values["network"]["width"] for fold, values in best["folds"].items()}
        assert {training["fold"]: training["network"]["width"] for training in model["trainings"]} == widths
        ranking = json.loads((folder / "reports/blobs/ranking.json").read_text(encoding="utf-8"))
        assert {row["entry"] for row in ranking if not row["is_reference"]} == set(STUDY["architectures"])
        assert repro(folder, PYTHONPATH=path) == []
        blocks = package.with_name("blocks.py")
        blocks.write_text(blocks.read_text(encoding="utf-8").replace("ReLU()", "LeakyReLU(0.1)"), encoding="utf-8")
        assert repro(folder, "--force", "--single-item", "sources", PYTHONPATH=path) == ["sources"]
        ran = repro(folder, PYTHONPATH=path)
    assert f"train@blobs-{ENTRY}" in ran
    assert not [stage for stage in ran if stage.endswith("unet_3d_tiny")]
