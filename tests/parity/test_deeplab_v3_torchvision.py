"""Our DeepLab V3 against torchvision's with the same weights: ResNet-50 with both heads, and MobileNetV3."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from repro_models.contract import Problem
from repro_models.segmentation import deeplab_v3
from tests.parity.copied_weights import copy_in_order

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

# Same operations in float64; the mean of a map is summed in another order.
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


@pytest.mark.parametrize("size", [(65, 65), (50, 72)])
def test_resnet_50_equals_torchvision(size: tuple[int, int]) -> None:
    from torchvision.models.segmentation import deeplabv3_resnet50

    torch.manual_seed(0)
    config = deeplab_v3.VARIANTS["torchvision_resnet50_auxiliary"].config
    ours: Any = deeplab_v3.build(config, Problem(2, 3, 4)).double()
    theirs: Any = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=4, aux_loss=True).double()
    copy_in_order(ours, theirs)
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs.eval()(x)
        torch.testing.assert_close(ours.eval()(x), expected["out"], **TOLERANCE)
        # Its layers still evaluate; only the network itself is in training mode.
        ours.training = True
        torch.testing.assert_close(ours(x).logits[1], expected["aux"], **TOLERANCE)


def test_mobilenet_v3_equals_torchvision() -> None:
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

    torch.manual_seed(0)
    config = deeplab_v3.VARIANTS["torchvision_mobilenet_v3"].config
    ours = deeplab_v3.build(config, Problem(2, 3, 4)).double()
    theirs = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).double()
    copy_in_order(ours, theirs)
    x = torch.randn(2, 3, 50, 81, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x)["out"], **TOLERANCE)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_another_form_equals_segmentation_models_pytorch(output_stride: int) -> None:
    """Every unit of a stage dilates there, and rates stay as given at both strides."""
    from segmentation_models_pytorch import DeepLabV3

    torch.manual_seed(0)
    config = replace(
        deeplab_v3.VARIANTS["torchvision_resnet50"].config,
        output_stride=output_stride,
        atrous_rates=(12, 24, 36),
        dilates_first_unit=True,
    )
    ours = deeplab_v3.build(config, Problem(2, 3, 4)).double()
    theirs = DeepLabV3(
        "resnet50", encoder_weights=None, encoder_output_stride=output_stride, classes=4, upsampling=1
    ).double()
    copy_in_order(ours, theirs)
    x = torch.randn(1, 3, 64, 80, dtype=torch.float64)
    with torch.no_grad():
        scores = ours.eval().scores(x)  # type: ignore[operator]
        torch.testing.assert_close(scores, theirs.eval()(x), **TOLERANCE)
