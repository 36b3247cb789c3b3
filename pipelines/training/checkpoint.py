"""The state of a training on disk: all that is needed to go on as if nothing had happened."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipelines.atomic_files import atomic_path
from pipelines.training.progress import Progress

STATE_FILE = "state.pt"


def save_state(
    run_dir: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    device: torch.device,
    best_network: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write `run_dir/state.pt`, whole or not at all; `best_network` is the state dict of the best epoch, if kept."""
    state = {
        "network": network.state_dict(),
        "best_network": best_network,
        "optimizer": optimizer.state_dict(),
        "progress": progress.values(),
        "torch_random": torch.get_rng_state(),
        "cuda_random": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }
    # Through a Python file, because torch's own writer hides a full disk behind a RuntimeError.
    with atomic_path(run_dir / STATE_FILE) as temporary, temporary.open("wb") as file:
        torch.save(state, file)


def load_state(run_dir: Path, is_mapped: bool = False) -> dict[str, Any] | None:
    """Read `run_dir/state.pt` to the CPU; None when there is none.

    Keys: `network`, `optimizer` (state dicts), `best_network` (state dict of the best epoch, None where it is not
    kept), `progress` (values of `Progress`), `torch_random`, `cuda_random` (generator states; the latter None without
    CUDA). Only tensors and plain values are read, never code.

    Args:
        run_dir: folder of the training.
        is_mapped: leave the tensors on disk until they are used.

    Raises:
        ValueError: the file is damaged.
    """
    path = run_dir / STATE_FILE
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: damaged training state; delete the file to train this run from the start") from error
    return state


def restore_state(
    state: dict[str, Any], network: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> Progress:
    """Put a loaded state into `network`, `optimizer` and torch's generators; give its counters."""
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["torch_random"])
    if device.type == "cuda" and state["cuda_random"] is not None:
        torch.cuda.set_rng_state(state["cuda_random"], device)
    return Progress.from_values(state["progress"])


def is_finished(run_dir: Path) -> bool:
    """Whether the training in `run_dir` has come to its end; its weights are not read."""
    state = load_state(run_dir, is_mapped=True)
    return state is not None and bool(state["progress"]["is_finished"])
