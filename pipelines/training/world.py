"""The ranks that train one network together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class World:
    """This process among those that share a global batch. The default is a process alone.

    With `size` above one, `torch.distributed`'s default process group must be up.
    """

    rank: int = 0
    size: int = 1

    def shares(self, batch_size: int) -> range:
        """Give the samples of the global batch that this rank computes: contiguous, as even as possible.

        Raises:
            ValueError: there are more ranks than samples.
        """
        if batch_size < self.size:
            raise ValueError(
                f"batch size {batch_size} is smaller than the {self.size} workers that share it, and each needs a "
                f"sample; use at most {batch_size} workers or raise the batch size to {self.size}"
            )
        smallest, num_larger = divmod(batch_size, self.size)
        start = self.rank * smallest + min(self.rank, num_larger)
        return range(start, start + smallest + (self.rank < num_larger))

    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        """Sum `tensor` over the ranks, differentiably: the gradient, too, is summed over the ranks."""
        if self.size == 1:
            return tensor
        summed: Tensor = _SumOverRanks.apply(tensor)
        return summed

    def sum_numbers(self, numbers: Sequence[float], device: torch.device) -> list[float]:
        """Sum each number over the ranks, in double precision; every rank waits here for the others."""
        if self.size == 1:
            return list(numbers)
        summed = torch.tensor(numbers, dtype=torch.float64, device=device)
        distributed.all_reduce(summed)
        return summed.tolist()


class _SumOverRanks(torch.autograd.Function):
    # Ours, because torch deprecated `torch.distributed.nn.functional.all_reduce` and the named successor's gradient
    # is not part of its documented behaviour.
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        summed = tensor.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(summed)
        return summed
