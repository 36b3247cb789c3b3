"""Memory of a training step: what planning predicts beside what a fresh process takes.

`python -m benchmarks.memory_estimate` prints a table and writes benchmarks/results/memory_estimate.json. Each step is
predicted in one process and taken in two others, with one torch thread: once as any training is, and once with an
allocator that gives every freed block back at once. The second says how much of the difference is operations' own
memory; the rest of the first is what the allocator keeps, and the processor time of both says what giving it back
costs. Measured is the growth of the resident memory from just before the network is built to its peak over three steps,
after a step of a tiny network that loads all libraries. All figures are MiB.
Where there is a GPU, the peak of its allocated memory is measured too.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from pipelines.atomic_files import write_text
from pipelines.tracking.provenance import ROOT, git_commit, machine

NUM_STEPS = 3
NUM_CLASSES = 3
OPTIMIZER = {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-2}
# Blocks of 64 KiB and more go back to the system when they are freed.
TIGHT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0"}
_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Case:
    """A step: architecture, variant, patch, batch."""

    architecture: str
    variant: str | None
    patch_size: tuple[int, ...]
    batch_size: int


CASES = {
    "nnunet small 3D": Case("nnunet", "small", (64, 64, 64), 2),
    "nnunet small 2D": Case("nnunet", "small", (256, 256), 8),
    "nnunet residual_small 3D": Case("nnunet", "residual_small", (64, 64, 64), 2),
    "nnunet residual_small 2D": Case("nnunet", "residual_small", (256, 256), 8),
    "nnunet, plan of Hippocampus": Case("nnunet", None, (40, 56, 40), 9),
    "unet_3d small": Case("unet_3d", "small", (64, 64, 64), 2),
    "unetr small 3D": Case("unetr", "small", (64, 64, 64), 2),
    "unetr small 2D": Case("unetr", "small", (256, 256), 8),
    "swin_unetr small 3D": Case("swin_unetr", "small", (64, 64, 64), 2),
    "swin_unetr small 2D": Case("swin_unetr", "small", (256, 256), 8),
}


def all_cases() -> dict[str, Case]:
    """`CASES`, and the variant `small` of every other segmentation network, in the dimensions it was made for."""
    from repro_models import registry

    found = dict(CASES)
    for name in registry.names():
        family, architecture = name.split("/")
        if family == "segmentation" and architecture not in {case.architecture for case in CASES.values()}:
            dims = registry.load(name).VARIANTS["small"].problem.spatial_dims
            size, batch = ((128, 128), 4) if dims == 2 else ((32, 32, 32), 2)
            found[f"{architecture} small {dims}D"] = Case(architecture, "small", size, batch)
    return found


def _network(case: Case) -> tuple[ModuleType, Any, Any]:
    from pipelines.planning.topology import topology
    from repro_models import registry
    from repro_models.contract import Problem

    module = registry.load(f"segmentation/{case.architecture}")
    config = module.VARIANTS[case.variant].config if case.variant else module.Config()
    if hasattr(module, "with_topology"):
        chosen = topology((1.0,) * len(case.patch_size), case.patch_size)
        assert chosen.patch_size == case.patch_size
        config = module.with_topology(config, chosen.strides, chosen.kernel_sizes)
    if hasattr(module, "with_patch_size"):
        config = module.with_patch_size(config, case.patch_size)
    return module, config, Problem(len(case.patch_size), 1, NUM_CLASSES)


def _batch(case: Case, device: str = "cpu") -> dict[str, Any]:
    import torch

    size = (case.batch_size, *case.patch_size)
    image = torch.randn(case.batch_size, 1, *case.patch_size, device=device)
    return {"image": image, "target": torch.randint(0, NUM_CLASSES, size, device=device)}


def _loss(network: Any, batch: dict[str, Any]) -> Any:
    from pipelines.tasks.segmentation_loss import segmentation_loss_terms

    return sum(segmentation_loss_terms(network, batch, is_batch_dice=False))


def predicted(case: Case, device: str) -> dict[str, Any]:
    """MiB by kind, and nnU-Net's estimate beside them."""
    from pipelines.planning.memory import conv_elements
    from pipelines.planning.presets import PRESETS, REFERENCE_BATCH
    from pipelines.planning.shapes import shapes_only
    from pipelines.planning.step_memory import resident_bytes, step_memory

    module, config, problem = _network(case)
    memory = step_memory(
        lambda: module.build(config, problem), lambda: _batch(case), _loss, optimizer=OPTIMIZER, device=device
    )
    started = time.process_time()
    step_memory(lambda: module.build(config, problem), lambda: _batch(case), _loss, optimizer=OPTIMIZER, device=device)
    seconds = time.process_time() - started
    with shapes_only():
        network = module.build(config, problem)
    dims, rule = len(case.patch_size), PRESETS["plain"]
    share = conv_elements(network, problem.in_channels, case.patch_size) / rule.elements[dims]
    return {
        "predicted_mib": round(memory.total / _MIB, 1),
        "resident_mib": round(resident_bytes(memory.total) / _MIB, 1),
        "split_mib": {kind: round(size / _MIB, 1) for kind, size in dataclasses.asdict(memory).items()},
        "nnunet_estimate_mib": round(share * case.batch_size / REFERENCE_BATCH[dims] * rule.memory_gib * 2**10, 1),
        "predicted_in_cpu_s": round(seconds, 2),
    }


def _take_steps(case: Case, device: str) -> None:
    import torch

    from pipelines.planning.precision import autocast, place
    from pipelines.training.optimizer import build_optimizer

    module, config, problem = _network(case)
    network = place(module.build(config, problem), torch.device(device)).train()
    optimizer = build_optimizer(network.named_parameters(), **OPTIMIZER)
    batch = _batch(case, device)
    for _ in range(NUM_STEPS):
        optimizer.zero_grad(set_to_none=True)
        with autocast(torch.device(device)):
            loss = _loss(network, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimizer.step()


def _tiny(case: Case) -> Case:
    """The smallest network of the architecture, on images of about 32 a side."""
    from pipelines.planning.patch import legal_patch
    from repro_models import registry

    module, dims = registry.load(f"segmentation/{case.architecture}"), len(case.patch_size)
    rules = module.CONSTRAINTS.per_axis(module.VARIANTS["tiny"].config, dims)
    return dataclasses.replace(case, variant="tiny", patch_size=legal_patch((32,) * dims, *rules), batch_size=2)


def _status_bytes(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 2**10


def measured(case: Case, device: str) -> dict[str, float]:
    """Growth of the resident memory, or of a GPU's allocated memory, MiB."""
    import torch

    torch.set_num_threads(1)
    _take_steps(_tiny(case), device)
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        _take_steps(case, device)
        return {"measured_mib": round(torch.cuda.max_memory_allocated() / _MIB, 1)}
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, started = _status_bytes("VmRSS"), time.process_time()
    _take_steps(case, device)
    return {
        "measured_mib": round((_status_bytes("VmHWM") - before) / _MIB, 1),
        "steps_in_cpu_s": round(time.process_time() - started, 2),
    }


_SIDES: dict[str, Callable[[Case, str], dict[str, Any]]] = {"predicted": predicted, "measured": measured}


def _in_process(side: str, name: str, device: str, environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory_estimate", "--side", side]
    command += ["--case", name, "--device", device]
    process = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, check=True, text=True
    )
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Predict, measure, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=_SIDES)
    parser.add_argument("--case", choices=(cases := all_cases()))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(_SIDES[arguments.side](cases[arguments.case], arguments.device)))
        return
    import torch

    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    tables: dict[str, dict[str, Any]] = {device: {} for device in devices}
    for device, table in tables.items():
        print(
            f"{device:28} {'predicted':>10} {'resident':>10} {'measured':>10} {'ratio':>6} {'tight':>8} {'ratio':>6}",
            flush=True,
        )
        for name in [arguments.case] if arguments.case else cases:
            row = _in_process("predicted", name, device, {}) | _in_process("measured", name, device, {})
            row["predicted_over_measured"] = round(row["predicted_mib"] / row["measured_mib"], 3)
            row["resident_over_measured"] = round(row["resident_mib"] / row["measured_mib"], 3)
            tight = _in_process("measured", name, device, TIGHT) if device == "cpu" else row
            row |= {f"{key}_tight": tight[key] for key in ("measured_mib", "steps_in_cpu_s") if key in tight}
            row["predicted_over_tight"] = round(row["predicted_mib"] / row["measured_mib_tight"], 3)
            table[name] = dataclasses.asdict(cases[name]) | row
            print(
                f"{name:28} {row['predicted_mib']:10.1f} {row['resident_mib']:10.1f} {row['measured_mib']:10.1f} "
                f"{row['resident_over_measured']:6.2f} {row['measured_mib_tight']:8.1f} "
                f"{row['predicted_over_tight']:6.2f}   {row['predicted_in_cpu_s']} CPU s; steps "
                f"{row.get('steps_in_cpu_s')}, tight {row.get('steps_in_cpu_s_tight')} CPU s",
                flush=True,
            )
    if arguments.case:
        return
    result = {
        "command": "python -m benchmarks.memory_estimate",
        "commit": git_commit(),
        "machine": machine(),
        "num_threads": 1,
        "num_steps": NUM_STEPS,
        "tight_allocator": TIGHT,
        "gpu": "measured" if "cuda" in tables else "not measured: no GPU",
        **tables,
    }
    write_text(ROOT / "benchmarks/results/memory_estimate.json", json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
