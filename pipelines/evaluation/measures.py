"""What a family measures, and what it says of a data set: the words every comparison of the family is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A column of a family's score rows: one figure a case, class and training.

    Attributes:
        key: column of the score rows and key in `ranking.json`, unit as suffix (`hd95_mm`).
        title: what tables and figures call it ("95 % Hausdorff distance (mm)").
        digits: decimals that are shown.
        is_larger_better: False for distances and errors.
        is_headline: whether it stands in the ranking and gets figures; the others stand in the tables by class alone.
    """

    key: str
    title: str
    digits: int = 3
    is_larger_better: bool = True
    is_headline: bool = True

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is: a value times the sign is always better when larger."""
        return 1 if self.is_larger_better else -1


@dataclass(frozen=True)
class DatasetFacts:
    """A data set as a report introduces it.

    Attributes:
        name: of the data set.
        labels: class name -> value, in the order tables and figures keep; background included where there is one.
        facts: one clause each, such as "24 training cases" or "MRI".
    """

    name: str
    labels: dict[str, int]
    facts: list[str]
