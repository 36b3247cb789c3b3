from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from pipelines.fingerprint.extract import Fingerprint
from pipelines.fingerprint.intensity import STATISTICS
from pipelines.planning.configurations import configurations
from pipelines.planning.network import build_network
from pipelines.planning.plan import Plan, read_plan, write_plan
from pipelines.planning.planner import plan_entry

TRAINING = {
    "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.99, "weight_decay": 3e-5},
    "schedule": {"name": "polynomial", "exponent": 0.9, "warmup_fraction": 0.0},
    "clip_norm": 12.0,
    "foreground_fraction": 0.33,
    "mirror_axes": "auto",
    "max_batch_size": None,
}


@dataclasses.dataclass(frozen=True)
class Info:
    channels: tuple[str, ...]
    labels: dict[str, int]
    ignore_label: int | None = None


@dataclasses.dataclass(frozen=True)
class Data:
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    num_cases: int
    num_channels: int
    num_labels: int
    channel: str = "MRI"
    relative_size: float = 1.0

    def fingerprint(self) -> Fingerprint:
        return Fingerprint(
            case_ids=("a", "b", "c"),
            spacings_mm=(self.spacing_mm,) * 3,
            shapes_after_crop=(self.shape,) * 3,
            intensity=tuple({name: float(i) for name in STATISTICS} for i in range(self.num_channels)),
            median_relative_size_after_cropping=self.relative_size,
            label_voxels={},
        )

    def info(self) -> Info:
        labels = {"background": 0} | {f"class {value}": value for value in range(1, self.num_labels)}
        return Info((self.channel,) * self.num_channels, labels)


DATA = {
    "Hippo": Data((1, 1, 1), (36, 50, 35), 260, 1, 3),
    "BraTSlike": Data((1, 1, 1), (138, 170, 138), 484, 4, 4, relative_size=0.35),
    "Liverlike": Data((1, 0.767578, 0.767578), (432, 512, 512), 131, 1, 3, "CT"),
    "Prostatelike": Data((3.6, 0.625, 0.625), (20, 320, 319), 32, 2, 3),
    "Lunglike": Data((1.245, 0.785, 0.785), (252, 512, 512), 63, 1, 2, "CT"),
    "Spleenlike": Data((5, 0.793, 0.793), (90, 512, 512), 41, 1, 2, "CT"),
    "ACDClike": Data((10, 1.5625, 1.5625), (9, 256, 216), 200, 1, 4),
    "Synth96": Data((3, 1, 1), (96, 160, 160), 4, 1, 2, "CT"),
    "Microscopy2D": Data((999, 1, 1), (1, 512, 512), 1000, 3, 2),
    "Tiny": Data((1, 1, 1), (8, 8, 8), 10, 1, 2),
    "KiTSlike": Data((0.78, 0.78, 0.78), (526, 512, 512), 489, 1, 4, "CT"),
}


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
        "inference": {"overlap": 0.5, "is_mirrored": False},
        "budget": {"kind": "steps", "steps": 10},
        "num_folds": 5,
        "folds": [0, 1],
        "seeds": [0],
        "tolerance_mm": 2.0,
    }
    return plan_entry(**(arguments | changes))


def compact(stages: tuple[tuple[int, ...], ...]) -> str:
    return " ".join("".join(map(str, stage)) for stage in stages)


K3_6 = "333 333 333 333 333 333"


# nnunetv2 2.8.1, default planner, measured (reference/nnunet_rules.md, section 4.7)
@pytest.mark.parametrize(
    ("data", "configuration", "patch", "batch", "spacing", "strides", "kernels", "estimate", "is_batch_dice"),
    [
        ("Hippo", "2d", (56, 40), 366, (1, 1), "11 22 22 22", "33 33 33 33", 651840, True),
        ("Hippo", "3d_fullres", (40, 56, 40), 9, (1, 1, 1), "111 222 222 222", "333 333 333 333", 19174400, False),
        ("BraTSlike", "2d", (192, 160), 105, (1, 1), "11 22 22 22 22 22", "33 33 33 33 33 33", 9676800, True),
        ("BraTSlike", "3d_fullres", (128,) * 3, 2, (1, 1, 1), "111 222 222 222 222 222", K3_6, 454893568, False),
        ("Liverlike", "2d", (512, 512), 12, (0.7676, 0.7676), "11" + 7 * " 22", "33" + 7 * " 33", 82886656, True),
        (
            "Liverlike",
            "3d_fullres",
            (128, 128, 128),
            2,
            (1, 0.7676, 0.7676),
            "111 222 222 222 222 222",
            K3_6,
            452796416,
            True,
        ),
        ("Prostatelike", "2d", (320, 320), 32, (0.625, 0.625), "11" + 6 * " 22", "33" + 6 * " 33", 32332800, True),
        (
            "Prostatelike",
            "3d_fullres",
            (20, 320, 256),
            2,
            (3.6, 0.625, 0.625),
            "111 122 122 222 222 122 122",
            "133 133 333 333 333 333 333",
            483315200,
            False,
        ),
        ("Lunglike", "2d", (512, 512), 12, (0.785, 0.785), "11" + 7 * " 22", "33" + 7 * " 33", 82624512, True),
        (
            "Lunglike",
            "3d_fullres",
            (80, 192, 160),
            2,
            (1.245, 0.785, 0.785),
            "111 222 222 222 222 122",
            K3_6,
            528211200,
            True,
        ),
        ("Spleenlike", "2d", (512, 512), 12, (0.793, 0.793), "11" + 7 * " 22", "33" + 7 * " 33", 82624512, True),
        (
            "Spleenlike",
            "3d_fullres",
            (32, 224, 224),
            2,
            (5, 0.793, 0.793),
            "111 122 122 222 222 222",
            "133 133 333 333 333 333",
            471478784,
            True,
        ),
        ("ACDClike", "2d", (256, 224), 56, (1.5625, 1.5625), "11" + 5 * " 22", "33" + 5 * " 33", 18063360, True),
        (
            "ACDClike",
            "3d_fullres",
            (10, 256, 224),
            7,
            (10, 1.5625, 1.5625),
            "111 122 122 222 122 122",
            "133 133 333 333 333 333",
            170562560,
            False,
        ),
        ("Synth96", "2d", (160, 160), 19, (1, 1), "11" + 5 * " 22", "33" + 5 * " 33", 8012800, True),
        (
            "Synth96",
            "3d_fullres",
            (96, 160, 128),
            2,
            (3, 1, 1),
            "111 122 222 222 222 222",
            "133 333 333 333 333 333",
            526556160,
            False,
        ),
        ("Microscopy2D", "2d", (512, 512), 12, (1, 1), "11" + 7 * " 22", "33" + 7 * " 33", 82624512, True),
        ("Tiny", "2d", (8, 8), 4, (1, 1), "11 22", "33 33", 12416, True),
        ("Tiny", "3d_fullres", (8, 8, 8), 2, (1, 1, 1), "111 222", "333 333", 91136, False),
        ("KiTSlike", "2d", (512, 512), 12, (0.78, 0.78), "11" + 7 * " 22", "33" + 7 * " 33", 83148800, True),
        (
            "KiTSlike",
            "3d_fullres",
            (128, 128, 128),
            2,
            (0.78, 0.78, 0.78),
            "111 222 222 222 222 222",
            K3_6,
            454893568,
            True,
        ),
    ],
)
def test_plans_are_those_of_nnunet(
    data: str,
    configuration: str,
    patch: tuple[int, ...],
    batch: int,
    spacing: tuple[float, ...],
    strides: str,
    kernels: str,
    estimate: int,
    is_batch_dice: bool,
) -> None:
    result = plan(data, configuration)
    assert result.patch_size == patch
    assert result.batch_size == batch
    assert result.preprocessing.spacing_mm[-len(spacing) :] == pytest.approx(spacing, abs=5e-5)
    assert compact(result.network["strides"]) == strides
    assert compact(result.network["kernel_sizes"]) == kernels
    assert result.memory["conv_elements"] == estimate
    assert result.is_batch_dice is is_batch_dice


# The same source, residual planners; minus what nnU-Net counts for shortcuts that only average: memory.py, "Differs".
@pytest.mark.parametrize(
    ("data", "configuration", "memory_gib", "patch", "strides", "estimate", "num_averaged"),
    [
        ("Hippo", "2d", 8, (56, 40), "11 22 22 22", 1001280, 0),
        ("Hippo", "3d_fullres", 8, (40, 56, 40), "111 222 222 222", 23609600, 0),
        ("BraTSlike", "2d", 8, (192, 160), "11 22 22 22 22 22", 15129600, 512 * 6 * 5),
        ("BraTSlike", "3d_fullres", 8, (128,) * 3, "111 222 222 222 222 222", 559517696, 320 * 4**3),
        ("BraTSlike", "3d_fullres", 24, (160, 192, 160), "111 222 222 222 222 222", 1311369600, 320 * 5 * 6 * 5),
    ],
)
def test_patches_of_the_residual_encoder_are_those_of_nnunet(
    data: str,
    configuration: str,
    memory_gib: float,
    patch: tuple[int, ...],
    strides: str,
    estimate: int,
    num_averaged: int,
) -> None:
    result = plan(data, configuration, variant="residual", memory_gib=memory_gib)
    assert result.patch_size == patch
    assert compact(result.network["strides"]) == strides
    assert result.memory["conv_elements"] == estimate - num_averaged
    assert (result.network["residual_blocks"], result.network["num_conv_per_stage"]) == ((1, 3, 4, 6), 1)


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
    assert configurations(DATA["Microscopy2D"].fingerprint()) == ["2d"]
    assert configurations(DATA["Hippo"].fingerprint()) == ["2d", "3d_fullres"]
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
    assert "thick first axis (median 5) their 10th percentile" in result.reasons[0]


def test_normalisation_follows_channel_name_and_crop() -> None:
    mri, ct = plan("BraTSlike").preprocessing, plan("Synth96").preprocessing
    assert (mri.normalisation, mri.uses_nonzero_mask) == (("zscore",) * 4, (True,) * 4)
    assert (ct.normalisation, ct.uses_nonzero_mask) == (("ct",), (False,))
    assert mri.intensity == ({},) * 4
    assert set(ct.intensity[0]) == set(STATISTICS)


def test_more_memory_gives_a_larger_patch() -> None:
    small, large = plan("BraTSlike"), plan("BraTSlike", memory_gib=16.0)
    assert large.memory["reference_elements"] == 2 * small.memory["reference_elements"]
    assert large.memory["conv_elements"] > small.memory["conv_elements"]
    assert large.memory["predicted_gib"] <= 16.0


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
    assert result.memory["conv_elements"] <= result.memory["reference_elements"] == 560e6
    assert result.memory["conv_elements"] > 0.85 * 560e6
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
    with pytest.raises(
        ValueError, match=r"memory_gib is 0\.01,.*16x16x16 needs about .* raise budget\.memory_gib"
    ) as e:
        plan("Hippo", architecture="segmentation/unet_3d", memory_gib=0.01)
    enough = float(str(e.value).split("raise budget.memory_gib to ")[1].split(",")[0])
    assert plan("Hippo", architecture="segmentation/unet_3d", memory_gib=enough).patch_size == (16, 16, 16)
    with pytest.raises(ValueError, match=r"raise budget\.memory_gib"):
        plan("Hippo", memory_gib=1e-5)


def test_patch_of_a_case_below_eight_voxels_is_raised() -> None:
    result = plan(Data((1, 1, 1), (6, 7, 5), 3, 1, 2))
    assert result.patch_size == (8, 8, 8)
    assert len(result.network["strides"]) == 2


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
        ({"configuration": "4d"}, "unknown configuration '4d'; valid are 2d, 3d_fullres"),
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
    info = Info(("MRI",), {"background": 0, "organ": 1}, ignore_label=2)
    result = plan("Hippo", info=info)
    assert result.problem["num_classes"] == 2
    assert result.labels == {"background": 0, "organ": 1}
    assert result.ignore_label == 2
