from __future__ import annotations

import numpy as np
import pytest

from pipelines.preprocessing.normalise import normalise

CT = {"mean": 10.0, "std": 5.0, "percentile_00_5": 0.0, "percentile_99_5": 20.0}


def normalised(
    values: list[float], scheme: str, inside: list[bool] | None = None, statistics: dict[str, float] | None = None
) -> list[float]:
    image = np.array(values, np.float32).reshape(1, 1, 1, -1)
    mask = np.ones(image.shape[1:], bool) if inside is None else np.array(inside).reshape(1, 1, -1)
    result = normalise(image, mask, [scheme], [inside is not None], [statistics or {}])
    assert result.dtype == np.float32
    return result.ravel().tolist()


@pytest.mark.parametrize(
    ("scheme", "values", "expected"),
    [
        ("ct", [-100, 0, 10, 15, 100], [-2, -2, 0, 1, 2]),
        ("zscore", [1, 3, 1, 3], [-1, 1, -1, 1]),
        ("zscore", [7, 7, 7, 7], [0, 0, 0, 0]),
        ("rescale_to_0_1", [-2, 0, 2], [0, 0.5, 1]),
        ("rescale_to_0_1", [3, 3], [0, 0]),
        ("rgb_to_0_1", [0, 51, 255], [0, 0.2, 1]),
        ("nonorm", [1.5, -2], [1.5, -2]),
    ],
)
def test_scheme_by_hand(scheme: str, values: list[float], expected: list[float]) -> None:
    assert normalised(values, scheme, statistics=CT) == pytest.approx(expected)


def test_with_the_mask_rule_outside_stays_as_it_is_and_does_not_count() -> None:
    assert normalised([0, 1, 3, 0], "zscore", [False, True, True, False]) == [0, -1, 1, 0]


def test_an_empty_mask_changes_nothing() -> None:
    assert normalised([4, 5], "zscore", [False, False]) == [4, 5]


def test_raw_values_in_the_millions_keep_their_statistics() -> None:
    values = np.random.default_rng(0).normal(1.5e6, 3.0, (1, 40, 40, 40)).astype(np.float32)
    result = normalise(values, np.ones((40, 40, 40), bool), ["zscore"], [False], [{}])
    assert abs(result.mean()) < 1e-3
    assert result.std() == pytest.approx(1, abs=1e-3)


def test_every_channel_has_its_own_scheme_and_the_input_stays() -> None:
    image = np.stack([np.full((1, 1, 2), 255.0), np.arange(2.0).reshape(1, 1, 2)]).astype(np.float32)
    before = image.copy()
    result = normalise(image, np.ones((1, 1, 2), bool), ["rgb_to_0_1", "zscore"], [False, False], [{}, {}])
    np.testing.assert_array_equal(result, [[[[1, 1]]], [[[-1, 1]]]])
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("schemes", "message"),
    [
        (["z"], "unknown normalisation 'z' of channel 0"),
        (["zscore", "ct"], "has 1 channels, the plan normalises 2"),
        (["rgb_to_0_1"], r"0\.\.255, found 256"),
    ],
)
def test_a_mismatch_is_explained(schemes: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalise(np.full((1, 1, 1, 1), 256.0), np.ones((1, 1, 1), bool), schemes, [False] * 2, [{}, {}])
