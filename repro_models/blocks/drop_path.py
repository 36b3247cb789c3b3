"""Stochastic depth: a branch is left out of some samples in training (Huang et al., 2016, arXiv 1603.09382).

Shapes:
    B batch.
"""

from __future__ import annotations

from torch import Tensor, nn


class DropPath(nn.Module):
    """Set whole samples to 0 in training, and divide the others so that the mean stays; (B, ...) -> the same shape.

    Args:
        probability: that a sample is set to 0; from 0 to less than 1.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """In evaluation mode, and where the probability is 0, the input itself."""
        if not self.training or not self.probability:
            return x
        share = 1 - self.probability
        return x * x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(share).div_(share)


def rising_probabilities(last: float, num_blocks: int) -> list[float]:
    """One per block, evenly from 0 for the first to `last`, as the Swin transformer has them."""
    return [last * number / max(1, num_blocks - 1) for number in range(num_blocks)]
