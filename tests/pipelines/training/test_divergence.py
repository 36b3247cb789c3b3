from __future__ import annotations

import math

import pytest
import torch

from pipelines.training.divergence import check_finite


def _check(loss: float, gradient_norm: float, image: torch.Tensor) -> None:
    check_finite("run", 12, loss, gradient_norm, 0.01, {"image": image}, indices=[4, 5])


def test_finite_numbers_pass() -> None:
    _check(1.0, 2.0, torch.full((2, 1), torch.nan))


@pytest.mark.parametrize(("loss", "gradient_norm"), [(math.nan, 1.0), (1.0, math.inf)])
def test_divergence_names_step_and_rate_and_the_fix(loss: float, gradient_norm: float) -> None:
    with pytest.raises(ValueError, match=r"run: loss .* at step 12, learning rate 0.01; .*lower the learning rate"):
        _check(loss, gradient_norm, torch.zeros(2, 1))


def test_a_bad_batch_is_named_instead() -> None:
    with pytest.raises(ValueError, match=r"batch of step 12 .* in 'image', samples \[5\]; .*repro check"):
        _check(math.nan, 1.0, torch.tensor([[0.0], [torch.inf]]))
