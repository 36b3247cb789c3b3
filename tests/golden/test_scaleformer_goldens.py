"""ScaleFormer against the authors' code with filled parameters (`tests/fillings.py`), whose departures are options.

Theirs repeats a grey image three times.
"""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from repro_models.contract import Problem
from repro_models.segmentation import scaleformer
from tests.fillings import assert_golden, golden_output, num_parameters

pytestmark = pytest.mark.slow

AUTHORS = scaleformer.Config(has_scrambled_tokens=True, has_scaled_inter_attention=False)


class Repeated(nn.Module):
    """A network that gets its image three times over."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.repeat(1, 3, 1, 1))


@pytest.mark.parametrize(
    ("filling", "total", "mean", "std", "first"),
    [
        (
            "constant",
            10970.43,
            0.07287964,
            0.003046547,
            [0.03671839, 0.05020588, 0.0504562, 0.05048357, 0.05050254, 0.05051878, 0.05053281, 0.05054536],
        ),
        (
            "sine",
            9528.978,
            0.06330369,
            0.04211035,
            [0.08468487, 0.0855315, 0.08544784, 0.08545552, 0.08545686, 0.08545687, 0.08545661, 0.08545656],
        ),
    ],
)
def test_output_equals_the_authors(filling: str, total: float, mean: float, std: float, first: list[float]) -> None:
    network = Repeated(scaleformer.build(AUTHORS, Problem(2, 3, 3)))
    assert num_parameters(network) == 113_813_587
    output = golden_output(network, filling, (1, 1, 224, 224))
    assert output.shape == (1, 3, 224, 224)
    assert_golden(output, total, mean, std, first)
