"""docs/reference/zoo.md says what the architectures' files, the tests and the ledger say."""

from __future__ import annotations

import json

import pytest

from pipelines.reporting import zoo
from repro_models import registry

PAGE = zoo.PAGE.read_text(encoding="utf-8")
COSTS = zoo.costs_on(PAGE)


def test_every_architecture_has_a_line() -> None:
    assert list(COSTS) == registry.names(), "run `python -m pipelines.reporting.zoo --only`"


def test_the_page_is_what_its_sources_say() -> None:
    assert zoo.page(COSTS) == PAGE, "run `python -m pipelines.reporting.zoo --only`"


@pytest.mark.parametrize("name", ["segmentation/unet_3d", "graph/gcn", "classification/vision_mamba"])
def test_what_is_counted_is_on_the_page(name: str) -> None:
    assert zoo.costs_of(name) == COSTS[name], f"run `python -m pipelines.reporting.zoo --only {name}`"


def test_each_kind_of_proof_is_found_where_it_is() -> None:
    lines = {
        name: next(line for line in PAGE.splitlines() if line.startswith(f"| [{name}](")) for name in ("unetr", "gcn")
    }
    assert "| yes | monai |" in lines["unetr"]
    assert "| torch_geometric | Cora, split of Planetoid, accuracy" in lines["gcn"]


def test_a_latency_of_another_size_is_left_blank(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    rows = {
        "segmentation/unetr": {"size": [96, 96, 96], "median_ms": 1234.4},
        "segmentation/nnunet": {"size": [8], "median_ms": 7},
    }
    path = zoo.LATENCY.__class__(str(tmp_path)) / "latency.json"
    head = {"command": "c", "date": "d", "num_threads": 1, "machine": {"processor": "p", "torch": "t"}}
    path.write_text(json.dumps(head | {"architectures": rows}), encoding="utf-8")
    monkeypatch.setattr(zoo, "LATENCY", path)
    lines = zoo.page(COSTS).splitlines()
    cells = {
        name: next(line for line in lines if line.startswith(f"| [{name}](")).split(" | ")
        for name in ("unetr", "nnunet")
    }
    assert (cells["unetr"][4], cells["nnunet"][4]) == ("1,234 ms", "–")


def test_sizes_are_the_nearest_that_a_network_takes() -> None:
    for name in registry.names():
        setting = zoo.main_setting(name)
        if setting is not None:
            setting.module.CONSTRAINTS.check_size(setting.config, setting.size)
