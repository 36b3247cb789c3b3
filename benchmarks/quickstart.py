"""The quickstart's figures: `python -m benchmarks.quickstart` (run on an idle machine, after `make repro` installed).

Clones the committed state, runs `make repro` there with this checkout's environment, then `dvc repro` once more, and
writes benchmarks/results/quickstart.json. Everything but the training loops counts as start-up: imports, Ray, DVC,
but also making, preparing and evaluating the cases, so the share stated is an upper bound.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from benchmarks.process_tree import measure
from pipelines.atomic_files import write_text
from pipelines.tracking.provenance import ROOT, git_commit, machine


def main() -> None:
    """Measure, print, write."""
    with tempfile.TemporaryDirectory() as name:
        clone = Path(name) / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        (clone / ".venv").symlink_to(ROOT / ".venv")
        # Installed is installed: the clone's files are younger, but ask for the same packages.
        (ROOT / ".venv/.installed").touch()
        first = measure(["make", "repro"], clone, Path(name) / "first.log", {"PYTHONPATH": str(clone)})
        again = measure([str(ROOT / ".venv/bin/dvc"), "repro"], clone, Path(name) / "again.log", {})
        assert "Running stage" not in (Path(name) / "again.log").read_text(), "the second run ran a stage"
        training_s = 0.0
        for path in sorted((clone / "models").glob("*/*/model.json")):
            training_s += max(item["seconds"] for item in json.loads(path.read_text())["trainings"])
        ranking = json.loads(next((clone / "reports").glob("*/ranking.json")).read_text())
    result = {
        "command": "python -m benchmarks.quickstart",
        "commit": git_commit(),
        "machine": machine(),
        "wall_s": round(first.wall_s, 1),
        "training_loops_s": round(training_s, 1),
        "share_outside_training_loops": round(1 - training_s / first.wall_s, 3),
        "peak_memory_gib": round(first.peak_gib, 2),
        "second_dvc_repro_s": round(again.wall_s, 1),
        "dice": {row["entry"]: row["dice"] for row in ranking},
    }
    write_text(ROOT / "benchmarks/results/quickstart.json", json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
