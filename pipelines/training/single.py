"""One training from its request to its weights, in this process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save
from torch import nn

from pipelines.atomic_files import atomic_path, write_text
from pipelines.tasks.lookup import task_of
from pipelines.tracking.events import EventLog
from pipelines.training.loop import train
from pipelines.training.world import World

if TYPE_CHECKING:
    from pipelines.training.folds import TrainingRequest

_ONE_PROCESS = World()


def default_device() -> torch.device:
    """The accelerator where there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def run_training(
    request: TrainingRequest,
    *,
    num_threads: int,
    shows_progress: bool,
    world: World = _ONE_PROCESS,
    device: torch.device | None = None,
    wrap: Callable[[nn.Module], nn.Module] | None = None,
) -> None:
    """Train, and leave `weights.safetensors` and `summary.json` in the request's folder.

    The weights come last: where they are, the training is finished. Interrupted at any moment, the same call goes on
    from the last checkpoint and ends with the same weights.

    Args:
        request: which training.
        num_threads: processor threads of this process.
        shows_progress: whether to draw a progress bar.
        world: this process among those that share the training.
        device: where to compute; None chooses.
        wrap: what makes the network data parallel; None for a process alone.
    """
    torch.set_num_threads(num_threads)
    plan = request.plan
    task = task_of(request.family).training(plan, request.cases, request.fold, request.seed, Path(request.folder))
    event_log = EventLog(request.events_path) if world.rank == 0 else None
    if event_log and not request.events_path.exists():
        event_log.append(
            "run_start",
            dataset=plan["dataset"],
            entry=plan["entry"],
            fold=request.fold,
            seed=request.seed,
            digest=request.digest,
            params={
                "fold": request.fold,
                "seed": request.seed,
                "optimizer": plan["optimizer"]["name"],
                "learning_rate": plan["optimizer"]["learning_rate"],
            },
        )
    started = time.monotonic()
    try:
        result = train(
            task,
            run_dir=Path(request.run_dir),
            seed=request.seed,
            optimizer=plan["optimizer"],
            schedule=plan["schedule"],
            clip_norm=plan["clip_norm"],
            keeps_best=plan.get("keeps_best", False),
            answers_collapse=plan.get("rescue", False),
            budget=plan["budget"],
            device=device or default_device(),
            world=world,
            event_log=event_log,
            description=request.name,
            wrap=wrap,
            shows_progress=shows_progress,
        )
    except ValueError:
        if event_log:
            event_log.append("run_end", status="failed", seconds=time.monotonic() - started)
        raise
    if event_log is None:
        return
    event_log.append("run_end", status="finished", seconds=result.seconds)
    num_parameters = sum(parameter.numel() for parameter in task.build_network().parameters())
    summary = {
        "num_parameters": num_parameters,
        "num_steps": result.num_steps,
        "seconds": result.seconds,
        "stopped_early": result.stopped_early,
        "kept_epoch": result.kept_epoch,
        "rescues": result.rescues,
        "history": result.history,
    }
    write_text(Path(request.run_dir) / "summary.json", json.dumps(summary) + "\n")
    # As bytes, because safetensors' own writer hides a full disk behind an error of its own.
    with atomic_path(request.weights_path) as temporary:
        temporary.write_bytes(save({name: tensor.contiguous() for name, tensor in result.network.items()}))
