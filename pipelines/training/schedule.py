"""Learning rate schedules: what share of the initial learning rate applies at a point of the training.

`polynomial` is nnU-Net's rule (Isensee et al., 2021): `(1 - progress) ** 0.9`, evaluated at the start of each epoch.
`cosine` is half a cosine from one to zero (Loshchilov and Hutter, 2017, without restarts). `constant` is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

NAMES = ("polynomial", "cosine", "constant")


@dataclass(frozen=True)
class Schedule:
    """A pure function of progress.

    Args:
        name: `polynomial`, `cosine` or `constant`.
        exponent: of the polynomial; the others have none.
        warmup_fraction: share of the training, 0 to below 1, over which the rate rises linearly from zero; the named
            curve spans what is left.

    Raises:
        ValueError: the name is unknown or the fraction is outside its range.
    """

    name: str
    exponent: float = 0.9
    warmup_fraction: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"schedule {self.name!r} is unknown; choose one of {', '.join(NAMES)}")
        if not 0 <= self.warmup_fraction < 1:
            raise ValueError(f"warmup_fraction {self.warmup_fraction} must be at least 0 and below 1; 0 is no warm-up")

    @property
    def is_per_step(self) -> bool:
        """Whether the rate moves with every step; else it stands still during an epoch, as in nnU-Net.

        A warm-up held still during an epoch would waste the whole first one at a rate of zero.
        """
        return self.name == "cosine" or self.warmup_fraction > 0

    def factor(self, progress: float) -> float:
        """Share of the initial learning rate at `progress`, from 0 (start) to 1 (end)."""
        if progress < self.warmup_fraction:
            return progress / self.warmup_fraction
        after_warmup = (progress - self.warmup_fraction) / (1 - self.warmup_fraction)
        if self.name == "cosine":
            return (1 + math.cos(math.pi * after_warmup)) / 2
        if self.name == "constant":
            return 1.0
        return float((1 - after_warmup) ** self.exponent)
