from __future__ import annotations

import pytest
import torch

from repro_models.blocks.neighbourhood import dropout, softmax_by_target, sum_by_target, with_self_loops


def test_every_node_gets_a_loop() -> None:
    assert with_self_loops(torch.tensor([[0, 2], [1, 0]]), 3).tolist() == [[0, 2, 0, 1, 2], [1, 0, 0, 1, 2]]


@pytest.mark.parametrize(
    ("messages", "expected"), [([1.0, 2.0, 4.0], [6.0, 0.0, 1.0]), ([[1.0], [2.0], [4.0]], [[6.0], [0.0], [1.0]])]
)
def test_messages_add_up_where_their_edges_end(messages: list, expected: list) -> None:
    assert sum_by_target(torch.tensor(messages), torch.tensor([2, 0, 0]), 3).tolist() == expected


def test_the_softmax_is_over_the_edges_that_end_together() -> None:
    scores = torch.tensor([0.0, 1.0, 5.0], requires_grad=True)
    shares = softmax_by_target(scores, torch.tensor([0, 0, 2]), 3)
    expected = torch.cat([torch.tensor([0.0, 1.0]).softmax(0), torch.ones(1)])
    torch.testing.assert_close(shares, expected)
    shares[0].backward()
    # The derivative of a softmax p: p (1 - p) by its own score, -p q by the other's.
    p, q, _ = expected.tolist()
    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([p * (1 - p), -p * q, 0])


def test_the_softmax_of_large_scores_is_finite() -> None:
    shares = softmax_by_target(torch.tensor([1000.0, 1001.0, -1000.0]), torch.tensor([0, 0, 1]), 2)
    torch.testing.assert_close(shares, torch.tensor([0.26894142, 0.73105858, 1.0]))


def test_dropout_of_sparse_features_scales_what_it_keeps_and_leaves_zeros() -> None:
    torch.manual_seed(0)
    x = (torch.rand(50, 40) > 0.8).float()
    dropped = dropout(x.to_sparse(), 0.5, is_training=True)
    assert dropped.is_sparse
    values = dropped.to_dense()
    assert set(values[x == 1].tolist()) == {0.0, 2.0}
    assert values[x == 0].sum() == 0
    assert values[x == 1].mean() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("is_sparse", [False, True])
def test_without_training_nothing_is_dropped(is_sparse: bool) -> None:
    x = torch.eye(3).to_sparse() if is_sparse else torch.eye(3)
    assert torch.equal(dropout(x, 0.9, is_training=False).to_dense(), torch.eye(3))
