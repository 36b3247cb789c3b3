"""The ranking as a table: its columns, as Markdown and as aligned text for the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.reporting.comparison import Comparison

Row = Mapping[str, Any]

MISSING = "–"


@dataclass(frozen=True)
class Column:
    """A column of the ranking.

    Attributes:
        key: short name; also what the page's styles call it.
        title: its head.
        text: what a row shows.
        value: what a row sorts by; None stands last in either direction.
        is_left: whether it holds words, not figures.
        is_descending_first: whether its best values are its largest.
    """

    key: str
    title: str
    text: Callable[[Row], str]
    value: Callable[[Row], float | str | None]
    is_left: bool = False
    is_descending_first: bool = False


def is_score(value: float | None) -> bool:
    """Whether there is a finite number to show."""
    return value is not None and math.isfinite(value)


def format_score(value: float | None, digits: int = 3) -> str:
    """A score with a fixed number of digits, or a dash where there is none."""
    return f"{value:.{digits}f}" if value is not None and math.isfinite(value) else MISSING


def format_interval(mean: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """`0.812 (0.790 to 0.833)`; without bounds only the mean."""
    if is_score(mean) and is_score(low) and is_score(high):
        return f"{format_score(mean, digits)} ({format_score(low, digits)} to {format_score(high, digits)})"
    return format_score(mean, digits)


def format_count(count: float | None) -> str:
    """A number of parameters with three significant digits: `31.2 M`, `48.3 k`, `120`."""
    if not count or not is_score(count):
        return MISSING
    for factor, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= factor:
            return f"{count / factor:.3g}{suffix}"
    return str(int(count))


def format_duration(seconds: float | None) -> str:
    """A duration in its two largest units: `3 h 12 min`, `4 min 5 s`, `12 s`."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def format_trials(row: Row) -> str:
    """How many trials of the search an entry had: `20 trials`, `not tuned`; a dash for a reference row."""
    if row["rank"] is None:
        return MISSING
    num_trials = row.get("tuning")
    return "not tuned" if not num_trials else f"{num_trials} trial" + ("s" if num_trials > 1 else "")


def class_names(ranking: Sequence[Row]) -> list[str]:
    """Scored classes, in the order in which the rows name them."""
    return list(dict.fromkeys(name for row in ranking for name in row["classes"]))


def class_mean(row: Row, measure: str) -> float | None:
    """Mean of a measure over the classes that have a score; None when no class has one."""
    values = [scores[measure] for scores in row["classes"].values() if is_score(scores.get(measure))]
    return sum(values) / len(values) if values else None


def columns(ranking: Sequence[Row], comparison: Comparison) -> list[Column]:
    """The columns of a ranking: those that any of its rows has something for."""
    primary = comparison.primary

    def score(row: Row) -> str:
        return format_interval(row["score"], row["score_low"], row["score_high"], primary.digits)

    def of_test(row: Row) -> float | None:
        return row["test"]["score"] if row["test"] else None

    found = [
        Column("rank", "rank", lambda row: "ref" if row["rank"] is None else str(row["rank"]), lambda row: row["rank"]),
        Column("entry", "entry", lambda row: row["entry"], lambda row: row["entry"], is_left=True),
        Column(
            "score",
            f"{primary.title} (95 % interval)",
            score,
            lambda row: row["score"],
            is_descending_first=primary.is_larger_better,
        ),
    ]
    for measure in comparison.headlines[1:]:
        found.append(
            Column(
                measure.key,
                measure.title,
                lambda row, measure=measure: format_score(class_mean(row, measure.key), measure.digits),  # type: ignore[misc]
                lambda row, measure=measure: class_mean(row, measure.key),  # type: ignore[misc]
                is_descending_first=measure.is_larger_better,
            )
        )
    if any(row["score_std_over_seeds"] is not None for row in ranking):
        found.append(
            Column(
                "seeds",
                "± over seeds",
                lambda row: format_score(row["score_std_over_seeds"], primary.digits),
                lambda row: row["score_std_over_seeds"],
            )
        )
    if any(is_score(of_test(row)) for row in ranking):
        found.append(
            Column(
                "test",
                f"test {primary.title}",
                lambda row: format_score(of_test(row), primary.digits),
                of_test,
                is_descending_first=primary.is_larger_better,
            )
        )
    return [
        *found,
        Column("search", "search", format_trials, lambda row: row.get("tuning") or 0, is_descending_first=True),
        Column(
            "parameters",
            "parameters",
            lambda row: format_count(row.get("num_parameters")),
            lambda row: row.get("num_parameters"),
        ),
        Column(
            "training",
            "training",
            lambda row: format_duration(row.get("train_seconds")),
            lambda row: row.get("train_seconds"),
        ),
    ]


def ranking_markdown(ranking: Sequence[Row], comparison: Comparison) -> str:
    """Two Markdown tables: the ranking, then the headline measures of every class.

    Args:
        ranking: rows, best first, as `pipelines.evaluation.ranking.ranking_rows` gives them; a row without a rank is a
            reference.
        comparison: what was measured.
    """
    head = columns(ranking, comparison)
    cells = [[column.text(row) for column in head] for row in ranking]
    lines = _markdown_table([column.title for column in head], cells, _num_left(head))
    names = class_names(ranking)
    if names:
        pairs = [(name, measure) for name in names for measure in comparison.headlines]
        rows = [
            [
                row["entry"],
                *(format_score(_class_score(row, name, measure.key), measure.digits) for name, measure in pairs),
            ]
            for row in ranking
        ]
        lines += ["", *_markdown_table(["entry", *(f"{name} {measure.title}" for name, measure in pairs)], rows, 1)]
    if any(row["rank"] is None for row in ranking):
        lines += ["", f"`ref`: the reference row, {comparison.reference_is}."]
    return "\n".join(lines) + "\n"


def ranking_text(ranking: Sequence[Row], comparison: Comparison) -> str:
    """The ranking and the primary measure of every class in aligned columns, for a terminal."""
    head = columns(ranking, comparison)
    cells = [[column.text(row) for column in head] for row in ranking]
    blocks = [_text_table([column.title for column in head], cells, _num_left(head))]
    names, primary = class_names(ranking), comparison.primary
    if names:
        rows = [
            [row["entry"], *(format_score(_class_score(row, name, primary.key), primary.digits) for name in names)]
            for row in ranking
        ]
        blocks.append(_text_table([f"{primary.title} by class", *names], rows, 1))
    return "\n".join(blocks)


def _class_score(row: Row, name: str, measure: str) -> float | None:
    score: float | None = row["classes"].get(name, {}).get(measure)
    return score


def _num_left(head: Sequence[Column]) -> int:
    return max(index for index, column in enumerate(head) if column.is_left) + 1


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], num_left: int) -> list[str]:
    rules = ["---" if column < num_left else "---:" for column in range(len(header))]
    escaped = [[cell.replace("|", "\\|") for cell in cells] for cells in (header, *rows)]
    lines = ["| " + " | ".join(cells) + " |" for cells in escaped]
    return [lines[0], "| " + " | ".join(rules) + " |", *lines[1:]]


def _text_table(header: Sequence[str], rows: Sequence[Sequence[str]], num_left: int) -> str:
    widths = [max(len(cells[column]) for cells in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column < num_left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(header), rule, *(line(cells) for cells in rows)]) + "\n"
