from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from repro_models.blocks.aspp import ASPP
from tests.fillings import num_parameters


def test_the_pyramid_of_the_paper_has_its_parameters() -> None:
    with torch.device("meta"):
        pyramid = ASPP(2048, 256, (6, 12, 18))
    one_by_one, atrous = 2048 * 256 + 2 * 256, 9 * 2048 * 256 + 2 * 256
    assert num_parameters(pyramid) == 2 * one_by_one + 3 * atrous + 5 * 256 * 256 + 2 * 256


@pytest.mark.parametrize("separable", ["no", "plain", "normalised"])
def test_each_rate_dilates_a_branch_that_keeps_the_sides(separable: str) -> None:
    pyramid: Any = ASPP(3, 2, (1, 4), separable).eval()
    dilations = [
        module.dilation[0]
        for module in pyramid.branches.modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
    ]
    assert dilations == [1, 4]
    assert pyramid(torch.zeros(2, 3, 5, 7)).shape == (2, 2, 5, 7)


def test_every_pixel_sees_the_mean_of_the_whole_map() -> None:
    pyramid: Any = ASPP(1, 2, (1,)).eval()
    x = torch.randn(1, 1, 4, 6)
    changed = x.clone()
    changed[0, 0, 0, 0] += 24.0
    pooling = pyramid.branches[-1]
    nn.init.ones_(pooling.conv.weight)
    before, after = pooling(x.abs()), pooling(changed.abs())
    assert before.shape == (1, 2, 4, 6)
    assert before.flatten(2).std(dim=2).eq(0).all()
    expected = changed.abs().mean() - x.abs().mean()
    torch.testing.assert_close(after - before, expected.expand(1, 2, 4, 6), rtol=1e-4, atol=1e-5)


def test_one_image_alone_trains_by_the_running_statistics_of_its_mean() -> None:
    pyramid: Any = ASPP(3, 2, (1,)).train()
    pooling = pyramid.branches[-1]
    x = torch.randn(1, 3, 4, 4)
    trained = pooling(x)
    trained.sum().backward()
    assert pooling.norm.weight.grad is not None
    assert torch.equal(trained, pooling.eval()(x))
    pooling.train()(torch.randn(2, 3, 4, 4))
    assert pooling.norm.running_mean.ne(0).any()
