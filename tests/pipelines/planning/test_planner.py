from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.cases.case import DatasetInfo
from pipelines.fingerprint.intensity import STATISTICS
from pipelines.planning.network import build_network
from pipelines.planning.patch import Candidate
from pipelines.planning.plan import Plan, read_plan, write_plan
from pipelines.planning.planner import plan_entry
from pipelines.planning.presets import PRESETS
from pipelines.planning.sizing import conv_elements_of
from pipelines.planning.step_memory import StepMemory
from pipelines.tasks.segmentation_loss import segmentation_loss_terms
from pipelines.tasks.segmentation_training import SegmentationTraining
from repro_models import registry
from repro_models.contract import Problem
from tests.nnunet_data import DATA, Data
from tests.tiny_plan import TinyStudy

TRAINING = {
    "loss": "dice_cross_entropy",
    "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.99, "weight_decay": 3e-5},
    "schedule": {"name": "polynomial", "exponent": 0.9, "warmup_fraction": 0.0},
    "clip_norm": 12.0,
    "foreground_fraction": 0.33,
    "elastic_probability": 0.0,
    "mirror_axes": "auto",
    "max_batch_size": None,
    "rescue": True,
}


@pytest.fixture(autouse=True)
def rough_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net's estimate, in milliseconds; `test_sizing.py` plans with what a step takes."""

    def step(
        architecture: Any, config: Any, problem: Problem, patch: tuple[int, ...], batch: int, *_: Any
    ) -> StepMemory:
        candidate = Candidate(config, patch, (), ())
        elements = conv_elements_of(architecture, problem)(candidate) * batch
        return StepMemory(0, 0, 0, 0, round(elements / PRESETS["plain"].elements[3] / 2 * 8 * 2**30), 0)

    monkeypatch.setattr("pipelines.planning.sizing._step", step)


def plan(data: str | Data, configuration: str = "3d_fullres", **changes: Any) -> Plan:
    data = DATA[data] if isinstance(data, str) else data
    arguments: dict[str, Any] = {
        "dataset": "data",
        "entry": "entry",
        "architecture": "segmentation/nnunet",
        "variant": None,
        "configuration": configuration,
        "overrides": {},
        "fingerprint": data.fingerprint(),
        "info": data.info(),
        "num_training_cases": data.num_cases,
        "memory_gib": 8.0,
        "sources": {"a.py": "00"},
        "training": TRAINING,
        "loss_terms": segmentation_loss_terms,
        "inference": {"overlap": 0.5, "is_mirrored": False},
        "budget": {"kind": "steps", "steps": 10},
        "num_folds": 5,
        "folds": [0, 1],
        "seeds": [0],
        "tolerance_mm": 2.0,
    }
    return plan_entry(**(arguments | changes))


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_override_gives_the_residual_encoder(configuration: str) -> None:
    overrides = {"network": {"residual_blocks": [1, 2], "num_conv_per_stage": 1}}
    result = plan("Hippo", configuration, variant="tiny", overrides=overrides)
    assert result.network["residual_blocks"] == (1, 2)
    assert len(result.network["strides"]) == 4
    network = build_network(Plan.from_json(result.to_json()))
    assert [len(stage) for stage in network.encoder] == [1, 2, 2, 2]
    logits = network.eval()(torch.zeros(1, 1, *result.patch_size))
    assert logits.shape == (1, 3, *result.patch_size)
    with pytest.raises(ValueError, match="every stage needs at least 1"):
        plan("Hippo", configuration, overrides={"network": {"residual_blocks": [1, 0]}})


def test_slices_have_no_3d_configuration() -> None:
    with pytest.raises(ValueError, match=r"data set data has no configuration 3d_fullres.*it has 2d"):
        plan("Microscopy2D")


def test_a_2d_plan_keeps_the_spacing_between_slices() -> None:
    assert plan("ACDClike", "2d").preprocessing.spacing_mm == (None, 1.5625, 1.5625)


def test_thick_axis_comes_first() -> None:
    result = plan(Data((0.625, 3.6, 0.625), (319, 20, 320), 32, 2, 3))
    assert result.preprocessing.transpose_forward == (1, 0, 2)
    assert result.preprocessing.spacing_mm == (3.6, 0.625, 0.625)
    assert result.patch_size == (20, 256, 320)
    assert result.is_dummy_2d
    assert any("y comes first" in reason for reason in result.reasons)


def test_finer_thick_axis_has_its_reason() -> None:
    spacings = ((5.0, 1.0, 1.0),) * 4 + ((2.0, 1.0, 1.0),)
    fingerprint = dataclasses.replace(
        DATA["Hippo"].fingerprint(), spacings_mm=spacings, shapes_after_crop=((20, 100, 100),) * 5
    )
    result = plan("Hippo", fingerprint=fingerprint)
    assert result.preprocessing.spacing_mm == pytest.approx((3.2, 1, 1))
    assert "thick axis (median 5) their 10th percentile" in result.reasons[0]


def test_normalisation_follows_channel_name_and_crop() -> None:
    mri, ct = plan("BraTSlike").preprocessing, plan("Synth96").preprocessing
    assert (mri.normalisation, mri.uses_nonzero_mask) == (("zscore",) * 4, (True,) * 4)
    assert (ct.normalisation, ct.uses_nonzero_mask) == (("ct",), (False,))
    assert mri.intensity == ({},) * 4
    assert set(ct.intensity[0]) == set(STATISTICS)


def test_plan_survives_its_file(tmp_path: Any) -> None:
    result = plan("Hippo", "2d", overrides={"network": {"base_features": 8}, "patch_size": [48, 40]})
    write_plan(tmp_path / "plan.json", result)
    assert read_plan(tmp_path / "plan.json") == result
    assert build_network(read_plan(tmp_path / "plan.json")).config.base_features == 8


def test_a_file_that_is_no_plan_names_file_and_fix(tmp_path: Any) -> None:
    (tmp_path / "plan.json").write_text('{"dataset": "x"}')
    with pytest.raises(ValueError, match=r"plan\.json: not a plan of this version.*run the plan stage again"):
        read_plan(tmp_path / "plan.json")


def test_preprocessing_digest_ignores_what_a_zscore_case_does_not_use() -> None:
    more = dataclasses.replace(DATA["Hippo"].fingerprint(), intensity=(dict.fromkeys(STATISTICS, 7.0),))
    assert plan("Hippo").preprocessing.digest() == plan("Hippo", fingerprint=more).preprocessing.digest()
    assert plan("Hippo").preprocessing.digest() != plan("Hippo", "2d").preprocessing.digest()


def test_fixed_network_gets_a_legal_patch() -> None:
    result = plan("Hippo", architecture="segmentation/unet_3d")
    assert result.patch_size == (40, 56, 40)
    assert result.network["base_features"] == 32
    build_network(result)


def test_fixed_network_shrinks_to_the_budget() -> None:
    result = plan("BraTSlike", architecture="segmentation/unet_3d")
    assert all(side % 8 == 0 for side in result.patch_size)
    assert 0.8 * 8 < result.memory["predicted_gib"] <= 8
    assert result.batch_size == 2


@pytest.mark.parametrize(
    ("architecture", "configuration", "patch"),
    [
        ("segmentation/unetr", "2d", (64, 48)),
        ("segmentation/unetr", "3d_fullres", (48, 64, 48)),
        ("segmentation/swin_unetr", "2d", (64, 48)),
        ("segmentation/swin_unetr", "3d_fullres", (48, 64, 48)),
    ],
)
def test_transformer_is_planned_for_its_patch(architecture: str, configuration: str, patch: tuple[int, ...]) -> None:
    result = plan("Hippo", configuration, architecture=architecture, variant="small")
    assert result.patch_size == patch
    assert result.network.get("image_size", patch) == patch
    network = build_network(Plan.from_json(result.to_json())).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, *patch)).shape == (1, 3, *patch)


def test_network_made_for_one_size_follows_the_patch_as_it_shrinks_or_is_set() -> None:
    tight = plan("BraTSlike", architecture="segmentation/unetr", variant="small", memory_gib=1.0)
    assert tight.patch_size < (144, 176, 144)
    assert tight.network["image_size"] == tight.patch_size
    as_set = plan("Hippo", architecture="segmentation/unetr", overrides={"patch_size": [32, 48, 32]})
    assert as_set.network["image_size"] == as_set.patch_size == (32, 48, 32)


def test_size_that_planning_sets_is_no_override() -> None:
    overrides = {"network": {"image_size": [32, 32, 32]}}
    with pytest.raises(
        ValueError, match=r"network image_size is .*planning sets it to the patch, here 48x64x48; leave"
    ):
        plan("Hippo", architecture="segmentation/unetr", overrides=overrides)


def test_budget_that_nothing_meets_says_what_is_needed() -> None:
    with pytest.raises(ValueError, match=r"memory_gib is 0\.01,.*16x16x16 needs .* raise budget\.memory_gib") as e:
        plan("Hippo", architecture="segmentation/unet_3d", memory_gib=0.01)
    enough = float(str(e.value).split("raise budget.memory_gib to ")[1].split(",")[0])
    assert plan("Hippo", architecture="segmentation/unet_3d", memory_gib=enough).patch_size == (16, 16, 16)
    with pytest.raises(ValueError, match=r"raise budget\.memory_gib"):
        plan("Hippo", memory_gib=1e-5)


def test_patch_of_a_case_below_eight_voxels_is_raised() -> None:
    result = plan(Data((1, 1, 1), (6, 7, 5), 3, 1, 2))
    assert result.patch_size == (8, 8, 8)
    assert len(result.network["strides"]) == 2


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [
        ((4, 4, 1), (3, 3, 11)),  # a single axis is fine enough to be halved, and needs 12 voxels
        ((1, 1, 1), (1, 3, 2)),
        ((2.5, 1, 1), (7, 7, 7)),
    ],
)
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_house_never_plans_a_network_of_one_stage(
    configuration: str, spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    if shape[0] == 1 and configuration != "2d":
        configuration = "2d"
    result = plan(Data(spacing, shape, 3, 1, 2), configuration)
    assert len(result.network["strides"]) >= 2
    with torch.no_grad():
        logits = build_network(result).eval()(torch.zeros(1, 1, *result.patch_size))
    assert logits.shape[2:] == result.patch_size


def test_nnunet_planner_tells_of_a_network_of_one_stage() -> None:
    result = plan(Data((1, 1, 1), (6, 7, 5), 3, 1, 2), overrides={"planner": "nnunet"})
    assert (result.patch_size, result.network["strides"]) == ((6, 7, 5), ((1, 1, 1),))
    # Two convolutions of 32 channels.
    assert result.memory["conv_elements"] == 2 * 32 * 6 * 7 * 5
    assert any("one stage" in reason and "no output" in reason for reason in result.reasons)


@pytest.mark.parametrize("planner", ["house", "nnunet"])
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_a_network_of_two_stages_trains_with_finite_numbers(
    tiny_study: TinyStudy, planner: str, configuration: str
) -> None:
    result = plan("Tiny", configuration, variant="tiny", overrides={"planner": planner, "batch_size": 2})
    assert len(result.network["strides"]) == 2
    result = dataclasses.replace(result, labels=tiny_study.plan().labels)
    task = SegmentationTraining(result, tiny_study.prepared_cases(), 0, 0, tiny_study.root)
    torch.manual_seed(0)
    network = task.build_network().train()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    loss = sum(task.loss_terms(network, task.batch(0, range(2), torch.device("cpu")), lambda sums: sums))
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))


def test_low_resolution_is_a_configuration_of_its_own() -> None:
    full, low = plan("Liverlike", variant="small"), plan("Liverlike", "3d_lowres", variant="small")
    assert low.configuration == low.preprocessing.configuration == "3d_lowres"
    assert all(coarse > fine for coarse, fine in zip(spacing(low), spacing(full), strict=True))
    assert (full.is_batch_dice, low.is_batch_dice) == (True, False)
    covered = math.prod(low.patch_size) / math.prod(low.planning["median_shape"])
    assert covered > 0.24 > math.prod(full.patch_size) / math.prod(full.planning["median_shape"])
    assert low.preprocessing.digest() != full.preprocessing.digest()
    assert any(reason.startswith("low resolution: there is one, because") for reason in full.reasons)
    assert build_network(Plan.from_json(low.to_json())) is not None


def spacing(result: Plan) -> tuple[float, ...]:
    return tuple(side for side in result.preprocessing.spacing_mm if side is not None)


def test_low_resolution_of_small_cases_is_refused_with_the_figure() -> None:
    with pytest.raises(ValueError, match=r"data set data has no configuration 3d_lowres, because a patch .* covers 1"):
        plan("Hippo", "3d_lowres")


def test_a_patch_as_set_at_low_resolution_leaves_its_spacing() -> None:
    planned, as_set = (
        plan("Liverlike", "3d_lowres", variant="small", overrides=overrides)
        for overrides in ({}, {"patch_size": [64, 64, 64]})
    )
    assert as_set.patch_size == (64, 64, 64)
    assert spacing(as_set) == spacing(planned)


def test_slices_along_another_axis_are_seen_in_their_plane() -> None:
    flat = Data((1, 1, 1), (512, 1, 400), 20, 1, 2)
    result = plan(flat, "2d", variant="small")
    assert result.preprocessing.transpose_forward == (1, 0, 2)
    assert result.planning["median_shape"] == [1, 512, 400]
    assert any("y comes first, because the cases have one voxel along it" in reason for reason in result.reasons)
    with pytest.raises(ValueError, match="its cases are single slices"):
        plan(flat, variant="small")


# nnU-Net's issue 2809: its planner does not end on these.
@pytest.mark.parametrize("shape", [(2048, 1, 2048), (4096, 4096, 1), (3, 6000, 5000)])
def test_planning_ends_where_low_resolution_would_lose_an_axis(shape: tuple[int, int, int]) -> None:
    data = Data((1, 1, 1), shape, 20, 1, 2)
    result = plan(data, overrides={"planner": "nnunet"})
    assert result.preprocessing.transpose_forward == (0, 1, 2)
    assert math.prod(result.patch_size) > 0
    if 1 in shape:
        assert not result.is_batch_dice
        with pytest.raises(ValueError, match=r"no configuration 3d_lowres.*does not end"):
            plan(data, "3d_lowres", overrides={"planner": "nnunet"})


def planned_or_refused(data: Data, configuration: str, **changes: Any) -> Plan | None:
    """None where the data do not have the configuration; any other error is one of the test."""
    try:
        return plan(data, configuration, **changes)
    except ValueError as error:
        if "has no configuration" in str(error):
            return None
        raise


def test_planning_of_any_data_ends_with_a_legal_patch() -> None:
    rng = np.random.default_rng(0)
    nnunet = registry.load("segmentation/nnunet")
    num_plans = 0
    for number in range(200):
        shape = tuple(int(side) for side in np.exp(rng.uniform(0, np.log(700), 3)).round())
        spacing_mm = tuple(float(side) for side in np.exp(rng.uniform(np.log(0.05), np.log(20), 3)))
        data = Data(spacing_mm, shape, int(rng.integers(1, 1000)), int(rng.integers(1, 5)), int(rng.integers(2, 20)))
        overrides = {"planner": "nnunet", "preset": ("plain", "M", "L", "XL")[number % 4]}
        for configuration in ("2d", "3d_fullres", "3d_lowres"):
            result = planned_or_refused(data, configuration, overrides=overrides, memory_gib=float(rng.uniform(1, 40)))
            if result is None:
                continue
            num_plans += 1
            assert result.batch_size >= 2
            assert min(result.patch_size) >= 1
            assert result.memory["conv_elements"] > 0
            if len(result.network["strides"]) > 1:
                nnunet.CONSTRAINTS.check_size(nnunet.Config(**result.network), result.patch_size)
    assert num_plans > 400


def test_house_plans_any_data_with_a_legal_patch() -> None:
    rng = np.random.default_rng(1)
    nnunet = registry.load("segmentation/nnunet")
    for _ in range(20):
        shape = tuple(int(side) for side in np.exp(rng.uniform(0, np.log(300), 3)).round())
        spacing_mm = tuple(float(side) for side in np.exp(rng.uniform(np.log(0.2), np.log(10), 3)))
        data = Data(spacing_mm, shape, int(rng.integers(1, 100)), 1, 2)
        result = planned_or_refused(data, "3d_fullres", variant="tiny", memory_gib=0.5)
        if result is not None:
            assert len(result.network["strides"]) > 1
            nnunet.CONSTRAINTS.check_size(nnunet.Config(**result.network), result.patch_size)


def test_a_preset_gives_the_house_planner_its_encoder_alone() -> None:
    medium, large = (plan("Hippo", "2d", overrides={"preset": preset}) for preset in ("M", "L"))
    assert medium.network["residual_blocks"] == large.network["residual_blocks"] == (1, 3, 4, 6)
    assert (medium.patch_size, medium.batch_size) == (large.patch_size, large.batch_size)
    # 5 % of the voxels of 260 cases, where nnU-Net's planner M takes 1618 patches.
    assert medium.batch_size == round(36 * 50 * 35 * 260 * 0.05 / (56 * 40))
    assert large.planning["planner"] == "house"
    assert any(reason.startswith("preset: the encoder of L") for reason in large.reasons)
    assert plan("Hippo", "2d", overrides={"preset": "plain"}, variant="residual").network["residual_blocks"] is None


def test_a_preset_can_be_trained_as_planned_by_nnunet() -> None:
    result = plan("Hippo", overrides={"planner": "nnunet", "preset": "L", "network": {"base_features": 4}})
    network = build_network(Plan.from_json(result.to_json()))
    assert [len(stage) for stage in network.encoder] == [1, 3, 4, 6]
    assert result.planning["preset"] == "L"


@pytest.mark.parametrize(("variant", "preset"), [(None, "plain"), ("residual", "M")])
def test_without_a_preset_nnunet_planner_goes_by_the_encoder(variant: str | None, preset: str) -> None:
    result = plan("Hippo", variant=variant, overrides={"planner": "nnunet"})
    assert result.planning["preset"] == preset


def test_unpadded_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r"choose another variant .*padded"):
        plan("Hippo", architecture="segmentation/unet_3d", variant="paper")


def test_network_is_refused_where_it_does_not_serve() -> None:
    with pytest.raises(ValueError, match="unet_3d has no configuration 2d; it serves 3d_fullres"):
        plan("Hippo", "2d", architecture="segmentation/unet_3d")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overrides": {"bach_size": 3}}, "unknown override 'bach_size'; valid are batch_size"),
        ({"overrides": {"batch_size": 0}}, "override batch_size is 0; it must be a whole number above 0"),
        ({"overrides": {"network": {"base_feature": 3}}}, "override network 'base_feature'; valid are base_features"),
        ({"overrides": {"optimizer": {"nesterov": True}}}, "unknown override optimizer 'nesterov'"),
        ({"overrides": {"optimizer": "adamw"}}, "set the override learning_rate too"),
        ({"overrides": {"schedule": {"name": "step"}}}, "schedule is 'step'; it must be polynomial or cosine"),
        ({"overrides": {"patch_size": [41, 56, 40]}}, "nearest legal sizes are 40x56x40 and 48x56x40"),
        ({"overrides": {"patch_size": [56, 40]}}, "give 3 sides for 3D"),
        ({"overrides": {"mirror_axes": [3]}}, r"a 3D patch has the axes \[0, 1, 2\]"),
        ({"overrides": {"mirror_axes": "some"}}, "must be auto, all, none or a list"),
        ({"overrides": {"spacing_mm": [1, 1]}}, "it must be three numbers above 0"),
        ({"variant": "smal"}, "unknown variant of segmentation/nnunet 'smal'; valid are small"),
        ({"configuration": "4d"}, "unknown configuration '4d'; valid are 2d, 3d_fullres, 3d_lowres"),
        ({"overrides": {"planner": "nnunets"}}, "override planner is 'nnunets'; it must be house or nnunet"),
        ({"overrides": {"preset": "S"}}, "override preset is 'S'; it must be one of plain, M, L, XL"),
        (
            {"overrides": {"preset": "M"}, "architecture": "segmentation/unetr"},
            "presets are sizes of segmentation/nnunet; leave it out of an entry of segmentation/unetr",
        ),
        (
            {"overrides": {"planner": "nnunet"}, "architecture": "segmentation/unetr"},
            "its estimate knows segmentation/nnunet alone; leave it out",
        ),
        (
            {"overrides": {"planner": "nnunet", "network": {"strides": [1, 2]}}},
            "sets strides and kernel sizes itself; leave strides out",
        ),
    ],
)
def test_mistakes_are_named_with_what_is_valid(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan("Hippo", **changes)


def test_overrides_replace_and_are_recorded() -> None:
    overrides = {
        "network": {"base_features": 16},
        "patch_size": [32, 32, 32],
        "batch_size": 4,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "schedule": {"name": "cosine", "warmup_fraction": 0.1},
        "mirror_axes": "none",
    }
    result = plan("Hippo", overrides=overrides)
    assert result.patch_size == (32, 32, 32)
    assert result.batch_size == 4
    assert result.network["base_features"] == 16
    assert result.optimizer == {"name": "adamw", "learning_rate": 1e-3, "momentum": 0.99, "weight_decay": 3e-5}
    assert result.schedule == {"name": "cosine", "exponent": 0.9, "warmup_fraction": 0.1}
    assert result.mirror_axes == ()
    assert result.overrides == overrides
    for name in overrides:
        assert any(reason.startswith(f"override {name}:") for reason in result.reasons)
    assert TRAINING["optimizer"]["name"] == "sgd"


def test_spacing_override_resamples_the_median_case() -> None:
    result = plan("Hippo", overrides={"spacing_mm": [2.0, 1.0, 1.0]})
    assert result.preprocessing.spacing_mm == (2.0, 1.0, 1.0)
    assert any("18x50x35 voxels" in reason for reason in result.reasons)


def test_strides_override_fixes_the_network() -> None:
    network = {"strides": [1, 2, 2], "kernel_sizes": [3, 3, 3]}
    result = plan("Hippo", overrides={"network": network})
    assert result.network["strides"] == (1, 2, 2)
    assert result.patch_size == (36, 52, 36)


def test_largest_batch_bites_with_a_reason() -> None:
    result = plan("Hippo", "2d", training=TRAINING | {"max_batch_size": 32})
    assert result.batch_size == 32
    assert any("max_batch_size" in reason and "366" in reason for reason in result.reasons)
    assert plan("Tiny", "2d", training=TRAINING | {"max_batch_size": 32}).batch_size == 4


def test_ignore_label_is_no_class() -> None:
    info = DatasetInfo("data", ("MRI",), {"background": 0, "organ": 1}, ignore_label=2)
    result = plan("Hippo", info=info)
    assert result.problem["num_classes"] == 2
    assert result.labels == {"background": 0, "organ": 1}
    assert result.ignore_label == 2


def test_whether_a_collapse_is_answered_is_the_study_s_to_say() -> None:
    assert plan("Hippo").rescue
    assert not plan("Hippo", training=TRAINING | {"rescue": False}).rescue


@pytest.mark.parametrize(
    ("data", "served", "chosen"),
    [("Hippo", (2, 3), "3d_fullres"), ("Hippo", (2,), "2d"), ("Microscopy2D", (2, 3), "2d")],
)
def test_an_entry_without_configuration_gets_what_its_architecture_serves(
    data: str, served: tuple[int, ...], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nnunet = registry.load("segmentation/nnunet")
    monkeypatch.setattr(nnunet, "CONSTRAINTS", dataclasses.replace(nnunet.CONSTRAINTS, spatial_dims=served))
    assert plan(data, variant="tiny", configuration=None).configuration == chosen


def test_an_architecture_of_3d_alone_is_no_choice_for_slices() -> None:
    with pytest.raises(
        ValueError, match=r"single slices, but segmentation/unet_3d serves 3D only; leave the entry out"
    ):
        plan("Microscopy2D", architecture="segmentation/unet_3d", configuration=None)
