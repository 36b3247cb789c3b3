from __future__ import annotations

import torch

from repro_models.blocks.fcn_head import fcn_head
from tests.fillings import num_parameters


def test_a_quarter_of_the_channels_leads_to_the_logits() -> None:
    head = fcn_head(8, 3).eval()
    assert num_parameters(head) == 8 * 2 * 9 + 2 * 2 + 2 * 3 + 3
    assert head(torch.zeros(1, 8, 5, 6)).shape == (1, 3, 5, 6)
