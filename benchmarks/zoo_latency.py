"""CPU latency of every architecture that takes images, at the setting and size of its line in docs/reference/zoo.md.

`python -m benchmarks.zoo_latency` measures all that have no figure yet, `--only NAME` these alone, and writes
benchmarks/results/zoo_latency.json after each: one image, evaluation mode, one thread, the median of the runs after the
first. `python -m pipelines.reporting.zoo --only` then writes the page.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import time
from typing import Any

from pipelines.atomic_files import write_text
from pipelines.reporting.zoo import LATENCY, main_setting
from pipelines.tracking.provenance import ROOT, git_commit, machine
from repro_models import registry

NUM_THREADS = 1
# After the first: so many runs, or as many as end within so many seconds, but two at least.
MOST_RUNS, MOST_SECONDS = 20, 4.0


def measure(name: str) -> dict[str, Any]:
    """Measure one architecture in this process."""
    import torch

    setting = main_setting(name)
    assert setting is not None
    torch.set_num_threads(NUM_THREADS)
    torch.manual_seed(0)
    network = setting.module.build(setting.config, setting.problem).eval()
    image = torch.randn(1, setting.problem.in_channels, *setting.size)
    seconds: list[float] = []
    with torch.inference_mode():
        network(image)
        while len(seconds) < 2 or (len(seconds) < MOST_RUNS and sum(seconds) < MOST_SECONDS):
            started = time.perf_counter()
            network(image)
            seconds.append(time.perf_counter() - started)
    return {
        "size": list(setting.size),
        "median_ms": round(statistics.median(seconds) * 1000, 2),
        "fastest_ms": round(min(seconds) * 1000, 2),
        "num_runs": len(seconds),
        "commit": git_commit(),
    }


def main() -> None:
    """Measure, each architecture in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--in-this-process", metavar="NAME", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_this_process:
        print(json.dumps(measure(arguments.in_this_process)))
        return
    result = json.loads(LATENCY.read_text(encoding="utf-8")) if LATENCY.exists() else {"architectures": {}}
    with_images = [name for name in registry.names() if main_setting(name) is not None]
    missing = [name for name in with_images if name not in result["architectures"]]
    wanted = [registry.full_name(name) for name in arguments.only] if arguments.only else missing
    for name in wanted:
        command = [sys.executable, "-m", "benchmarks.zoo_latency", "--in-this-process", name]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        result["architectures"][name] = json.loads(ended.stdout.splitlines()[-1])
        print(name, result["architectures"][name])
        head = {
            "command": "python -m benchmarks.zoo_latency",
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine(),
            "num_threads": NUM_THREADS,
        }
        rows = dict(sorted(result["architectures"].items()))
        write_text(LATENCY, json.dumps(head | {"architectures": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
