"""What a ranking says, in three sentences, with how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.reporting.comparison import Comparison
from pipelines.reporting.tables import format_score

Row = Mapping[str, Any]

_MOST_NAMED = 3


def verdict(ranking: Sequence[Row], comparison: Comparison) -> list[str]:
    """Three plain sentences: who leads, how sure that is, and where the yardstick stands.

    How sure: the differences to the leader are taken case by case, with an interval of their own. An entry whose
    interval reaches zero may be as good or better on other cases; the sentence says no more than that.

    Args:
        ranking: as `pipelines.evaluation.ranking.ranking_rows` gives it.
        comparison: what was measured.
    """
    entries = [row for row in ranking if row["rank"] is not None and row["score"] is not None]
    if not entries:
        return ["No entry has a score yet."]
    first, others = entries[0], entries[1:]
    sentences = [_lead(first, bool(others), comparison)]
    if others:
        sentences.append(_certainty(others, comparison))
    references = [row for row in ranking if row["rank"] is None and row["score"] is not None]
    return sentences + [_against_reference(row, entries, comparison) for row in references]


def _lead(first: Row, has_others: bool, comparison: Comparison) -> str:
    of_patients = f" of {first['num_patients']} patients" if first["num_patients"] != first["num_cases"] else ""
    kind = "out-of-fold" if comparison.is_out_of_fold else "test"
    number, unit = comparison.cases(first["num_cases"]).split(" ")
    verb = "leads with" if has_others else "is the only entry and has"
    text = f"{first['entry']} {verb} a mean {comparison.primary.title} of {_score_and_interval(first, comparison)}"
    text += f" over {number} {kind} {unit}{of_patients}"
    num_seeds = len(first["score_per_seed"])
    if first["score_std_over_seeds"] is not None:
        spread = format_score(first["score_std_over_seeds"], comparison.primary.digits)
        text += f", with a standard deviation of {spread} over {num_seeds} seeds"
    if first["test"] and first["test"]["score"] is not None:
        test = first["test"]
        text += f"; on the {comparison.cases(test['num_cases'])} of the test split it has "
        text += _score_and_interval(test, comparison)
    return text + "."


def _certainty(others: Sequence[Row], comparison: Comparison) -> str:
    measured = [row for row in others if _has_interval(row)]
    if not measured:
        return "How sure its lead is cannot be said, because no case has a score of two entries."
    rivals = [row for row in measured if row["behind_first"]["low"] <= 0]
    if not rivals:
        closest = min(measured, key=lambda row: row["behind_first"]["difference"])
        who = f"the other entry, {closest['entry']}," if len(others) == 1 else f"the closest, {closest['entry']},"
        luck = f"Its lead is unlikely to be the luck of these {comparison.unit}s"
        return f"{luck}: {who} is {_distance(closest, comparison)}."
    named = [f"{row['entry']} ({_distance(row, comparison)})" for row in rivals[:_MOST_NAMED]]
    if len(rivals) > len(named):
        named.append(f"{len(rivals) - len(named)} more")
    return f"That it is the best is not settled: {listed(named)} may be as good on other {comparison.unit}s."


def _distance(row: Row, comparison: Comparison) -> str:
    behind, digits = row["behind_first"], comparison.primary.digits
    bounds = f"95 % interval {_signed(behind['low'], digits)} to {_signed(behind['high'], digits)}"
    return f"{_signed(behind['difference'], digits)} behind {comparison.unit} by {comparison.unit}, {bounds}"


def _against_reference(reference: Row, entries: Sequence[Row], comparison: Comparison) -> str:
    sign = comparison.primary.sign
    below = [row["entry"] for row in entries if sign * row["score"] <= sign * reference["score"]]
    if not below:
        ending = "every entry is better" if len(entries) > 1 else "the entry is better"
    elif len(below) > _MOST_NAMED:
        ending = f"{len(below)} of {len(entries)} entries are not better"
    else:
        ending = f"{listed(below)} {'is' if len(below) == 1 else 'are'} not better"
    score = format_score(reference["score"], comparison.primary.digits)
    return f"The yardstick {reference['entry']}, {comparison.reference_is}, has {score}; {ending}."


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them: "a", "a and b", "a, b and c"."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _score_and_interval(row: Row, comparison: Comparison) -> str:
    digits = comparison.primary.digits
    score = format_score(row["score"], digits)
    if row["score_low"] is None or row["score_high"] is None:
        return score
    return (
        f"{score} (95 % interval {format_score(row['score_low'], digits)} to {format_score(row['score_high'], digits)})"
    )


def _has_interval(row: Row) -> bool:
    return row["behind_first"] is not None and row["behind_first"]["low"] is not None


def _signed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−")
