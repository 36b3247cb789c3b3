from __future__ import annotations

import pytest
import torch

from pipelines.training.world import World


@pytest.mark.parametrize(
    ("batch_size", "size", "shares"),
    [(2, 1, [[0, 1]]), (3, 2, [[0, 1], [2]]), (4, 2, [[0, 1], [2, 3]]), (5, 3, [[0, 1], [2, 3], [4]])],
)
def test_shares_are_contiguous_and_even(batch_size: int, size: int, shares: list[list[int]]) -> None:
    assert [list(World(rank, size).shares(batch_size)) for rank in range(size)] == shares


def test_more_ranks_than_samples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"batch size 2 is smaller than the 3 workers.*at most 2 workers"):
        World(0, 3).shares(2)


def test_a_process_alone_sums_nothing() -> None:
    tensor = torch.ones(2, requires_grad=True)
    assert World().sum_over_ranks(tensor) is tensor
    assert World().sum_numbers([1.5, 2], torch.device("cpu")) == [1.5, 2]
