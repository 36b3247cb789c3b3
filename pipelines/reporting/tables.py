"""The ranking as a Markdown page and as aligned text for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MISSING = "–"
HEADER = ("rank", "entry", "Dice (95 % interval)", "HD95 mm", "NSD", "test Dice", "parameters", "training")
_NUM_LEFT_COLUMNS = 2


def is_score(value: float | None) -> bool:
    """Whether there is a finite number to show."""
    return value is not None and math.isfinite(value)


def format_score(value: float | None, digits: int = 3) -> str:
    """A score with a fixed number of digits, or a dash where there is none."""
    return f"{value:.{digits}f}" if value is not None and math.isfinite(value) else MISSING


def format_interval(mean: float | None, low: float | None, high: float | None) -> str:
    """`0.812 (0.790 to 0.833)`; without bounds only the mean."""
    if is_score(mean) and is_score(low) and is_score(high):
        return f"{format_score(mean)} ({format_score(low)} to {format_score(high)})"
    return format_score(mean)


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


def class_names(ranking: Sequence[Mapping[str, Any]], labels: Mapping[str, int]) -> list[str]:
    """Scored classes in the order of their label values, background and unscored labels left out."""
    scored = {name for row in ranking for name in row["classes"]}
    return [name for name in sorted(labels, key=lambda name: labels[name]) if name in scored]


def class_mean(row: Mapping[str, Any], measure: str) -> float | None:
    """Mean of a measure over the classes that have a score; None when no class has one."""
    values = [scores[measure] for scores in row["classes"].values() if is_score(scores.get(measure))]
    return sum(values) / len(values) if values else None


def ranking_cells(ranking: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The cells under `HEADER`, one list a row."""
    return [
        [
            "ref" if row["rank"] is None else str(row["rank"]),
            row["entry"],
            format_interval(row["dice"], row["dice_low"], row["dice_high"]),
            format_score(class_mean(row, "hd95_mm"), 2),
            format_score(class_mean(row, "nsd")),
            format_score(row["test"]["dice"] if row["test"] else None),
            format_count(row.get("num_parameters")),
            format_duration(row.get("train_seconds")),
        ]
        for row in ranking
    ]


def ranking_markdown(ranking: Sequence[Mapping[str, Any]], labels: Mapping[str, int]) -> str:
    """Two Markdown tables: the ranking, then Dice, HD95 and NSD of every class.

    Args:
        ranking: rows sorted by Dice, as `pipelines.evaluation.ranking.ranking_rows` gives them; a row without a rank
            is a reference.
        labels: label value by name.
    """
    lines = _markdown_table(HEADER, ranking_cells(ranking), _NUM_LEFT_COLUMNS)
    names = class_names(ranking, labels)
    if names:
        header = ["entry", *(f"{name} {measure}" for name in names for measure in ("Dice", "HD95 mm", "NSD"))]
        rows = [
            [row["entry"], *(cell for name in names for cell in _class_cells(row["classes"].get(name, {})))]
            for row in ranking
        ]
        lines += ["", *_markdown_table(header, rows, 1)]
    if any(row["rank"] is None for row in ranking):
        lines += ["", "`ref`: the reference row, a classifier that sees one voxel's intensity and nothing else."]
    return "\n".join(lines) + "\n"


def ranking_text(ranking: Sequence[Mapping[str, Any]], labels: Mapping[str, int]) -> str:
    """The ranking and the Dice of every class in aligned columns, for a terminal."""
    blocks = [_text_table(HEADER, ranking_cells(ranking), _NUM_LEFT_COLUMNS)]
    names = class_names(ranking, labels)
    if names:
        rows = [
            [row["entry"], *(format_score(row["classes"].get(name, {}).get("dice")) for name in names)]
            for row in ranking
        ]
        blocks.append(_text_table(["Dice by class", *names], rows, 1))
    return "\n".join(blocks)


def _class_cells(scores: Mapping[str, float | None]) -> list[str]:
    return [
        format_score(scores.get("dice")),
        format_score(scores.get("hd95_mm"), 2),
        format_score(scores.get("nsd")),
    ]


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
