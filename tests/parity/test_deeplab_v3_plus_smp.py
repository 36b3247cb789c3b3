"""Our DeepLab V3+ against segmentation-models-pytorch's with the same weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from repro_models.contract import Problem
from repro_models.segmentation import deeplab_v3_plus
from tests.parity.copied_weights import copy_in_order

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(("size", "in_channels"), [((64, 96), 3), ((32, 32), 1)])
def test_separable_form_on_resnet_50_equals_segmentation_models_pytorch(
    size: tuple[int, int], in_channels: int
) -> None:
    from segmentation_models_pytorch import DeepLabV3Plus

    torch.manual_seed(0)
    # The library's rates at a sixteenth are those that the paper has at an eighth.
    config = replace(deeplab_v3_plus.VARIANTS["separable_resnet50"].config, atrous_rates=(12, 24, 36))
    ours = deeplab_v3_plus.build(config, Problem(2, in_channels, 4)).double()
    theirs = DeepLabV3Plus("resnet50", encoder_weights=None, in_channels=in_channels, classes=4).double()
    copy_in_order(ours, theirs)
    x = torch.randn(2, in_channels, *size, dtype=torch.float64)
    with torch.no_grad():
        # Same operations in float64; the mean of a map is summed in another order.
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-9, atol=1e-9)
