"""Which sides of an image a network takes, found by running it on shapes where it does not say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Multiples of high powers of two, of 3, 5 and 7 times one: a network that takes none of them takes next to nothing.
_BASES = (64, 96, 160, 224, 128, 256, 32, 16)
_POWERS = tuple(2**power for power in range(9))
_STEPS = (*_POWERS, *sorted(odd * power for odd in (3, 5, 7) for power in _POWERS[:7]))

# Of a size and whether to train: why the network does not take such an image, or None where it does.
Refusal = Callable[[Sequence[int], bool], str | None]


@dataclass(frozen=True)
class LegalSides:
    """Sides that a network takes, per axis.

    Attributes:
        divisor: they are multiples of it.
        smallest: the smallest, in evaluation and in training mode, with all axes this small.
    """

    divisor: tuple[int, ...]
    smallest: tuple[int, ...]


def base_size(refusal: Refusal, spatial_dims: int, own_sides: Sequence[int] = ()) -> tuple[tuple[int, ...] | None, str]:
    """A size with equal sides that the network takes in evaluation mode.

    Args:
        refusal: see `Refusal`.
        spatial_dims: of the image.
        own_sides: sides that its arguments speak of, tried last.

    Returns:
        The size, or None and why the first one tried was not taken.
    """
    first = ""
    for side in (*_BASES, *own_sides):
        size = (side,) * spatial_dims
        why_not = refusal(size, False)
        if why_not is None:
            return size, ""
        first = first or why_not
    return None, first


def legal_sides(refusal: Refusal, base: Sequence[int]) -> LegalSides:
    """Divisor and smallest side of each axis.

    Args:
        refusal: see `Refusal`.
        base: a size that the network takes.

    Raises:
        ValueError: it takes no larger size, or none in training mode; the message has the fix for `arguments`.
    """

    def raised(steps: Sequence[int]) -> tuple[int, ...]:
        return tuple(side + step for side, step in zip(base, steps, strict=True))

    axes = range(len(base))
    common = next((step for step in _STEPS if refusal(raised([step] * len(base)), False) is None), None)
    if common is None:
        raise ValueError(
            f"takes images of {_text(base)} and none that is larger by up to {max(_STEPS)}, but planning chooses the "
            "patch; give the argument that says the size as `$patch`"
        )
    divisor = [common] * len(base)
    for axis in axes:
        while (
            divisor[axis] % 2 == 0
            and refusal(raised([(divisor[axis] // 2) * (i == axis) for i in axes]), False) is None
        ):
            divisor[axis] //= 2
    why_not: str | None = None
    for multiple in range(1, max(base) // min(divisor) + 1):
        smallest = tuple(step * multiple for step in divisor)
        why_not = refusal(smallest, False) or refusal(smallest, True)
        if why_not is None:
            return LegalSides(tuple(divisor), smallest)
    raise ValueError(f"does not take images of {_text(base)} in training mode: {why_not}")


def _text(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
