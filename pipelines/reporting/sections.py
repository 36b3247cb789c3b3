"""The sections of a report as HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from pipelines.reporting.comparison import Comparison
from pipelines.reporting.figures import page_colour
from pipelines.reporting.page import Section
from pipelines.reporting.tables import MISSING, Column, class_names, columns, format_score, is_score
from pipelines.reporting.verdict import listed

Row = Mapping[str, Any]

MOST_CASES_LISTED = 1000


def heading(dataset: str, num_entries: int, facts: Sequence[str], sentences: Sequence[str]) -> str:
    """What is compared on what, a line of facts, the verdict."""
    kind = "1 architecture" if num_entries == 1 else f"{num_entries} architectures compared"
    text = "".join(f"<p>{_prose(sentence)}</p>" for sentence in sentences)
    items = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    return (
        f'<p class="eyebrow">{kind}</p>\n<h1>{escape(dataset)}</h1>\n<ul class="facts">{items}</ul>\n'
        f'<div class="verdict">{text}</div>'
    )


def ranking_section(ranking: Sequence[Row], comparison: Comparison, colours: Mapping[str, str]) -> Section:
    """The table, with a drawing of every interval on one scale."""
    scale = _scale(ranking)
    head = columns(ranking, comparison)
    heads = "".join(_head(column, scale) for column in head)
    lines = []
    for row in ranking:
        kind = "reference" if row["rank"] is None else "first" if row["rank"] == 1 else "entry"
        cells = "".join(_ranking_cell(column, row, comparison, scale, colours) for column in head)
        lines.append(f'<tr role="row" class="{kind}">{cells}</tr>')
    table = (
        '<table role="table" class="sortable ranking"><thead role="rowgroup"><tr role="row">'
        f'{heads}</tr></thead><tbody role="rowgroup">{"".join(lines)}</tbody></table>'
    )
    notes = "".join(f"<p>{_prose(note)}</p>" for note in _notes(ranking, comparison))
    return Section("ranking", "Ranking", f'<div class="wide">{table}</div>\n<div class="note">{notes}</div>')


def cases_section(
    pictures: Sequence[str], scores: Mapping[str, Mapping[str, float]], comparison: Comparison
) -> Section:
    """Every case a point, and the numbers folded away.

    Args:
        pictures: figures (SVG).
        scores: the primary measure of every case, by entry.
        comparison: what was measured.
    """
    cases = list(dict.fromkeys(case for of_entry in scores.values() for case in of_entry))
    if not cases:
        return Section("cases", "", "")
    note = (
        f"A point is a {comparison.unit}. The diamond is the mean, the bar its 95 % interval; where seeds are drawn, "
        "a point is a seed and the bar one standard deviation to either side."
    )
    html = _pair(pictures, note)
    if len(cases) > MOST_CASES_LISTED:
        return Section("cases", f"{comparison.unit.capitalize()} by {comparison.unit}", html)
    digits, primary = comparison.primary.digits, comparison.primary
    first = "descending" if primary.is_larger_better else "ascending"
    heads = _plain_head(comparison.unit, "ascending", is_left=True)
    heads += "".join(_plain_head(entry, first) for entry in scores)
    lines = "".join(
        f'<tr><td class="left" data-value="{escape(case)}">{escape(case)}</td>'
        + "".join(_number(of_entry.get(case), digits) for of_entry in scores.values())
        + "</tr>"
        for case in cases
    )
    summary = f"Every {comparison.unit} in numbers: {primary.title}"
    table = f'<table class="sortable"><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>'
    html += f'<details class="long"><summary>{escape(summary)}</summary><div class="wide">{table}</div></details>'
    return Section("cases", f"{comparison.unit.capitalize()} by {comparison.unit}", html)


def classes_section(ranking: Sequence[Row], comparison: Comparison, pictures: Sequence[str]) -> Section:
    """Figures by class (SVG), and the numbers of all measures folded away."""
    names = class_names(ranking)
    if not names:
        return Section("classes", "By class", "")
    heads = _plain_head("entry", "ascending", is_left=True) + _plain_head("measure", "ascending", is_left=True)
    heads += "".join(_plain_head(name, "descending") for name in names)
    lines = []
    for row in ranking:
        for measure in comparison.measures:
            cells = "".join(_number(row["classes"].get(name, {}).get(measure.key), measure.digits) for name in names)
            lines.append(
                f'<tr><td class="left" data-value="{escape(row["entry"])}">{escape(row["entry"])}</td>'
                f'<td class="left" data-value="{escape(measure.title)}">{escape(measure.title)}</td>{cells}</tr>'
            )
    table = f'<table class="sortable"><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    details = f'<details><summary>All measures of every class</summary><div class="wide">{table}</div></details>'
    note = (
        f"A point is a {comparison.unit}; the diamond is the mean, the bar its 95 % interval. A {comparison.unit} "
        "counts where the class has a score."
    )
    return Section("classes", "By class", _pair(pictures, note) + details)


def gallery_section(
    entry: str, colours: Mapping[str, str], pictures: Sequence[tuple[str, str, Mapping[str, tuple[str, float]]]]
) -> Section:
    """Cases in three planes.

    Args:
        entry: whose predictions are shown.
        colours: colour by class.
        pictures: for every case its caption, what to say under it and, by plane, the address of the picture and its
            width over its height.
    """
    if not pictures:
        return Section("gallery", "Gallery", "")
    keys = "".join(f"<li>{_key(colour)}{escape(name)}</li>" for name, colour in colours.items())
    figures = []
    for caption, text, planes in pictures:
        images = "".join(
            f'<div style="flex:{ratio:.4f} 1 0"><img src="{address}" alt="{escape(caption)}, {plane}"></div>'
            for plane, (address, ratio) in planes.items()
        )
        figures.append(
            f"<figure><figcaption><strong>{escape(caption)}</strong> <span>{escape(text)}</span></figcaption>"
            f'<div class="planes">{images}</div></figure>'
        )
    note = f"Out-of-fold predictions of {entry}. Filled: reference. Line: prediction."
    if any(len(planes) > 1 for _, _, planes in pictures):
        note += (
            " Axial, coronal, sagittal; the patient's right is on the right. Each plane goes through the slice that "
            "holds most of the reference."
        )
    html = f'<p class="note">{escape(note)}</p><ul class="keys">{keys}</ul>\n' + "\n".join(figures)
    return Section("gallery", "Gallery", html)


def curves_section(pictures: Sequence[str]) -> Section:
    """Learning curves (SVG)."""
    note = (
        "Thin lines: one training each. Thick lines: their mean, as far as all of them went. "
        "Where an entry has a frame of its own, the band behind it spans the means of all entries."
    )
    return Section("curves", "Learning curves", _pair(pictures, note))


def search_section(searches: Mapping[str, tuple[Sequence[str], Row, Row, Row]], comparison: Comparison) -> Section:
    """What the search tried and found.

    Args:
        searches: by entry its figures (SVG), how its trials ended {status: number}, its settings by fold
            {fold: {setting: value}} and the planned value of each setting.
        comparison: what was measured.
    """
    blocks = []
    for entry, (pictures, endings, by_fold, planned) in searches.items():
        counts = listed([f"{number} {status.replace('_', ' ')}" for status, number in endings.items()])
        folds = list(by_fold)
        heads = _plain_head("setting", None, is_left=True) + _plain_head("planned", None)
        heads += "".join(_plain_head(fold, None) for fold in folds)
        lines = "".join(
            f'<tr><td class="left">{escape(setting)}</td><td>{_setting(value)}</td>'
            + "".join(f"<td>{_setting(by_fold[fold].get(setting))}</td>" for fold in folds)
            + "</tr>"
            for setting, value in planned.items()
        )
        table = f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"
        blocks.append(
            f"<h3>{escape(entry)}</h3><p>{sum(endings.values())} trials: {escape(counts)}.</p>"
            f'{_pair(pictures)}<div class="wide">{table}</div>'
        )
    if not blocks:
        return Section("search", "Search", "")
    note = f"Trials are judged by other {comparison.unit}s than those that rank: no score chose its own settings."
    return Section("search", "Search", "\n".join(blocks) + f'<p class="note">{_prose(note)}</p>')


def data_section(sentences: Sequence[str]) -> Section:
    """The fingerprint in words."""
    html = "".join(f"<li>{_prose(sentence)}</li>" for sentence in sentences)
    return Section("data", "What the data are like", f'<ul class="prose">{html}</ul>' if html else "")


def plans_section(plans: Mapping[str, Row]) -> Section:
    """Why each entry is configured as it is, folded."""
    blocks = []
    for entry, plan in plans.items():
        reasons = "".join(_reason(str(reason)) for reason in plan.get("reasons", ()))
        overrides = plan.get("overrides")
        if overrides:
            reasons += f"<dt>overrides</dt><dd>of the study: <code>{escape(json.dumps(overrides))}</code></dd>"
        blocks.append(
            f"<details><summary>{escape(entry)} <span>{escape(_plan_line(plan))}</span></summary>"
            f"<dl>{reasons}</dl></details>"
        )
    return Section("plans", "How each entry was planned, and why", "\n".join(blocks))


def repeat_section(command: str, settings: str, provenance: Mapping[str, Any]) -> Section:
    """The command, the study, and what code, data and machine stand behind the figures."""
    facts = "".join(f"<dt>{escape(str(key))}</dt><dd>{_fact(value)}</dd>" for key, value in _flat(provenance))
    study = f"<details><summary>params.yaml of this study</summary><pre>{escape(settings)}</pre></details>"
    how = "Check out the commit below, save the study as params.yaml, and run:"
    html = f"<p>{how}</p>\n<pre>{escape(command)}</pre>\n{study if settings else ''}\n<dl>{facts}</dl>"
    return Section("repeat", "How to repeat this", html)


def _head(column: Column, scale: tuple[float, float] | None) -> str:
    name, small = escape(column.title), ""
    if column.key == "score":
        name = escape(column.title.removesuffix(" (95 % interval)"))
        range_text = f", drawn on {scale[0]:.2f} – {scale[1]:.2f}" if scale else ""
        small = f'<span class="small">95 % interval{range_text}</span>'
    first = "descending" if column.is_descending_first else "ascending"
    return f'<th role="columnheader" scope="col" class="{_side(column)}" data-first="{first}">{name}{small}</th>'


def _ranking_cell(
    column: Column, row: Row, comparison: Comparison, scale: tuple[float, float] | None, colours: Mapping[str, str]
) -> str:
    value, text = column.value(row), escape(column.text(row))
    if column.key == "entry":
        name = text.replace("_", "_<wbr>")
        text = f'{_key(page_colour(colours[row["entry"]]))}<span class="name">{name}</span>{_origin(row)}'
    elif column.key == "score":
        drawing = _strip(row, scale, page_colour(colours[row["entry"]]))
        digits = comparison.primary.digits
        text = f'<span class="figure">{format_score(row["score"], digits)}{_interval(row, digits)}</span>{drawing}'
    sorts_by = "" if value is None or value != value else f' data-value="{escape(str(value))}"'
    label = escape(column.title.removesuffix(" (95 % interval)"))
    kind = f"{column.key} {_side(column)}" + (" missing" if text == MISSING else "")
    return f'<td role="cell" class="{kind}" data-label="{label}"{sorts_by}>{text}</td>'


def _side(column: Column) -> str:
    return "left" if column.is_left or column.key in ("rank", "score") else ""


def _notes(ranking: Sequence[Row], comparison: Comparison) -> Iterator[str]:
    if comparison.is_out_of_fold:
        yield "Out-of-fold scores, pooled over the folds: every case is scored by models that did not see its patient."
    else:
        yield f"Scores of the {comparison.unit}s of the data set's own test split, which no training looked at."
    text = (
        "Intervals are 95 % bootstraps over patients" if comparison.is_out_of_fold else "Intervals are 95 % bootstraps"
    )
    yield (
        f"{text}: they speak of other {comparison.unit}s, not of another training, and are not widened for the number "
        "of entries. Differences to the first are taken case by case."
    )
    others = [measure.title for measure in comparison.headlines[1:]]
    if others:
        yield f"{listed(others)}: means over the classes."
    yield "Training is the sum over folds and seeds."
    trials = {row.get("tuning") for row in ranking if row["rank"] is not None}
    if len(trials) > 1:
        yield "Not all entries had the same number of trials in the search, so part of a difference may be tuning."
    left_out = [f"{row['entry']}: {row['num_cases_left_out']}" for row in ranking if row["num_cases_left_out"]]
    if left_out:
        yield f"Cases left out because not every entry predicted them: {', '.join(left_out)}."
    for row in ranking:
        yield from (f"{row['entry']}, {rescue}" for rescue in row.get("rescues", ()))


def _scale(ranking: Sequence[Row]) -> tuple[float, float] | None:
    # A reference far below would squeeze the entries into one spot.
    rows = [row for row in ranking if row["rank"] is not None]
    bounds = [row[key] for row in rows for key in ("score", "score_low", "score_high") if is_score(row[key])]
    if not bounds:
        return None
    low, high = math.floor(min(bounds) * 20) / 20, math.ceil(max(bounds) * 20) / 20
    return low, max(high, low + 0.05)


def _strip(row: Row, scale: tuple[float, float] | None, colour: str) -> str:
    bounds = [row[key] for key in ("score_low", "score", "score_high") if is_score(row[key])]
    if scale is None or not is_score(row["score"]) or min(bounds) < scale[0] or max(bounds) > scale[1]:
        return '<span class="strip"></span>'

    def place(value: float) -> float:
        return 4 + 136 * (value - scale[0]) / (scale[1] - scale[0])

    line = '<line class="axis" x1="4" x2="140" y1="9" y2="9"/>'
    line += f'<line x1="{place(bounds[0]):.1f}" x2="{place(bounds[-1]):.1f}" y1="9" y2="9" style="stroke:{colour}"/>'
    dot = f'<circle cx="{place(row["score"]):.1f}" cy="9" r="4" style="fill:{colour}"/>'
    return f'<svg class="strip" viewBox="0 0 144 18" aria-hidden="true">{line}{dot}</svg>'


def _interval(row: Row, digits: int) -> str:
    if not is_score(row["score_low"]) or not is_score(row["score_high"]):
        return ""
    bounds = f"{format_score(row['score_low'], digits)} to {format_score(row['score_high'], digits)}"
    return f'<span class="small">{bounds}</span>'


def _origin(row: Row) -> str:
    architecture = str(row.get("architecture") or "").split("/")[-1]
    words = [word for word in (architecture, row.get("configuration")) if word and word != row["entry"]]
    return f'<span class="small">{escape(" · ".join(words))}</span>' if words else ""


def _plain_head(name: str, first: str | None, is_left: bool = False) -> str:
    side = ' class="left"' if is_left else ""
    return f'<th scope="col"{side}' + (f' data-first="{first}"' if first else "") + f">{escape(name)}</th>"


def _number(value: float | None, digits: int) -> str:
    sorts_by = f' data-value="{value:.6g}"' if value is not None and math.isfinite(value) else ""
    return f"<td{sorts_by}>{format_score(value, digits)}</td>"


def _setting(value: Any) -> str:
    if value is None:
        return MISSING
    return escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def _reason(reason: str) -> str:
    subject, colon, rest = reason.partition(": ")
    if not colon or len(subject) > 24:
        return f"<dt></dt><dd>{escape(reason)}</dd>"
    return f"<dt>{escape(subject)}</dt><dd>{escape(rest)}</dd>"


def _plan_line(plan: Row) -> str:
    words = [str(plan[key]) for key in ("architecture", "variant", "configuration") if plan.get(key)]
    if plan.get("patch_size"):
        words.append("patch " + " × ".join(str(side) for side in plan["patch_size"]))
    if plan.get("batch_size"):
        words.append(f"batch {plan['batch_size']}")
    return " · ".join(words)


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield key, value


def _fact(value: Any) -> str:
    if isinstance(value, list | tuple):
        return escape(", ".join(str(item) for item in value)) or MISSING
    return MISSING if value is None else escape(str(value))


def _prose(text: str) -> str:
    # A per cent sign never begins a line.
    return escape(text).replace(" %", "&nbsp;%")


def _key(colour: str) -> str:
    return f'<span class="key" style="background:{colour}"></span>'


def _pair(pictures: Sequence[str], note: str = "") -> str:
    """Figures side by side; the note stands in the free place beside the last one, else below."""
    if not pictures:
        return ""
    cells = [f"<div>{picture}</div>" for picture in pictures]
    text = f'<p class="note">{_prose(note)}</p>' if note else ""
    if len(pictures) % 2 and text:
        return f'<div class="pair">{"".join(cells)}<div class="beside">{text}</div></div>'
    return f'<div class="pair">{"".join(cells)}</div>{text}'
