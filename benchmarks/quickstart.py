"""The quickstart's figures: `python -m benchmarks.quickstart` (run on an idle machine, after `make repro` installed).

Clones the committed state, runs `make repro` there with this checkout's environment, and `dvc repro` once more.
Start-up is what is left of `make repro` when the work is taken away: a second clone runs the same graph of the same
entries, search included, on four of the cases for one step. That run still does a little work, so the share stated is
an upper bound.

With a folder, the first clone is made there and stays, to be looked at: `python -m benchmarks.quickstart FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import yaml

from benchmarks.process_tree import Measured, measure
from pipelines.atomic_files import write_text
from pipelines.tracking.provenance import ROOT, git_commit, machine

# Two cases a fold: a search trains on one and validates on the other.
_FOUR_CASES = '''"""The quickstart's cohort, four cases of it."""
from dataclasses import replace
from pipelines.cases.sources import embedded_cohort

def make(folder):
    embedded_cohort.GROUPS = (replace(embedded_cohort.GROUPS[0], training=(1, 3, 7, 9), test=()),)
    return embedded_cohort.make(folder)
'''


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="where the run stays; does not exist yet")
    kept = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as name:
        clone = _clone(kept or Path(name) / "quickstart")
        commit = git_commit()  # of what was cloned; files may be edited while this runs
        first = _make_repro(clone)
        again = measure([str(ROOT / ".venv/bin/dvc"), "repro"], clone, clone / "again.log", {})
        assert "Running stage" not in (clone / "again.log").read_text(), "the second run ran a stage"
        training_s = 0.0
        for path in sorted((clone / "models").glob("*/*/model.json")):
            training_s += max(item["seconds"] for item in json.loads(path.read_text())["trainings"])
        ranking = json.loads(next((clone / "reports").glob("*/ranking.json")).read_text())
        start_up = _make_repro(_without_work(_clone(Path(name) / "start_up")))
    result = {
        "command": "python -m benchmarks.quickstart",
        "commit": commit,
        "machine": machine(),
        "wall_s": round(first.wall_s, 1),
        "start_up_s": round(start_up.wall_s, 1),
        "start_up_share": round(start_up.wall_s / first.wall_s, 3),
        "training_loops_s": round(training_s, 1),
        "peak_memory_gib": round(first.peak_gib, 2),
        "second_dvc_repro_s": round(again.wall_s, 1),
        "dice": {row["entry"]: row["score"] for row in ranking},
    }
    write_text(ROOT / "benchmarks/results/quickstart.json", json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _clone(folder: Path) -> Path:
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    # Installed is installed: the clone's files are younger, but ask for the same packages.
    (ROOT / ".venv/.installed").touch()
    return folder


def _make_repro(clone: Path) -> Measured:
    return measure(["make", "repro"], clone, clone / "repro.log", {"PYTHONPATH": str(clone)})


def _without_work(clone: Path) -> Path:
    study = yaml.safe_load((clone / "params.yaml").read_text())
    (clone / "four_cases.py").write_text(_FOUR_CASES)
    study["datasets"]["quickstart"]["source"] = "four_cases.py"
    study["budget"] |= {"steps": 1, "steps_per_epoch": 1, "validation_steps": 1}
    study["tuning"] |= {"trials": study["split"]["num_folds"], "steps": 1}
    (clone / "params.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return clone


if __name__ == "__main__":
    main()
