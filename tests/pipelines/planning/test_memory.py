from __future__ import annotations

import torch
from torch import nn

from pipelines.planning.memory import conv_elements


def test_every_convolution_counts_once() -> None:
    with torch.device("meta"):
        network = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),  # 4 * 8 * 6
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 8, 3, stride=2, padding=1),  # 8 * 4 * 3
            nn.ConvTranspose2d(8, 2, 2, stride=2),  # 2 * 8 * 6
        )
    assert conv_elements(network, 1, (8, 6)) == 192 + 96 + 96
    assert network.training
    assert conv_elements(network, 1, (8, 6)) == 192 + 96 + 96
