"""HRSTNet against the authors' code with filled parameters (`tests/fillings.py`).

Their patch merging is an option of ours (`Differs` in the file). The constant filling makes every output the same:
behind the last normalisation all channels are 0.01, and so are the weights of the head. It can only see the form of the
head.
"""

from __future__ import annotations

import pytest

from repro_models.contract import Problem
from repro_models.segmentation import hrstnet
from tests.fillings import assert_golden, golden_output

TWO_STAGES = hrstnet.Config(base_features=24, num_heads=(2, 3), window=2, has_authors_merging=True)
FOUR_STAGES = hrstnet.Config(base_features=24, num_heads=(2, 3, 4, 6), window=2, fusion="mlp", has_authors_merging=True)
STEM = hrstnet.Config(
    base_features=24, num_heads=(2, 3), window=2, fusion="mlp", has_stem=True, has_authors_merging=True
)

# config, filling, sum, mean, std, first eight values
GOLDENS = [
    pytest.param(TWO_STAGES, "constant", 235.9296, 0.0024, 0.0, [0.0024] * 8, id="two_stages-constant"),
    pytest.param(
        TWO_STAGES,
        "sine",
        9115.971,
        0.09273245,
        2.202619,
        [-0.9702608, -1.362852, 3.367, -0.6322497, -0.9685982, -1.364349, 3.366661, -0.6305184],
        id="two_stages-sine",
    ),
    pytest.param(FOUR_STAGES, "constant", 235.9296, 0.0024, 0.0, [0.0024] * 8, id="four_stages-constant"),
    pytest.param(
        FOUR_STAGES,
        "sine",
        9895.868,
        0.100666,
        2.200948,
        [-1.427625, -0.8951975, 3.397076, -1.116321, -1.422143, -0.9013342, 3.397349, -1.110441],
        id="four_stages-sine",
    ),
    pytest.param(STEM, "constant", 117.9648, 0.0012, 0.0, [0.0012] * 8, id="stem-constant"),
    pytest.param(
        STEM,
        "sine",
        40175.13,
        0.4086825,
        0.4245622,
        [0.9341996, 0.9375111, -0.2907232, -0.01444317, 0.623653, 0.8772597, -0.2947043, -0.01996982],
        id="stem-sine",
    ),
]


@pytest.mark.parametrize(("config", "filling", "total", "mean", "std", "first"), GOLDENS)
def test_output_equals_the_authors(
    config: hrstnet.Config, filling: str, total: float, mean: float, std: float, first: list[float]
) -> None:
    output = golden_output(hrstnet.build(config, Problem(3, 2, 3)), filling, (1, 2, 32, 32, 32))
    assert output.shape == (1, 3, 32, 32, 32)
    assert_golden(output, total, mean, std, first)
