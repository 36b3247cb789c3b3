"""How the entries of a family are compared, as its task says."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pipelines.evaluation.case_scores import OUT_OF_FOLD
from pipelines.evaluation.measures import Measure


@dataclass(frozen=True)
class Comparison:
    """How the entries of a family are compared.

    Attributes:
        measures: columns of the score rows; the first decides the ranking.
        ranked_split: "validation" (out of fold) or "test": the split that decides.
        reference: name of the yardstick row.
        reference_is: what the yardstick is, one clause.
        unit: what a case is called, singular.
        validation_curve: column of `history.parquet` that judges an epoch, and its title.
    """

    measures: tuple[Measure, ...]
    ranked_split: str
    reference: str
    reference_is: str
    unit: str
    validation_curve: tuple[str, str]

    @property
    def primary(self) -> Measure:
        """The measure that ranks."""
        return self.measures[0]

    @property
    def headlines(self) -> list[Measure]:
        """Measures of the ranking table, the primary one first."""
        return [self.primary, *(measure for measure in self.measures[1:] if measure.is_headline)]

    @classmethod
    def of_task(cls, task: ModuleType, measured: Collection[str] = ()) -> Comparison:
        """What the task of a family (`pipelines/tasks/<family>.py`) says of comparing.

        Args:
            task: of the family.
            measured: keys of what was measured; those a data set may declare are compared where they are among them.
        """
        name, clause = task.REFERENCE
        declared = tuple(measure for measure in task.DECLARABLE if measure.key in measured)
        return cls(task.MEASURES + declared, task.RANKED_SPLIT, name, clause, task.UNIT, task.VALIDATION_CURVE)

    @classmethod
    def of_ranking(cls, task: ModuleType, ranking: Sequence[Mapping[str, Any]]) -> Comparison:
        """That of a ranking which was made before."""
        return cls.of_task(task, {key for row in ranking for scores in row["classes"].values() for key in scores})

    @property
    def is_out_of_fold(self) -> bool:
        """Whether every case is ranked by models that did not see it, in turn; otherwise by the test split."""
        return self.ranked_split == OUT_OF_FOLD

    def cases(self, number: int) -> str:
        """A number of cases in words: "1 case", "1,000 nodes"."""
        return f"{number:,} {self.unit}" + ("" if number == 1 else "s")
