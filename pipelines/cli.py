"""The `repro` command. Each subcommand imports what it needs, so `--help` answers at once."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipelines.exits import exits_cleanly


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    """Entry point of `repro`."""
    parser = _parser()
    options = parser.parse_args(arguments)
    options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="repro", description="Compare architectures on your data. Studies run by `dvc repro`."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: object, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    check = add("check", _check, "check a data set and list everything that is wrong with it")
    check.add_argument("source", help="folder, CSV manifest, or a Python source file; see docs/how-to/own-data.md")
    check.add_argument("--json", action="store_true", help="one JSON document with every finding, for machines")
    plan = add("plan", _plan, "show how an architecture would be configured for a data set, and why")
    plan.add_argument(
        "data",
        metavar="DATA",
        help="a data set of params.yaml whose stages cases and fingerprint have run, or a folder with a fingerprint: "
        "fingerprints/NAME, or nnU-Net's dataset_fingerprint.json and dataset.json",
    )
    plan.add_argument(
        "--architecture",
        metavar="NAME",
        help="an entry of params.yaml or an architecture; default: all entries, for a folder nnunet",
    )
    plan.add_argument("--planner", metavar="NAME", help="house, or nnunet for nnU-Net's numbers; default: the entry's")
    plan.add_argument("--preset", metavar="NAME", help="plain, M, L or XL of nnU-Net; default: the entry's")
    plan.add_argument("--memory-gib", metavar="GIB", type=float, help="default: budget.memory_gib, or the preset's")
    plan.add_argument("--explain", action="store_true", help="each decision with its reason")
    plan.add_argument("--json", action="store_true", help="everything as JSON")
    models = add("models", _models, "list the architectures with their published sizes; `count` counts one")
    counting = models.add_subparsers(metavar="count")
    text = "count parameters and operations of an architecture and show the shapes of its outputs; builds no weights"
    count = counting.add_parser("count", help=text, description=text)
    count.set_defaults(run=_count)
    count.add_argument("name", metavar="NAME", help="an architecture, with its family or without")
    count.add_argument("--variant", metavar="V", help="a published size; default: the paper's main setting")
    count.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        dest="settings",
        help="fields of the architecture's Config, as deep_supervision=true features=[32,64]",
    )
    count.add_argument("--channels", type=_above_zero, metavar="N", help="of the image, of a graph its features")
    count.add_argument(
        "--classes",
        type=_above_zero,
        metavar="N",
        help="background included, of sequences the tokens of the vocabulary",
    )
    count.add_argument("--dims", type=int, choices=(2, 3), help="default: as many as --size has sides")
    count.add_argument(
        "--size", type=_sides, metavar="Y,X", help="sides of the image, as 256,256; or tokens of a sequence"
    )
    count.add_argument("--json", action="store_true", help="everything as JSON")
    show = add("show", _show, "print the result table of a study and where its report is")
    show.add_argument("dataset", nargs="?", help="default: all data sets of params.yaml")
    add("sync", _sync, "tell MLflow everything the files know: trainings, results, pictures")
    ui = add("ui", _ui, "serve the MLflow pages of this study")
    ui.add_argument("--port", type=int, default=5000)
    return parser


def _check(options: argparse.Namespace) -> None:
    import contextlib
    import json
    import tempfile

    from pipelines.cases.collect import open_source
    from pipelines.cases.finding import as_lines, count_text, report_of
    from pipelines.cases.integrity import check

    # A Python source may print, and standard output is the document's alone.
    quiet = contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext()
    with tempfile.TemporaryDirectory() as folder, quiet:
        raw = open_source(options.source, Path(folder))
        findings = check(raw)
    if options.json:
        print(json.dumps(report_of(options.source, len(raw.entries), findings), indent=2))
    else:
        for line in as_lines(findings):
            print(line)
        print(f"{options.source}: {len(raw.entries)} cases, {count_text(findings)}")
    if any(finding.severity == "error" for finding in findings):
        raise SystemExit(1)


def _plan(options: argparse.Namespace) -> None:
    import json

    from pipelines.tasks.plan_preview import previews

    shown = previews(options.data, options.architecture, options.planner, options.preset, options.memory_gib)
    if options.json:
        values = [preview.values() for preview in shown]
        print(json.dumps(values[0] if len(values) == 1 else values, indent=2))
        return
    for preview in shown:
        print("\n".join(preview.lines(options.explain)))


def _models(_: argparse.Namespace) -> None:
    from repro_models import registry

    for name in registry.names():
        module = registry.load(name)
        print(f"{name}: {module.PAPER.title} ({module.PAPER.year}), {module.PAPER.address}")
        for variant, described in module.VARIANTS.items():
            count = f"{described.num_parameters:,} parameters" if described.num_parameters else "not counted"
            print(f"  {variant}: {count} ({described.source})")


def _count(options: argparse.Namespace) -> None:
    import dataclasses
    import json

    from pipelines.planning.count import count

    counted = count(
        options.name,
        variant=options.variant,
        settings=options.settings,
        in_channels=options.channels,
        num_classes=options.classes,
        spatial_dims=options.dims,
        size=options.size,
    )
    print(json.dumps(dataclasses.asdict(counted), indent=2) if options.json else "\n".join(counted.lines()))


def _above_zero(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: it must be 1 or more")
    return number


def _sides(text: str) -> tuple[int, ...]:
    sides = tuple(int(side) for side in text.split(","))
    if len(sides) > 3 or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give up to three whole numbers above 0, as 256,256")
    return sides


def _show(options: argparse.Namespace) -> None:
    import json

    from pipelines.params import read_params
    from pipelines.reporting.comparison import Comparison
    from pipelines.reporting.tables import ranking_text
    from pipelines.tasks.lookup import task_of

    study = read_params()
    for dataset in [options.dataset] if options.dataset else study.datasets:
        report = Path("reports") / dataset
        if not (report / "ranking.json").exists():
            raise ValueError(f"{report}: no report yet; run `dvc repro` first")
        ranking = json.loads((report / "ranking.json").read_text(encoding="utf-8"))
        print(ranking_text(ranking, Comparison.of_ranking(task_of(study.family), ranking)))
        print(f"\nreport: {(report / 'index.html').resolve().as_uri()}")
    print("MLflow: run `repro ui`, then open http://127.0.0.1:5000")


def _sync(_: argparse.Namespace) -> None:
    from pipelines.params import read_params
    from pipelines.reporting.compare import tell_ranking
    from pipelines.tracking.description import describe_model
    from pipelines.tracking.mlflow_run import open_store, resolve_uri, sync_training
    from pipelines.tracking.trials import sync_trials

    study = read_params()
    uri = resolve_uri(study.tracking.uri)
    if uri is None:
        raise ValueError(
            "tracking.uri is none in params.yaml; give an address, or null for MLFLOW_TRACKING_URI or a file"
        )
    for dataset in study.datasets:
        models = Path("models") / dataset
        for entry in study.architectures:
            if not (models / entry / "model.json").exists():
                print(f"{models / entry}: not trained yet, nothing to tell")
                continue
            description = describe_model(models / entry, study.datasets[dataset].source)
            events = sorted((models / entry / "events").glob("*.jsonl"))
            store = open_store(uri, dataset)
            sync_training(store, description, events, is_live=False)
            tuned = Path("tuned") / dataset / entry
            num_trials = sync_trials(store, description, tuned) if tuned.exists() else 0
            print(f"{models / entry}: {len(events)} trainings told" + (f", {num_trials} trials" if num_trials else ""))
        if (Path("reports") / dataset / "ranking.json").exists():
            tell_ranking(study, models, Path("reports") / dataset)


def _ui(options: argparse.Namespace) -> None:
    import os

    from pipelines.params import read_params
    from pipelines.tracking.mlflow_pages import APP_NAME
    from pipelines.tracking.mlflow_run import resolve_uri

    uri = resolve_uri(read_params().tracking.uri)
    if uri is None:
        raise ValueError("tracking.uri is none in params.yaml; there is no MLflow to show")
    if uri.startswith("http"):
        print(f"MLflow is served at {uri}")
        return
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        uri,
        "--port",
        str(options.port),
        "--workers",
        "1",
        "--app-name",
        APP_NAME,
    ]
    environment = dict(os.environ, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_DISABLE_TELEMETRY="true")
    print(f"MLflow: http://127.0.0.1:{options.port} (Ctrl-C ends it)", flush=True)
    # In place of this process, so that whatever ends it ends the server and not only who waits for it.
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    main()
