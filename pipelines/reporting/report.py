"""The report of a study on one data set: a page, its tables, its curves and its pictures as files."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.atomic_files import atomic_path, write_text
from pipelines.evaluation.gallery import OverlayCase
from pipelines.evaluation.measures import DatasetFacts
from pipelines.evaluation.ranking import case_means
from pipelines.reporting import figures, sections
from pipelines.reporting.comparison import Comparison
from pipelines.reporting.curve_figures import learning_curves
from pipelines.reporting.histories import History, curves, learning_curves_csv
from pipelines.reporting.overlay_figures import overlay
from pipelines.reporting.page import page
from pipelines.reporting.score_figures import strips
from pipelines.reporting.score_points import case_strips, class_strips, ranked_scores, seed_strips
from pipelines.reporting.tables import class_names, format_score, ranking_markdown
from pipelines.reporting.verdict import verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

# Nodes of a graph are right or wrong: points in two heaps show nothing that the mean does not.
_FEWEST_VALUES = 5
_TUNED = ("optimizer", "schedule", "network")


@dataclass(frozen=True)
class Search:
    """What the search of an entry left behind.

    Attributes:
        trials: rows of `trials.parquet`.
        best: content of `best.yaml`; with trials, settings by fold under `folds`.
    """

    trials: Sequence[Row]
    best: Row


def write_report(
    out_dir: Path,
    *,
    comparison: Comparison,
    dataset: DatasetFacts,
    fingerprint: Sequence[str],
    ranking: Sequence[Row],
    scores: Mapping[str, Sequence[Row]],
    histories: Mapping[str, History],
    overlays: Sequence[OverlayCase],
    plans: Mapping[str, Row],
    searches: Mapping[str, Search],
    settings: str,
    provenance: Row,
    command: str,
) -> None:
    """Write `index.html`, `ranking.json`, `ranking.md`, `learning_curves.csv` and `figures/*.png`.

    The page holds its pictures, its style and its script; it asks for no other file.

    Args:
        out_dir: made where it does not exist.
        comparison: what the family measures.
        dataset: name, labels and facts.
        fingerprint: sentences about the training cases.
        ranking: as `pipelines.evaluation.ranking.ranking_rows` gives it; `architecture`, `configuration`,
            `num_parameters`, `train_seconds`, `tuning` and `rescues` are shown where a row has them.
        scores: score rows by entry.
        histories: by entry and training ("fold0_seed0"), rows with `epoch`, `step`, `train_loss` and, where there was a
            validation, the column of `comparison.validation_curve`.
        overlays: cases of the leading entry to draw.
        plans: plan JSON by entry.
        searches: by entry, those that were searched for.
        settings: params.yaml, as far as it concerns this data set.
        provenance: what to say about code, data and machine; values are text, numbers, lists or dicts of them.
        command: what to type to get this report again.
    """
    names = _class_order(ranking, dataset.labels)
    ranking = [_with_classes_in_order(row, names) for row in ranking]
    entries = [row["entry"] for row in ranking]
    references = [row["entry"] for row in ranking if row["rank"] is None]
    colours = figures.entry_colours(list(dict.fromkeys([*entries, *histories])), references)
    compared = ranked_scores(scores, entries, comparison.ranked_split)
    by_case = {
        entry: dict(sorted(case_means(rows, comparison.primary.key).items())) for entry, rows in compared.items()
    }

    case_drawings = dict(_case_figures(compared, comparison, colours))
    class_drawings = dict(_class_figures(compared, comparison, names, colours))
    curve_drawings = dict(
        _curve_figures({entry: histories[entry] for entry in entries if entry in histories}, comparison, colours)
    )
    search_drawings = {entry: _search_figures(entry, search) for entry, search in searches.items()}
    drawn: dict[str, tuple[str, Figure]] = case_drawings | class_drawings | curve_drawings
    for of_entry in search_drawings.values():
        drawn |= of_entry
    pngs = {name: figures.to_png(figure) for name, (_, figure) in drawn.items()}
    shown = []
    for case in overlays:
        planes = overlay(
            case.image[0], case.reference, case.prediction, case.spacing_mm, [dataset.labels[name] for name in names]
        )
        pictures = {plane: figures.to_png(figure) for plane, figure in planes.items()}
        pngs |= {f"case_{case.caption}_{plane}": png for plane, png in pictures.items()}
        ratios = {plane: figure.get_figwidth() / figure.get_figheight() for plane, figure in planes.items()}
        addresses = {plane: (figures.to_data_address(png), ratios[plane]) for plane, png in pictures.items()}
        shown.append((f"{case.caption.capitalize()} case: {case.case_id}", _case_text(case, comparison), addresses))

    leader = next((row["entry"] for row in ranking if row["rank"] == 1), "")
    html = page(
        f"{dataset.name}: report",
        sections.heading(dataset.name, len(entries) - len(references), dataset.facts, verdict(ranking, comparison)),
        [
            sections.ranking_section(ranking, comparison, colours),
            sections.cases_section(_svgs(case_drawings), by_case, comparison),
            sections.classes_section(ranking, comparison, _svgs(class_drawings)),
            sections.gallery_section(leader, figures.class_colours(names), shown),
            sections.curves_section(_svgs(curve_drawings)),
            sections.search_section(
                {
                    entry: (
                        _svgs(search_drawings[entry]),
                        Counter(str(trial["status"]) for trial in search.trials),
                        *_settings(search.best, plans.get(entry, {})),
                    )
                    for entry, search in searches.items()
                },
                comparison,
            ),
            sections.data_section(fingerprint),
            sections.plans_section(plans),
            sections.repeat_section(command, settings, provenance),
        ],
    )
    for name, png in pngs.items():
        with atomic_path(out_dir / "figures" / f"{name}.png") as temporary:
            temporary.write_bytes(png)
    write_text(out_dir / "ranking.json", json.dumps(_without_nan(ranking), indent=2) + "\n")
    write_text(out_dir / "ranking.md", ranking_markdown(ranking, comparison))
    write_text(out_dir / "learning_curves.csv", learning_curves_csv(histories, comparison.validation_curve[0]))
    write_text(out_dir / "index.html", html)


def _case_figures(
    compared: Mapping[str, Sequence[Row]], comparison: Comparison, colours: Mapping[str, str]
) -> Iterator[tuple[str, tuple[str, Figure]]]:
    primary = comparison.primary
    rows = case_strips(compared, primary.key)
    if len({value for row in rows for value in row.values}) >= _FEWEST_VALUES:
        title = _sentence_case(f"{primary.title} of every {comparison.unit}")
        yield "by_case", (title, strips(rows, colours, title))
    if rows := seed_strips(compared, primary.key):
        title = _sentence_case(f"{primary.title} of every seed")
        yield "by_seed", (title, strips(rows, colours, title))


def _class_figures(
    compared: Mapping[str, Sequence[Row]], comparison: Comparison, names: Sequence[str], colours: Mapping[str, str]
) -> Iterator[tuple[str, tuple[str, Figure]]]:
    for measure in comparison.headlines:
        rows = class_strips(compared, measure.key, names)
        if any(row.values for row in rows):
            title = _sentence_case(measure.title) + ("" if measure.is_larger_better else " (smaller is better)")
            yield f"class_{measure.key}", (title, strips(rows, colours, title))


def _curve_figures(
    histories: Mapping[str, History], comparison: Comparison, colours: Mapping[str, str]
) -> Iterator[tuple[str, tuple[str, Figure]]]:
    for column, title in (("train_loss", "Training loss"), comparison.validation_curve):
        if found := curves(histories, column):
            yield f"curve_{column}", (title, learning_curves(found, colours, title))


def _search_figures(entry: str, search: Search) -> dict[str, tuple[str, Figure]]:
    from pipelines.reporting.search_figures import search_figures

    drawn = search_figures([dict(trial) for trial in search.trials])
    return {f"search_{entry}_{name}": (f"Search of {entry}: {name}", figure) for name, figure in drawn.items()}


def _settings(best: Row, plan: Row) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Settings found, by fold, and what the plan had for each that differs in any of them."""
    planned = dict(_leaves({key: plan.get(key, {}) for key in _TUNED}))
    found = {
        f"fold {fold}": dict(_leaves({key: of_fold[key] for key in _TUNED if key in of_fold}))
        for fold, of_fold in best["folds"].items()
    }
    settings = dict.fromkeys(key for of_fold in found.values() for key in of_fold)
    differing = [key for key in settings if any(of_fold.get(key) != planned.get(key) for of_fold in found.values())]
    return found, {key: planned.get(key) for key in differing}


def _leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, values


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]


def _svgs(drawings: Mapping[str, tuple[str, Figure]]) -> list[str]:
    return [figures.to_svg(figure, name, title) for name, (title, figure) in drawings.items()]


def _case_text(case: OverlayCase, comparison: Comparison) -> str:
    primary = comparison.primary
    words = [] if case.score is None else [f"{primary.title} {format_score(case.score, primary.digits)}"]
    words += [f"{name} {format_score(value, primary.digits)}" for name, value in case.class_scores.items()]
    return " · ".join([*words, f"spacing {' × '.join(f'{side:.3g}' for side in case.spacing_mm)} mm (z, y, x)"])


def _class_order(ranking: Sequence[Row], labels: Mapping[str, int]) -> list[str]:
    found = class_names(ranking)
    return sorted(found, key=lambda name: labels.get(name, len(labels)))


def _with_classes_in_order(row: Row, names: Sequence[str]) -> dict[str, Any]:
    return {**row, "classes": {name: row["classes"][name] for name in names if name in row["classes"]}}


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
