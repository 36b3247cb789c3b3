from __future__ import annotations

import pytest
import torch

from repro_models.blocks.drop_path import DropPath, rising_probabilities


def test_a_sample_is_left_out_whole_and_the_others_keep_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 3)
    y = DropPath(0.25).train()(x)
    assert torch.equal(y, y[:, :1, :1].expand_as(y))
    values = y[:, 0, 0]
    left_out = values == 0
    assert torch.all(left_out | (values == torch.tensor(1 / 0.75)))
    assert left_out.float().mean().item() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(("probability", "is_training"), [(0.5, False), (0.0, True)])
def test_nothing_happens_in_evaluation_or_at_probability_0(probability: float, is_training: bool) -> None:
    x = torch.randn(8, 3)
    assert DropPath(probability).train(is_training)(x) is x


def test_probabilities_rise_evenly_from_0_to_the_last() -> None:
    assert rising_probabilities(0.2, 5) == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])
    assert rising_probabilities(0.2, 1) == [0.0]
