"""The HTML of a report: sections as strings, one file that needs no network and no script."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from pipelines.reporting.tables import (
    HEADER,
    MISSING,
    class_names,
    format_score,
    is_score,
    ranking_cells,
)

Row = Mapping[str, Any]

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style</style>
</head>
<body>
$body
</body>
</html>
""")


def page(title: str, sections: Sequence[str]) -> str:
    """The whole document; `title` is plain text, `sections` are HTML."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    return _PAGE.substitute(
        title=escape(title), style=style, body="\n".join(section for section in sections if section)
    )


def verdict(ranking: Sequence[Row]) -> list[str]:
    """Two to four plain sentences: who leads, how surely, and how far above the reference row.

    Intervals are of single means. That two of them overlap is no test of a difference, nor is a gap between them, and
    the sentences say no more than that.
    """
    entries = [row for row in ranking if row["rank"] is not None and row["dice"] is not None]
    if not entries:
        return ["No entry has an out-of-fold score yet."]
    first, others = entries[0], entries[1:]
    measured = (
        f"a mean Dice of {_score_and_interval(first)} over {first['num_cases']} out-of-fold cases "
        f"of {first['num_patients']} patients"
    )
    if not others:
        sentences = [f"{first['entry']}, the only entry with a score, reaches {measured}."]
    else:
        sentences = [f"{first['entry']} leads with {measured}.", _separation(first, others)]
    sentences += [
        _against_reference(row, entries) for row in ranking if row["rank"] is None and row["dice"] is not None
    ]
    if first["test"] and first["test"]["dice"] is not None:
        sentences.append(
            f"On the {first['test']['num_cases']} cases of the test split {first['entry']} has "
            f"{_score_and_interval(first['test'])}."
        )
    return sentences


def heading(dataset: str, facts: Sequence[str], sentences: Sequence[str]) -> str:
    """Title, one line of facts, the verdict."""
    text = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    line = " · ".join(escape(fact) for fact in facts)
    return f'<h1>{escape(dataset)}</h1>\n<p class="facts">{line}</p>\n<div class="verdict">{text}</div>'


def ranking_section(ranking: Sequence[Row], colours: Mapping[str, str]) -> str:
    """The table, with a drawing of every interval on one scale."""
    scale = _scale(ranking)
    head = [f'<th{_side(index)} scope="col">{escape(name)}</th>' for index, name in enumerate(HEADER)]
    head[2] = '<th scope="col">Dice<span class="small">95 % interval</span></th>'
    head.insert(
        _STRIP_COLUMN, f'<th class="left drawn" scope="col"><span class="small">{_scale_text(scale)}</span></th>'
    )
    lines = []
    for row, cells in zip(ranking, ranking_cells(ranking), strict=True):
        kind = "reference" if row["rank"] is None else "first" if row["rank"] == 1 else ""
        columns = [f"<td{_side(index)}>{escape(cell)}</td>" for index, cell in enumerate(cells)]
        columns[1] = f'<td class="left">{_key(colours[row["entry"]])}{escape(row["entry"])}{_origin(row)}</td>'
        columns[2] = f"<td>{format_score(row['dice'])}{_interval(row)}</td>"
        columns.insert(_STRIP_COLUMN, f'<td class="left drawn">{_strip(row, scale, colours[row["entry"]])}</td>')
        lines.append(f'<tr class="{kind}">' + "".join(columns) + "</tr>")
    notes = (
        "Out-of-fold scores, pooled over the folds: every case is scored by models that did not see its patient. "
        "Intervals: 95 % bootstrap over patients. HD95 and NSD are means over the classes. "
        "Training time is the sum over folds and seeds."
    )
    left_out = [f"{row['entry']}: {row['num_cases_left_out']}" for row in ranking if row["num_cases_left_out"]]
    if left_out:
        notes += f" Cases left out because not every entry predicted them: {', '.join(left_out)}."
    table = f"<table><thead><tr>{''.join(head)}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<h2>Ranking</h2>\n<div class="wide">{table}</div>\n<p class="note">{escape(notes)}</p>'


def classes_section(ranking: Sequence[Row], labels: Mapping[str, int], pictures: Sequence[str]) -> str:
    """Figures by class (SVG), and their numbers folded away."""
    names = class_names(ranking, labels)
    if not names:
        return ""
    header = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    lines = []
    for row in ranking:
        for measure, title, digits in (
            ("dice", "Dice", 3),
            ("iou", "IoU", 3),
            ("hd95_mm", "HD95 mm", 2),
            ("nsd", "NSD", 3),
        ):
            cells = "".join(
                f"<td>{format_score(row['classes'].get(name, {}).get(measure), digits)}</td>" for name in names
            )
            lines.append(f'<tr><td class="left">{escape(row["entry"])}</td><td class="left">{title}</td>{cells}</tr>')
    table = (
        '<table><thead><tr><th class="left" scope="col">entry</th><th class="left" scope="col">measure</th>'
        f"{header}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )
    return (
        f'<h2>By class</h2>\n<div class="pair">{"".join(_cell(picture) for picture in pictures)}</div>\n'
        f'<details><summary>Numbers</summary><div class="wide">{table}</div></details>'
    )


def curves_section(pictures: Sequence[str]) -> str:
    """Learning curves (SVG)."""
    if not pictures:
        return ""
    note = "Thin lines: one training each. Thick lines: their mean, as far as all of them went."
    return (
        f'<h2>Learning curves</h2>\n<div class="pair">{"".join(_cell(picture) for picture in pictures)}</div>\n'
        f'<p class="note">{note}</p>'
    )


def overlays_section(
    entry: str, colours: Mapping[str, str], pictures: Sequence[tuple[str, Mapping[str, tuple[str, float]]]]
) -> str:
    """Cases in three planes.

    Args:
        entry: whose predictions are shown.
        colours: colour by class.
        pictures: for every case its caption and, by plane, the address of the picture and its width over its height.
    """
    if not pictures:
        return ""
    keys = "".join(f"<li>{_key(colour)}{escape(name)}</li>" for name, colour in colours.items())
    figures = []
    for caption, planes in pictures:
        images = "".join(
            f'<div style="flex:{ratio:.4f} 1 0"><img src="{address}" alt="{escape(caption)}, {plane}"></div>'
            for plane, (address, ratio) in planes.items()
        )
        figures.append(f'<figure><div class="planes">{images}</div><figcaption>{escape(caption)}</figcaption></figure>')
    note = (
        f"Out-of-fold predictions of {entry}. Filled: reference. Line: prediction. Axial, coronal, sagittal; "
        "the patient's right is on the right. Each plane goes through the slice that holds most of the reference."
    )
    return f'<h2>Cases</h2>\n<p class="note">{escape(note)}</p><ul class="keys">{keys}</ul>\n' + "\n".join(figures)


def plans_section(plans: Mapping[str, Row]) -> str:
    """Why each entry is configured as it is, folded."""
    if not plans:
        return ""
    blocks = []
    for entry, plan in plans.items():
        reasons = "".join(f"<li>{escape(str(reason))}</li>" for reason in plan.get("reasons", ()))
        overrides = plan.get("overrides")
        if overrides:
            reasons += f"<li>Overrides of the study: <code>{escape(json.dumps(overrides))}</code></li>"
        blocks.append(
            f"<details><summary>{escape(entry)} <span>{escape(_plan_line(plan))}</span></summary>"
            f"<ul>{reasons}</ul></details>"
        )
    return "<h2>Plans</h2>\n" + "\n".join(blocks)


def repeat_section(command: str, provenance: Mapping[str, Any]) -> str:
    """The command, and what code, data and machine stand behind the figures."""
    facts = "".join(f"<dt>{escape(str(key))}</dt><dd>{_fact(value)}</dd>" for key, value in provenance.items())
    return f"<h2>How to repeat</h2>\n<pre>{escape(command)}</pre>\n<dl>{facts}</dl>"


_STRIP_COLUMN = 3


def _score_and_interval(row: Row) -> str:
    score = format_score(row["dice"])
    if row["dice_low"] is None or row["dice_high"] is None:
        return score
    return f"{score} (95 % interval {format_score(row['dice_low'])} to {format_score(row['dice_high'])})"


def _separation(first: Row, others: Sequence[Row]) -> str:
    if any(row["dice_low"] is None or row["dice_high"] is None for row in (first, *others)):
        return "Not every entry has an interval, so how surely it leads is not known."
    overlapping = [row["entry"] for row in others if row["dice_high"] >= first["dice_low"]]
    if not overlapping:
        return "Its interval lies above that of every other entry, which is an indication and no test."
    verb = "overlaps" if len(overlapping) == 1 else "overlap"
    noun = "The interval" if len(overlapping) == 1 else "The intervals"
    return (
        f"{noun} of {_listed(overlapping)} {verb} with its own: the order among them is not settled by this table "
        "(that intervals overlap is no test of a difference either)."
    )


def _against_reference(reference: Row, entries: Sequence[Row]) -> str:
    below = [row["entry"] for row in entries if row["dice"] <= reference["dice"]]
    ending = f"{_listed(below)} did not get above it" if below else "every entry is above it"
    score = format_score(reference["dice"])
    return f"The reference row {reference['entry']}, which sees only intensity, has {score}; {ending}."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _scale(ranking: Sequence[Row]) -> tuple[float, float] | None:
    # A reference far below would squeeze the entries into one spot.
    rows = [row for row in ranking if row["rank"] is not None]
    bounds = [row[key] for row in rows for key in ("dice", "dice_low", "dice_high") if is_score(row[key])]
    if not bounds:
        return None
    low, high = math.floor(min(bounds) * 20) / 20, math.ceil(max(bounds) * 20) / 20
    return low, max(high, low + 0.05)


def _scale_text(scale: tuple[float, float] | None) -> str:
    return f"{scale[0]:.2f} – {scale[1]:.2f}" if scale else ""


def _strip(row: Row, scale: tuple[float, float] | None, colour: str) -> str:
    bounds = [row[key] for key in ("dice_low", "dice", "dice_high") if is_score(row[key])]
    if scale is None or not is_score(row["dice"]) or min(bounds) < scale[0] or max(bounds) > scale[1]:
        return ""

    def place(value: float) -> float:
        return 4 + 136 * (value - scale[0]) / (scale[1] - scale[0])

    line = '<line x1="4" x2="140" y1="9" y2="9" style="stroke:var(--line);stroke-width:1"/>'
    line += f'<line x1="{place(bounds[0]):.1f}" x2="{place(bounds[-1]):.1f}" y1="9" y2="9" stroke="{colour}"/>'
    dot = f'<circle cx="{place(row["dice"]):.1f}" cy="9" r="3.5" fill="{colour}"/>'
    return f'<svg class="strip" viewBox="0 0 144 18" aria-hidden="true">{line}{dot}</svg>'


def _interval(row: Row) -> str:
    if not is_score(row["dice_low"]) or not is_score(row["dice_high"]):
        return ""
    return f'<span class="small">{format_score(row["dice_low"])} to {format_score(row["dice_high"])}</span>'


def _origin(row: Row) -> str:
    words = [word for word in (row.get("architecture"), row.get("configuration")) if word and word != row["entry"]]
    return f'<span class="small">{escape(" · ".join(words))}</span>' if words else ""


def _plan_line(plan: Row) -> str:
    words = [str(plan[key]) for key in ("architecture", "variant", "configuration") if plan.get(key)]
    if plan.get("patch_size"):
        words.append("patch " + " × ".join(str(side) for side in plan["patch_size"]))
    if plan.get("batch_size"):
        words.append(f"batch {plan['batch_size']}")
    return " · ".join(words)


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return "<br>".join(f"{escape(str(key))}: {escape(str(item))}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return escape(", ".join(str(item) for item in value)) or MISSING
    return MISSING if value is None else escape(str(value))


def _side(index: int) -> str:
    return ' class="left"' if index < 2 else ""


def _key(colour: str) -> str:
    return f'<span class="key" style="background:{colour}"></span>'


def _cell(picture: str) -> str:
    return f"<div>{picture}</div>"
