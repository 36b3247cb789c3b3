"""Our FCN on a ResNet against torchvision's with the same weights; the paper's own is in no kept library."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from repro_models.contract import Problem
from repro_models.segmentation import fcn
from tests.parity.copied_weights import copy_in_order

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_logits_of_both_heads_equal_torchvision() -> None:
    from torchvision.models.segmentation import fcn_resnet50

    torch.manual_seed(0)
    ours: Any = fcn.build(fcn.Config(backbone="resnet"), Problem(2, 3, 4)).double()
    theirs: Any = fcn_resnet50(weights=None, weights_backbone=None, num_classes=4, aux_loss=True).double()
    copy_in_order(ours, theirs)
    x = torch.randn(1, 3, 49, 66, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs.eval()(x)
        torch.testing.assert_close(ours.eval()(x), expected["out"], rtol=1e-9, atol=1e-9)
        # Its layers still evaluate; only the network itself is in training mode.
        ours.training = True
        torch.testing.assert_close(ours(x).logits[1], expected["aux"], rtol=1e-9, atol=1e-9)
