"""Head of a fully convolutional network on a dilated ResNet, as torchvision has it; also DeepLab V3's auxiliary one."""

from __future__ import annotations

from torch import nn

from repro_models.blocks.conv_norm import conv_norm_relu

_DROPOUT = 0.1


def fcn_head(in_channels: int, num_classes: int) -> nn.Sequential:
    """(B, in_channels, X, Y) -> (B, num_classes, X, Y): a 3x3 convolution to a quarter of the channels, then logits."""
    width = in_channels // 4
    return nn.Sequential(*conv_norm_relu(in_channels, width, 3), nn.Dropout(_DROPOUT), nn.Conv2d(width, num_classes, 1))
