"""From a source to a sound graph: everything the stage `cases` does for graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.cases.finding import Finding, Severity
from pipelines.cases.formats import planetoid
from pipelines.cases.formats.planetoid import RawGraph
from pipelines.cases.graph import SPLITS, UNKNOWN_CLASS, Graph, GraphInfo, write_graph
from pipelines.cases.integrity import conclude
from pipelines.cases.python_source import make_source


def collect_graph(source: str, name: str, out_dir: Path) -> None:
    """Check a graph and write cases.parquet, dataset.json and integrity.json.

    Args:
        source: a folder of Planetoid files, or a Python file whose `make(folder)` gives one.
        name: of the data set in the study; also of the graph, where the folder has several.
        out_dir: gets the files; integrity.json is written even where there are errors.

    Raises:
        IntegrityError: the graph has errors.
        ValueError: there is no graph at the source, or several and none of that name.
    """
    folder = _open(source, out_dir / "files")
    raw = planetoid.read(folder, _choose(source, folder, name))
    findings = check(raw)
    conclude(source, name, len(raw.classes), findings, out_dir / "integrity.json")
    write_graph(out_dir, tidy(raw, name))


def check(raw: RawGraph) -> list[Finding]:
    """Everything that is wrong with a graph, errors first."""
    num_nodes = len(raw.classes)
    links, training = raw.links, raw.classes[raw.splits == "train"]
    scored = raw.classes[np.isin(raw.splits, SPLITS[:3])]
    is_outside = (links < 0).any(axis=1) | (links >= num_nodes).any(axis=1)
    inside = links[~is_outside]
    num_loops = int((inside[:, 0] == inside[:, 1]).sum())
    linked = np.unique(inside[inside[:, 0] != inside[:, 1]])
    findings: list[tuple[Severity, str, int, str, str]] = [
        (
            "error",
            "link-outside",
            int(is_outside.sum()),
            f"links name nodes that are not among 0 to {num_nodes - 1}",
            "correct the list of neighbours",
        ),
        (
            "error",
            "feature-not-finite",
            int((~np.isfinite(raw.feature_values)).sum()),
            "features are NaN or infinite",
            "correct them, or leave them out",
        ),
        (
            "error",
            "feature-number",
            int(((raw.feature_columns < 0) | (raw.feature_columns >= raw.num_features)).sum()),
            f"features have a number outside 0 to {raw.num_features - 1}",
            "the files do not fit together: take all from one place",
        ),
        (
            "error",
            "class-unknown",
            int((scored == UNKNOWN_CLASS).sum()),
            "nodes that train, validate or test have no class",
            "take them out of the split",
        ),
        (
            "error",
            "class-untrained",
            raw.num_classes - len(np.unique(training[training != UNKNOWN_CLASS])),
            "classes have no training node and cannot be learned",
            "add one, or leave the classes out",
        ),
        (
            "warning",
            "loop",
            num_loops,
            "links lead from a node to itself",
            "nothing to do: they are left out, networks add their own",
        ),
        (
            "warning",
            "isolated",
            num_nodes - len(linked),
            "nodes have no link, so that only their own features can tell",
            "nothing to do, if they have none",
        ),
        (
            "warning",
            "no-features",
            num_nodes - len(np.unique(raw.feature_rows)),
            "nodes have no feature that is not 0, so that only their links can tell",
            "nothing to do, if they have none",
        ),
    ]
    return [
        Finding(severity, kind, "", (), f"{count} {message}", remedy)
        for severity, kind, count, message, remedy in findings
        if count
    ]


def tidy(raw: RawGraph, name: str) -> Graph:
    """A sound graph with each link once a direction and without loops, everything in order of nodes."""
    num_nodes = len(raw.classes)
    links = raw.links[raw.links[:, 0] != raw.links[:, 1]]
    both = np.concatenate([links, links[:, ::-1]])
    # Unique rows come sorted by target, then source.
    targets, sources = np.unique(both, axis=0).T.reshape(2, -1)
    is_entry = raw.feature_values != 0
    rows, columns, values = (part[is_entry] for part in (raw.feature_rows, raw.feature_columns, raw.feature_values))
    order = np.lexsort((columns, rows))
    return Graph(
        info=GraphInfo(
            name=name,
            labels={f"class_{value}": value for value in range(raw.num_classes)},
            num_features=raw.num_features,
            description=_description(raw.splits, num_nodes, len(sources) // 2),
        ),
        edges=np.stack([sources, targets]),
        feature_rows=rows[order],
        feature_columns=columns[order],
        feature_values=values[order].astype(np.float32),
        classes=raw.classes,
        splits=raw.splits,
    )


def _description(splits: NDArray[np.str_], num_nodes: int, num_links: int) -> str:
    counts = ", ".join(f"{int((splits == split).sum())} {split}" for split in SPLITS)
    return f"{num_nodes} nodes ({counts}), {num_links} links"


def _open(source: str, files_dir: Path) -> Path:
    path = Path(source)
    if not path.exists():
        raise ValueError(f"{source}: no such file or folder; set `source` to a folder of Planetoid files ind.NAME.*")
    return make_source(path, files_dir) if path.suffix == ".py" else path


def _choose(source: str, folder: Path, name: str) -> str:
    found = planetoid.names(folder)
    if name in found:
        return name
    if len(found) == 1:
        return found[0]
    there = f"it has {', '.join(found)}; call the data set by one of these names" if found else "it has none"
    raise ValueError(
        f"{source}: no graph called {name}: {there}. A graph is the eight files {', '.join(planetoid.file_names(name))}"
    )
