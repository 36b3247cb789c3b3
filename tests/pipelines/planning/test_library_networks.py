"""Networks of well-kept libraries as entries: planned, and one training step taken as planned."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pipelines.planning.network import build_network
from pipelines.planning.plan import Plan
from pipelines.planning.planner import plan_entry
from pipelines.tasks.segmentation_loss import segmentation_loss_terms
from tests.nnunet_data import DATA
from tests.planning_arguments import planning_arguments

# The libraries warn when they are imported.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

_MONAI = "monai.networks.nets."
_STAGES = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 8, 16]}
# target, arguments, configuration, patch, what sides are multiples of, number of outputs in training mode
NETWORKS = [
    pytest.param(_MONAI + "SegResNet", {"init_filters": 8}, "3d_fullres", [24, 32, 24], (8, 8, 8), 1, id="SegResNet"),
    pytest.param(_MONAI + "SegResNet", {"init_filters": 8}, "2d", [32, 32], (8, 8), 1, id="SegResNet-2d"),
    pytest.param(
        _MONAI + "SegResNetDS",
        {"init_filters": 8, "blocks_down": [1, 1, 1], "dsdepth": 2, "norm": "INSTANCE"},
        "3d_fullres", [16, 16, 16], (4, 4, 4), 2, id="SegResNetDS",
    ),
    pytest.param(
        _MONAI + "MedNeXt",
        {"init_filters": 4, "kernel_size": 3, "blocks_down": [1, 1], "blocks_up": [1, 1], "blocks_bottleneck": 1,
         "deep_supervision": True},
        "3d_fullres", [16, 16, 16], (4, 4, 4), 3, id="MedNeXt",
    ),
    pytest.param(
        _MONAI + "AttentionUnet", {"channels": [4, 8, 16], "strides": [2, 2]},
        "3d_fullres", [16, 24, 16], (4, 4, 4), 1, id="AttentionUnet",
    ),
    pytest.param(
        _MONAI + "DynUNet", _STAGES | {"deep_supervision": True, "deep_supr_num": 1},
        "3d_fullres", [16, 24, 16], (4, 4, 4), 2, id="DynUNet",
    ),
    pytest.param(
        _MONAI + "UNETR",
        {"feature_size": 4, "hidden_size": 24, "mlp_dim": 48, "num_heads": 2},
        "3d_fullres", [16, 32, 16], (16, 16, 16), 1, id="UNETR",
    ),
    pytest.param(
        "segmentation_models_pytorch.Unet",
        {"encoder_name": "resnet18", "encoder_weights": None, "encoder_depth": 3, "decoder_channels": [16, 8, 4]},
        None, [32, 32], (1, 1), 1, id="segmentation-models-pytorch",
    ),
]  # fmt: skip


def plan(target: str, arguments: dict[str, Any], configuration: str | None, patch_size: list[int]) -> Plan:
    changes = {
        "architecture": target,
        "arguments": arguments,
        "configuration": configuration,
        "overrides": {"patch_size": patch_size, "batch_size": 2},
    }
    return plan_entry(**(planning_arguments(DATA["Hippo"]) | changes))


@pytest.mark.parametrize(("target", "arguments", "configuration", "patch_size", "divisor", "num_outputs"), NETWORKS)
def test_a_library_s_network_is_planned_and_takes_a_training_step(
    target: str,
    arguments: dict[str, Any],
    configuration: str | None,
    patch_size: list[int],
    divisor: tuple[int, ...],
    num_outputs: int,
) -> None:
    result = plan(target, arguments, configuration, patch_size)
    assert result.configuration == (configuration or "2d")
    assert any(f"takes multiples of {'x'.join(map(str, divisor))} that" in reason for reason in result.reasons)
    assert 0 < result.memory["predicted_gib"] < 1
    torch.manual_seed(0)
    network = build_network(Plan.from_json(result.to_json()))
    batch = {"image": torch.randn(2, 1, *patch_size), "target": torch.randint(0, 3, (2, *patch_size))}
    output = network.train()(batch["image"])
    assert (len(output) if isinstance(output, list) else 1) == num_outputs
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    loss = sum(segmentation_loss_terms(network, batch, result.is_batch_dice))
    loss.backward()
    optimizer.step()
    assert math.isfinite(loss.item())
    assert network.eval()(batch["image"]).shape == (2, 3, *patch_size)


def test_a_misspelt_network_of_a_library_is_told_with_the_near_one() -> None:
    with pytest.raises(ValueError, match=r"has no SegRessNet; did you mean monai\.networks\.nets\.SegResNet "):
        plan(_MONAI + "SegRessNet", {}, None, [32, 32])
