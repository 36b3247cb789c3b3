from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.cli import main
from pipelines.planning.memory import conv_elements
from pipelines.planning.nnunet_sizing import NnunetSizer, nnunet_elements
from pipelines.planning.presets import PRESETS
from pipelines.planning.shapes import shapes_only
from pipelines.planning.sizing import MemoryBudgetError
from repro_models import registry
from repro_models.contract import Problem
from tests.nnunet_data import DATA

NNUNET = registry.load("segmentation/nnunet")
Row = dict[str, Any]


def measured() -> dict[tuple[str, str], dict[str, Row]]:
    """(data, preset) -> configuration -> what nnU-Net planned."""
    plans: dict[tuple[str, str], dict[str, Row]] = {}
    text = (Path(__file__).parent / "nnunet_plans.txt").read_text(encoding="utf-8")
    for line in text.splitlines()[1:]:
        data, preset, configuration, patch, batch, spacing, strides, kernels, elements, dice = (
            cell.strip() for cell in line.split("|")
        )
        plans.setdefault((data, preset), {})[configuration] = {
            "patch_size": [int(side) for side in patch.split("x")],
            "batch_size": int(batch),
            "spacing": [float(side) for side in spacing.split()],
            "strides": [list(map(int, stage)) for stage in strides.split()],
            "kernel_sizes": [list(map(int, stage)) for stage in kernels.split()],
            "conv_elements": int(elements),
            "batch_dice": dice == "on",
        }
    return plans


PLANS = measured()


def planned(folder: Path, preset: str, memory_gib: float, capsys: pytest.CaptureFixture[str]) -> Row:
    command = (
        f"plan {folder} --architecture nnunet --planner nnunet --preset {preset} --memory-gib {memory_gib:g} --json"
    )
    main(command.split())
    values: Row = json.loads(capsys.readouterr().out)
    return values


def assert_as_measured(values: Row, expected: dict[str, Row]) -> None:
    assert values["configurations"].keys() == expected.keys()
    for name, row in expected.items():
        result = values["configurations"][name]
        shown = {key: result[key] for key in row if key in result} | {
            "conv_elements": result["memory"]["conv_elements"],
            "spacing": [round(side, 4) for side in result["spacing"]],
        }
        assert shown == row


def test_all_measured_plans_are_read() -> None:
    assert sum(map(len, PLANS.values())) == 37
    assert {name for name, _ in PLANS} == DATA.keys()


@pytest.mark.parametrize(("data", "preset"), PLANS)
def test_plans_are_those_of_nnunet(data: str, preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = planned(DATA[data].write_nnunet(tmp_path), preset, 8, capsys)
    assert (values["planner"], values["preset"], values["transpose_forward"]) == ("nnunet", preset, [0, 1, 2])
    assert_as_measured(values, PLANS[data, preset])


@pytest.mark.parametrize("preset", ["L", "XL"])
def test_a_preset_gets_its_own_memory_and_not_less(
    preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = PRESETS[preset].memory_gib
    folder = DATA["BraTSlike"].write_nnunet(tmp_path)
    assert_as_measured(planned(folder, preset, own, capsys), PLANS["BraTSlike", preset])
    small = planned(folder, preset, 8, capsys)["configurations"]["2d"]
    assert small["memory"]["memory_gib"] == own
    assert any(f"made for {own:g} GiB and is not planned for less, here 8" in why for why in small["reasons"])
    main(["plan", str(folder), "--planner", "nnunet", "--preset", preset, "--json"])
    assert_as_measured(json.loads(capsys.readouterr().out), PLANS["BraTSlike", preset])
    larger = planned(folder, preset, 2 * own, capsys)["configurations"]["3d_fullres"]
    assert larger["memory"]["reference_elements"] == 2 * PRESETS[preset].elements[3]


@pytest.mark.parametrize("preset", ["plain", "M"])
def test_a_preset_of_the_smallest_device_follows_the_memory(
    preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = DATA["BraTSlike"].write_nnunet(tmp_path)
    for memory_gib in (4, 80):
        memory = planned(folder, preset, memory_gib, capsys)["configurations"]["3d_fullres"]["memory"]
        assert memory["reference_elements"] == PRESETS[preset].elements[3] * memory_gib / 8
        assert memory["conv_elements"] <= memory["reference_elements"]


def test_a_plane_of_the_residual_planners_is_cut_until_a_batch_of_twelve_fits() -> None:
    # 512x512 of the residual encoder has about 130 million elements: M takes 135 million of them at a batch of 12.
    plain, large = (
        NnunetSizer(NNUNET, NNUNET.Config(**PRESETS[preset].network), 2, 2, preset, 8.0).fit_patch(
            (1.0, 1.0), (1024, 1024)
        )
        for preset in ("plain", "M")
    )
    assert plain.patch_size == (1024, 1024)
    assert large.patch_size == (512, 512)


def test_hand_count_of_the_estimate() -> None:
    # Two stages of 2 and 4 channels on 8 voxels, halved once: 2 convolutions each, 2 + 1 in the decoder, 3 outputs.
    assert nnunet_elements((2, 4), ((1,), (2,)), None, 2, 3, (8,)) == 2 * 16 + 2 * 16 + 3 * 16 + 3 * 8
    # Stem; one block; two blocks and a shortcut; one convolution and the transposed one before it.
    assert nnunet_elements((2, 4), ((1,), (2,)), (1, 2), 1, 3, (8,)) == 16 + 2 * 16 + 5 * 16 + 2 * 16 + 3 * 8
    # A network of one stage has no decoder.
    assert nnunet_elements((2,), ((1,),), None, 2, 3, (8,)) == 32


@pytest.mark.parametrize("preset", ["plain", "M"])
@pytest.mark.parametrize("size", [(64, 96), (16, 48, 32)], ids=["2d", "3d"])
def test_the_estimate_is_the_convolutions_of_the_network_and_the_shortcuts_that_average(
    preset: str, size: tuple[int, ...]
) -> None:
    sizer = NnunetSizer(
        NNUNET, NNUNET.Config(base_features=4, max_features=12, **PRESETS[preset].network), len(size), 3, preset, 8.0
    )
    candidate = sizer.configured_at((1.0,) * len(size))(size)
    assert candidate.patch_size == size
    with shapes_only():
        network = NNUNET.build(candidate.config, Problem(len(size), 1, 3))
    # Stages of 4, 8, 12, 12, ... channels: from the fourth on a residual shortcut keeps the channels.
    averaged = 0
    if preset == "M":
        sizes = np.cumprod(candidate.config.strides, axis=0)[3:]
        averaged = sum(12 * int(np.prod(np.array(size) // steps)) for steps in sizes)
        assert averaged
    assert sizer.elements(candidate) == conv_elements(network, 1, size) + averaged


def test_the_ignore_label_is_an_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = DATA["Hippo"].write_nnunet(tmp_path)
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    content["labels"] |= {"ignore": 3}
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    memory = planned(folder, "plain", 8, capsys)["configurations"]["3d_fullres"]["memory"]
    assert memory["conv_elements"] == 19174400 + 40 * 56 * 40


def test_a_patch_that_the_rule_shrinks_to_nothing_is_an_error_that_says_so() -> None:
    sizer = NnunetSizer(NNUNET, NNUNET.Config(), 3, 2, "plain", 1e-7)
    with pytest.raises(MemoryBudgetError, match=r"nnU-Net's rule has no patch: .* override planner with house"):
        sizer.fit_patch((1.0, 1.0, 1.0), (16, 16, 16))


def test_a_batch_is_never_below_two() -> None:
    sizer = NnunetSizer(NNUNET, NNUNET.Config(), 3, 2, "plain", 8.0)
    candidate = sizer.fit_patch((1.0, 1.0, 1.0), (16, 16, 16))
    assert sizer.fit_batch(candidate, 16**3, 1) == (
        2,
        f"memory fits {round(560e6 / sizer.elements(candidate) * 2)} and 5 % of the voxels of 1 cases are 0 patches; "
        "the smallest batch is 2",
    )
