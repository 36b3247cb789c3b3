"""Vision transformer: its block, and an encoder that gives the hidden states after chosen blocks.

Source: ViT (Dosovitskiy et al., 2021, arXiv 2010.11929), figure 1 and equations 1 to 3: normalisation before attention
and before the perceptron, learned positions.

Differs:
    - The paper does not say how weights start; here as in its authors' later work: linear layers, positions and class
      token from a normal of deviation 0.02, biases 0; the embedding by torch's default.
Shapes:
    B batch, C channels, *s voxels, T tokens (one per square or cube of voxels), E hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.residual_conv_block import CONV

LAYER_NORM_EPSILON = 1e-6
"""Of the published vision transformers; torch's default is 1e-5."""


class TransformerBlock(nn.Module):
    """Equations 2 and 3: (B, T, E) -> (B, T, E).

    Args:
        hidden_size: E, a multiple of `num_heads`.
        mlp_size: hidden units of the two-layer perceptron.
        num_heads: of the attention.
        has_query_key_value_bias: whether the three projections of the input have biases.
        norm_epsilon: of both layer normalisations.
        dropout: probability, in training, of each value after either layer of the perceptron.
    """

    def __init__(
        self,
        hidden_size: int,
        mlp_size: int,
        num_heads: int,
        has_query_key_value_bias: bool = True,
        norm_epsilon: float = LAYER_NORM_EPSILON,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(hidden_size, eps=norm_epsilon)
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size, bias=has_query_key_value_bias)
        self.projection = nn.Linear(hidden_size, hidden_size)
        self.mlp_norm = nn.LayerNorm(hidden_size, eps=norm_epsilon)
        # The two linear layers are 0 and 2, with and without dropout, so weights keep their names.
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, mlp_size),
            nn.Sequential(nn.GELU(), nn.Dropout(dropout)),
            nn.Linear(mlp_size, hidden_size),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend, then think about each token."""
        tokens = tokens + self._attend(self.attention_norm(tokens))
        return tokens + self.dropout(self.mlp(self.mlp_norm(tokens)))

    def _attend(self, tokens: Tensor) -> Tensor:
        heads = self.query_key_value(tokens).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, T, E / heads)
        return self.projection(functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


def check_heads(hidden_size: int, num_heads: int) -> None:
    """Raise `ValueError` unless the heads of a transformer share its hidden size evenly."""
    if hidden_size % num_heads:
        raise ValueError(
            f"hidden_size={hidden_size} and num_heads={num_heads}: the heads share the hidden size "
            f"evenly; set hidden_size to a multiple of {num_heads}"
        )


def tokens_as_map(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """(B, T, E) -> (B, E, *grid); T is the number of places in `grid`."""
    return tokens.transpose(1, 2).unflatten(2, tuple(grid))


class VisionTransformer(nn.Module):
    """Image to the hidden states after chosen blocks.

    Args:
        spatial_dims: 2 or 3.
        in_channels: C.
        grid: tokens along each axis.
        token_side: voxels of a token along each axis.
        hidden_size: E, a multiple of `num_heads`.
        mlp_size: hidden units of the perceptrons.
        num_heads: of every block.
        num_blocks: transformer blocks.
        has_class_token: one more token, of no place, to which all others may attend.
        dropout: probability in training, of embedded tokens and in the perceptrons.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        grid: Sequence[int],
        token_side: int,
        hidden_size: int,
        mlp_size: int,
        num_heads: int,
        num_blocks: int,
        has_class_token: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.has_class_token = has_class_token
        self.embedding = CONV[spatial_dims](in_channels, hidden_size, token_side, stride=token_side)
        if has_class_token:
            self.class_token = nn.Parameter(torch.empty(1, 1, hidden_size))
            nn.init.normal_(self.class_token, std=0.02)
        self.positions = nn.Parameter(torch.empty(1, has_class_token + math.prod(grid), hidden_size))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(hidden_size, mlp_size, num_heads, dropout=dropout) for _ in range(num_blocks)
        )
        nn.init.normal_(self.positions, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, after_blocks: Collection[int]) -> list[Tensor]:
        """Hidden states.

        Args:
            x: (B, C, *s), sides `token_side` times the grid.
            after_blocks: numbers of blocks, the first is 1.

        Returns:
            (B, T, E) after each of these blocks, in the order of the blocks, without the class token.
        """
        tokens = self.embedding(x).flatten(2).transpose(1, 2)
        if self.has_class_token:
            tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        tokens = self.dropout(tokens + self.positions)
        states = []
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
            if number in after_blocks:
                states.append(tokens[:, 1:] if self.has_class_token else tokens)
        return states
