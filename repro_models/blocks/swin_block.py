"""Block of the Swin transformer (Liu et al., 2021, arXiv 2103.14030): figure 3b and equation 3, one of its two halves.

Shapes:
    B batch, C channels, *spatial positions.
"""

from __future__ import annotations

from torch import Tensor, nn

from repro_models.blocks.drop_path import DropPath


class SwinBlock(nn.Module):
    """Attention in windows and a two-layer perceptron, each normalised before and added to its input.

    Args:
        channels: C.
        mlp_ratio: hidden units of the perceptron, as a multiple of the channels.
        attention: (B, *spatial, C) -> the same shape.
        drop_path_probability: that a sample goes around either part in training.
    """

    def __init__(self, channels: int, mlp_ratio: int, attention: nn.Module, drop_path_probability: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = attention
        self.mlp_norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, mlp_ratio * channels), nn.GELU(), nn.Linear(mlp_ratio * channels, channels)
        )
        self.drop_path = DropPath(drop_path_probability)

    def forward(self, x: Tensor) -> Tensor:
        """(B, *spatial, C) -> the same shape."""
        x = x + self.drop_path(self.attention(self.attention_norm(x)))
        return x + self.drop_path(self.mlp(self.mlp_norm(x)))


def start_linear_layers(network: nn.Module) -> None:
    """Draw all linear layers as the Swin transformer does: from a normal of deviation 0.02, biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
