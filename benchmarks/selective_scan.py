"""Selective scan: this project's, two plain loops, mambapy's and that of transformers in turn, each in its interpreter.

`python -m benchmarks.selective_scan` prints milliseconds and ratios, and writes benchmarks/results/selective_scan.json.
All sides get the same numbers, in the layout that each asks for, and must agree in outputs and gradients. One that
needs more than a minute at a size is left out there, which the result says; a loop that indexes the steps of one tensor
may, because each index gives its gradient as a tensor of the whole length. mambapy is installed where it is not yet,
into `work/peers/mambapy`, apart from this project's packages.

    loop           steps taken apart once, one after the other
    indexing loop  steps indexed where they are used, as published reference code does
    mambapy        its `pscan`, between the same discretisation and contraction
    transformers   its `mamba_selective_scan`, by its loop and by mambapy
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PINS = Path(__file__).with_name("mambapy.lock")
ROUNDS = 3
# In each round: so many runs after the first, or as many as end within so many seconds; the first alone where it takes
# longer than that.
MOST_RUNS, MOST_SECONDS = 20, 5.0
# A run forward and backward, and what an interpreter takes to start.
LIMIT_S, START_S = 60.0, 30.0
NUM_STATES = 16


@dataclass(frozen=True)
class Size:
    """Of the inputs: B, L and E."""

    batch: int
    steps: int
    channels: int

    @property
    def name(self) -> str:
        """As the result has it."""
        return f"{self.batch}x{self.steps}x{self.channels}"


SIZES = (Size(1, 512, 192), Size(1, 2048, 768), Size(2, 4096, 32))


def inputs(size: Size) -> list[Any]:
    """u, delta, a, b, c, d as a network has them at its start: steps from 0.001 to 0.1, A from -1 to -N."""
    import torch

    draw = torch.Generator().manual_seed(0)
    sequence, shared = (size.batch, size.steps, size.channels), (size.batch, size.steps, NUM_STATES)
    u, b, c = (torch.randn(shape, generator=draw) for shape in (sequence, shared, shared))
    delta = 10 ** (2 * torch.rand(sequence, generator=draw) - 3)
    a = -torch.arange(1.0, NUM_STATES + 1).repeat(size.channels, 1)
    return [x.requires_grad_() for x in (u, delta, a, b, c, torch.ones(size.channels))]


def ours(u: Any, delta: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Outputs (B, L, E)."""
    from repro_models.blocks.selective_scan import selective_scan

    return selective_scan(u, delta, a, b, c, d)


def loop(u: Any, delta: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Outputs (B, L, E)."""
    import torch

    decays = torch.exp(delta.unsqueeze(-1) * a).unbind(1)
    state, states = torch.zeros_like(decays[0]), []
    for decay, entering in zip(decays, ((delta * u).unsqueeze(-1) * b.unsqueeze(2)).unbind(1), strict=True):
        state = torch.addcmul(entering, decay, state)
        states.append(state)
    return (torch.stack(states, 1) @ c.unsqueeze(-1)).squeeze(-1) + d * u


def indexing_loop(u: Any, delta: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Outputs (B, L, E)."""
    import torch

    decays = torch.einsum("ble,en->beln", delta, a).exp()
    entering = torch.einsum("ble,bln,ble->beln", delta, b, u)
    outputs: list[Any] = []
    state: Any = 0
    for step in range(u.shape[1]):
        state = decays[:, :, step] * state + entering[:, :, step]
        outputs.append(torch.einsum("ben,bn->be", state, c[:, step]))
    return torch.stack(outputs, 1) + d * u


def mambapy(u: Any, delta: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Outputs (B, L, E)."""
    import torch
    from mambapy.pscan import pscan

    states = pscan(torch.exp(delta.unsqueeze(-1) * a), (delta * u).unsqueeze(-1) * b.unsqueeze(2))
    return (states @ c.unsqueeze(-1)).squeeze(-1) + d * u


def transformers(u: Any, delta: Any, a: Any, b: Any, c: Any, d: Any, use_mambapy: bool = False) -> Any:
    """Outputs (B, L, E)."""
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    u, delta, b, c = (x.transpose(1, 2) for x in (u, delta, b, c))
    return mamba_selective_scan(u, delta, a, b, c, D=d, use_mambapy=use_mambapy).transpose(1, 2)


def transformers_mambapy(u: Any, delta: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Outputs (B, L, E)."""
    import mambapy.pscan  # noqa: F401 - without it transformers takes the loop and says nothing

    return transformers(u, delta, a, b, c, d, use_mambapy=True)


@dataclass(frozen=True)
class Side:
    """Something to measure: a scan, and the number of torch threads."""

    scan: Callable[..., Any]
    num_threads: int = 1


SIDES = {
    "ours": Side(ours),
    "ours, 2 threads": Side(ours, 2),
    "loop": Side(loop),
    "indexing loop": Side(indexing_loop),
    "mambapy": Side(mambapy),
    "transformers": Side(transformers),
    "transformers, mambapy": Side(transformers_mambapy),
}


def measure(side: Side, size: Size) -> dict[str, Any]:
    """Milliseconds forward, and forward and backward, in this process."""
    import torch

    torch.set_num_threads(side.num_threads)
    tensors = inputs(size)

    def forward() -> None:
        with torch.no_grad():
            side.scan(*tensors)

    def both() -> list[Any]:
        y = side.scan(*tensors)
        return [y, *torch.autograd.grad(y.sum(), tensors)]

    side.scan(*inputs(Size(1, 8, 4)))  # imports
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    results = both()
    seconds = time.perf_counter() - started
    return {
        "forward_ms": _median_ms(forward),
        "both_ms": _median_ms(both) if seconds < MOST_SECONDS else seconds * 1000,
        "grown_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10,
        "found": [x.detach().double().abs().mean().item() for x in results],
    }


def _median_ms(run: Callable[[], object]) -> float:
    seconds: list[float] = []
    while not seconds or (len(seconds) < MOST_RUNS and sum(seconds) < MOST_SECONDS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1000


def install_mambapy() -> Path:
    """The folder that has mambapy; installs it, which takes seconds and the package index, where it is not yet.

    Raises:
        subprocess.CalledProcessError: the installation failed; what it printed says why.
    """
    from pipelines.tracking.provenance import ROOT

    folder = ROOT / "work/peers/mambapy"
    done = folder / PINS.name
    if not done.exists() or done.read_bytes() != PINS.read_bytes():
        command = ["uv", "pip", "install", "--quiet", "--no-deps", "--python", sys.executable, "--target", str(folder)]
        subprocess.run([*command, "--requirement", str(PINS)], check=True)
        done.write_bytes(PINS.read_bytes())
    return folder


def _in_its_interpreter(name: str, size: Size, peers: Path) -> dict[str, Any] | None:
    """What `measure` gives, or None where a run takes longer than the limit."""
    from pipelines.tracking.provenance import ROOT

    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.selective_scan", "--side", name, "--size", size.name]
    environment = {**os.environ, "PYTHONPATH": str(peers), "OMP_NUM_THREADS": str(SIDES[name].num_threads)}
    try:
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            check=True,
            text=True,
            timeout=START_S + LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return None
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return result


def measure_all(peers: Path) -> dict[str, dict[str, Any]]:
    """By size and side: medians over the rounds, None where a run takes longer than the limit."""
    import numpy as np

    table: dict[str, dict[str, Any]] = {}
    for size in SIZES:
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in SIDES}
        slow: set[str] = set()
        for _ in range(ROUNDS):
            for name in SIDES:
                run = None if name in slow else _in_its_interpreter(name, size, peers)
                if run is None:
                    slow.add(name)
                    continue
                print(size.name, name, {key: round(run[key], 2) for key in ("forward_ms", "both_ms")}, flush=True)
                runs[name].append(run)
        expected = runs["ours"][0]["found"]
        rows: dict[str, Any] = {}
        for name, done in runs.items():
            if name in slow:
                rows[name] = None
                print(size.name, name, f"left out: more than {LIMIT_S:.0f} s")
                continue
            np.testing.assert_allclose(done[0]["found"], expected, rtol=1e-3, err_msg=f"{size.name} {name}")
            rows[name] = {
                key: round(statistics.median(run[key] for run in done), 2)
                for key in ("forward_ms", "both_ms", "grown_mib")
            }
        for row in rows.values():
            if row is not None:
                row["over_ours"] = round(row["both_ms"] / rows["ours"]["both_ms"], 3)
        table[size.name] = rows
    return table


def main() -> None:
    """Measure, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--size", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(SIDES[arguments.side], Size(*map(int, arguments.size.split("x"))))))
        return
    from importlib.metadata import version

    from pipelines.atomic_files import write_text
    from pipelines.tracking.provenance import ROOT, git_commit, machine

    peers = install_mambapy()
    pinned = PINS.read_text(encoding="utf-8").split("mambapy==")[1].strip()
    versions = {"transformers": version("transformers"), "mambapy": pinned}
    result = {
        "command": "python -m benchmarks.selective_scan",
        "commit": git_commit(),
        "machine": {**machine(), **versions},
        "num_states": NUM_STATES,
        "median_of": ROUNDS,
        "limit_s": LIMIT_S,
        "sizes": measure_all(peers),
    }
    write_text(ROOT / "benchmarks/results/selective_scan.json", json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
