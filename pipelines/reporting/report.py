"""The report of a study on one data set: a page, its tables, its curves and its pictures as files."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.atomic_files import atomic_path, write_text
from pipelines.cases.case import DatasetInfo
from pipelines.evaluation.case_scores import OUT_OF_FOLD
from pipelines.evaluation.intervals import bootstrap_interval
from pipelines.reporting import figures, page
from pipelines.reporting.overlays import OverlayCase
from pipelines.reporting.tables import class_names, format_score, ranking_markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
History = Mapping[str, Sequence[Row]]

CURVE_COLUMNS = ("entry", "fold", "seed", "epoch", "step", "train_loss", "val_pseudo_dice")

_CURVES = {"train_loss": "Training loss", "val_pseudo_dice": "Pseudo Dice of the validation fold"}
_CLASS_FIGURES = {"dice": "Dice", "hd95_mm": "HD95 in mm (smaller is better)"}


def write_report(
    out_dir: Path,
    *,
    dataset_info: DatasetInfo,
    ranking: Sequence[Row],
    scores: Mapping[str, Sequence[Row]],
    histories: Mapping[str, History],
    overlays: Sequence[OverlayCase],
    plans: Mapping[str, Row],
    provenance: Row,
    command: str,
) -> None:
    """Write `index.html`, `ranking.json`, `ranking.md`, `learning_curves.csv` and `figures/*.png`.

    The page holds its pictures and its style; it asks for no other file.

    Args:
        out_dir: made where it does not exist.
        dataset_info: name, channels and labels.
        ranking: as `pipelines.evaluation.ranking.ranking_rows` gives it; `architecture`, `configuration`,
            `num_parameters` and `train_seconds` are shown where a row has them.
        scores: score rows by entry, with the keys of `pipelines.evaluation.case_scores`.
        histories: by entry and training ("fold0_seed0"), rows with `epoch`, `step`, `train_loss` and, where there was a
            validation, `val_pseudo_dice`.
        overlays: cases of the leading entry to draw.
        plans: plan JSON by entry.
        provenance: what to say about code, data and machine; values are text, numbers, lists or one more dict.
        command: what to type to get this report again.
    """
    references = [row["entry"] for row in ranking if row["rank"] is None]
    entries = [*(row["entry"] for row in ranking), *(entry for entry in histories if entry not in scores)]
    colours = figures.entry_colours(list(dict.fromkeys(entries)), references)
    names = class_names(ranking, dataset_info.labels)

    curves = dict(_curve_figures(histories, colours))
    by_class = dict(_class_figures(scores, [row["entry"] for row in ranking], names, colours))
    planes = [_overlay_figures(case, [dataset_info.labels[name] for name in names]) for case in overlays]
    pngs = {name: figures.to_png(figure) for name, figure in (curves | by_class).items()}
    shown = []
    for case, drawn in zip(overlays, planes, strict=True):
        pictures = {plane: figures.to_png(figure) for plane, figure in drawn.items()}
        pngs |= {f"case_{case.caption}_{plane}": png for plane, png in pictures.items()}
        ratios = {plane: figure.get_figwidth() / figure.get_figheight() for plane, figure in drawn.items()}
        shown.append(
            (_caption(case), {plane: (figures.to_data_address(pictures[plane]), ratios[plane]) for plane in drawn})
        )

    leader = next((row["entry"] for row in ranking if row["rank"] == 1), "")
    html = page.page(
        f"{dataset_info.name}: ranking",
        [
            page.heading(dataset_info.name, _facts(dataset_info, ranking), page.verdict(ranking)),
            page.ranking_section(ranking, colours),
            page.classes_section(ranking, dataset_info.labels, _svgs(by_class)),
            page.curves_section(_svgs(curves)),
            page.overlays_section(leader, figures.class_colours(names), shown),
            page.plans_section(plans),
            page.repeat_section(command, provenance),
        ],
    )
    for name, png in pngs.items():
        with atomic_path(out_dir / "figures" / f"{name}.png") as temporary:
            temporary.write_bytes(png)
    write_text(out_dir / "ranking.json", json.dumps(_without_nan(list(ranking)), indent=2) + "\n")
    write_text(out_dir / "ranking.md", ranking_markdown(ranking, dataset_info.labels))
    write_text(out_dir / "learning_curves.csv", learning_curves_csv(histories))
    write_text(out_dir / "index.html", html)


def read_history(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows of a `history.parquet` by training, keys as in "fold0_seed0", each sorted by epoch."""
    import pyarrow.parquet as pq

    trainings = defaultdict(list)
    for row in pq.read_table(path).to_pylist():
        trainings[f"fold{row['fold']}_seed{row['seed']}"].append(row)
    return {name: sorted(trainings[name], key=lambda row: row["epoch"]) for name in sorted(trainings)}


def learning_curves_csv(histories: Mapping[str, History]) -> str:
    """All trainings in one table with the columns `CURVE_COLUMNS`; a value that does not exist is empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CURVE_COLUMNS)
    for entry, trainings in histories.items():
        for training, rows in trainings.items():
            match = re.fullmatch(r"fold(\d+)_seed(\d+)", training)
            assert match, training
            writer.writerows([entry, *match.groups(), *(row.get(key) for key in CURVE_COLUMNS[3:])] for row in rows)
    return buffer.getvalue()


def class_points(
    scores: Mapping[str, Sequence[Row]], entries: Sequence[str], names: Sequence[str], measure: str
) -> list[figures.ClassPoint]:
    """Mean and bootstrap interval of every class and entry, over the out-of-fold cases that all entries predicted."""
    values: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    patients = {}
    predicted = defaultdict(set)
    for entry in entries:
        for row in scores.get(entry, ()):
            if row["split"] == OUT_OF_FOLD:
                predicted[entry].add(row["case_id"])
                patients[row["case_id"]] = row["patient"]
                if row[measure] is not None and math.isfinite(row[measure]):
                    values[entry, row["class_name"]][row["case_id"]].append(row[measure])
    common = set.intersection(*predicted.values()) if predicted else set()
    points = []
    for name in names:
        for entry in entries:
            cases = sorted(common & values[entry, name].keys())
            means = [math.fsum(values[entry, name][case]) / len(values[entry, name][case]) for case in cases]
            points.append(
                figures.ClassPoint(entry, name, *bootstrap_interval(means, [patients[case] for case in cases]))
            )
    return points


def _class_figures(
    scores: Mapping[str, Sequence[Row]], entries: Sequence[str], names: Sequence[str], colours: Mapping[str, str]
) -> Iterator[tuple[str, Figure]]:
    for measure, title in _CLASS_FIGURES.items():
        points = class_points(scores, entries, names, measure)
        if any(math.isfinite(point.mean) for point in points):
            yield f"class_{measure}", figures.class_scores(points, colours, title)


def _curve_figures(histories: Mapping[str, History], colours: Mapping[str, str]) -> Iterator[tuple[str, Figure]]:
    for key, title in _CURVES.items():
        curves = {}
        for entry, trainings in histories.items():
            measured = [_curve(rows, key) for rows in trainings.values()]
            if kept := [curve for curve in measured if len(curve[0])]:
                curves[entry] = kept
        if curves:
            yield f"curve_{key}", figures.learning_curves(curves, colours, title)


def _curve(rows: Sequence[Row], key: str) -> tuple[np.ndarray, np.ndarray]:
    found = [(row["epoch"], row[key]) for row in rows if row.get(key) is not None and math.isfinite(row[key])]
    return np.array([epoch for epoch, _ in found]), np.array([value for _, value in found])


def _overlay_figures(case: OverlayCase, class_values: Sequence[int]) -> dict[str, Figure]:
    return figures.overlay(case.image[0], case.reference, case.prediction, case.spacing_mm, class_values)


def _svgs(pictures: Mapping[str, Figure]) -> list[str]:
    return [figures.to_svg(figure, name) for name, figure in pictures.items()]


def _caption(case: OverlayCase) -> str:
    spacing = " × ".join(f"{side:.3g}" for side in case.spacing_mm)
    dice = f", mean Dice {format_score(case.dice)}" if case.dice is not None else ""
    return f"{case.caption.capitalize()} case: {case.case_id}{dice}, spacing {spacing} mm (z, y, x)"


def _facts(info: DatasetInfo, ranking: Sequence[Row]) -> list[str]:
    classes = [name for name, value in sorted(info.labels.items(), key=lambda item: item[1]) if value]
    facts = [f"channels: {', '.join(info.channels)}", f"classes: {', '.join(classes)}"]
    if ranking:
        facts.insert(0, f"{ranking[0]['num_cases']} cases of {ranking[0]['num_patients']} patients compared")
    return [*facts, info.description] if info.description else facts


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
