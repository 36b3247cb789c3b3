from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from pipelines.planning.legal_sides import LegalSides, base_size, legal_sides


def takes(
    divisor: Sequence[int], least: Sequence[int], trains_from: int = 0
) -> Callable[[Sequence[int], bool], str | None]:
    """A network's refusals: sides that are no multiples, too small, or, to train on, smaller than `trains_from`."""

    def refusal(size: Sequence[int], is_training: bool) -> str | None:
        for side, step, smallest in zip(size, divisor, least, strict=True):
            if side % step or side < smallest:
                return f"side {side}"
        return f"trains from {trains_from}" if is_training and min(size) < trains_from else None

    return refusal


@pytest.mark.parametrize(
    ("divisor", "least", "found"),
    [
        ((1, 1), (1, 1), LegalSides((1, 1), (1, 1))),
        ((16, 16, 16), (16, 16, 16), LegalSides((16, 16, 16), (16, 16, 16))),
        ((1, 8, 8), (1, 16, 16), LegalSides((1, 8, 8), (2, 16, 16))),
        ((12, 12), (12, 12), LegalSides((12, 12), (12, 12))),
        ((28, 28), (56, 56), LegalSides((28, 28), (56, 56))),
        ((1, 1), (5, 5), LegalSides((1, 1), (5, 5))),
    ],
)
def test_divisors_and_smallest_sides_are_found(divisor: Sequence[int], least: Sequence[int], found: LegalSides) -> None:
    refusal = takes(divisor, least)
    base, why_not = base_size(refusal, len(divisor))
    assert base is not None, why_not
    assert legal_sides(refusal, base) == found


def test_the_smallest_side_is_one_to_train_on() -> None:
    refusal = takes((8, 8), (8, 8), trains_from=24)
    assert legal_sides(refusal, (64, 64)) == LegalSides((8, 8), (24, 24))


def test_a_network_of_one_size_is_told_how_to_have_the_patch() -> None:
    def refusal(size: Sequence[int], is_training: bool) -> str | None:
        return None if tuple(size) == (40, 40) else "positions"

    assert base_size(refusal, 2) == (None, "positions")
    base, _ = base_size(refusal, 2, own_sides=[40])
    assert base == (40, 40)
    with pytest.raises(ValueError, match=r"takes images of 40x40 and none that is larger.*size as `\$patch`"):
        legal_sides(refusal, base)


def test_a_network_that_cannot_train_is_told_why() -> None:
    def refusal(size: Sequence[int], is_training: bool) -> str | None:
        return "no gradient" if is_training else None

    with pytest.raises(ValueError, match="does not take images of 16x16 in training mode: no gradient"):
        legal_sides(refusal, (16, 16))
