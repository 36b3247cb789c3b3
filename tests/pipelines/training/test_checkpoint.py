from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipelines.training.checkpoint import STATE_FILE, is_finished, load_state, restore_state, save_state
from pipelines.training.progress import Progress

CPU = torch.device("cpu")


def _parts(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    network = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    return network, optimizer


def test_everything_comes_back(tmp_path: Path) -> None:
    network, optimizer = _parts(0)
    progress = Progress(step=5, elapsed_s=1.5, history=[{"epoch": 0, "val_loss": float("nan")}])
    save_state(tmp_path, network, optimizer, progress, CPU)
    drawn = torch.rand(3)

    other_network, other_optimizer = _parts(1)
    state = load_state(tmp_path)
    assert state is not None
    restored = restore_state(state, other_network, other_optimizer, CPU)
    assert torch.equal(torch.rand(3), drawn)
    assert torch.equal(other_network.weight, network.weight)
    momentum = [o.state_dict()["state"][0]["momentum_buffer"] for o in (optimizer, other_optimizer)]
    assert torch.equal(*momentum)
    assert state["best_network"] is None
    assert (restored.step, restored.elapsed_s, restored.history[0]["epoch"]) == (5, 1.5, 0)


def test_without_a_state_there_is_nothing(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None
    assert not is_finished(tmp_path)


@pytest.mark.parametrize("finished", [False, True])
def test_finished_is_what_was_saved(tmp_path: Path, finished: bool) -> None:
    save_state(tmp_path, *_parts(0), Progress(is_finished=finished), CPU)
    assert is_finished(tmp_path) == finished


@pytest.mark.parametrize("num_bytes", [0, 100, 1000])
def test_a_cut_file_is_named_with_the_fix(tmp_path: Path, num_bytes: int) -> None:
    save_state(tmp_path, *_parts(0), Progress(), CPU)
    path = tmp_path / STATE_FILE
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(ValueError, match=r"state\.pt: damaged training state; delete the file"):
        load_state(tmp_path)


def test_a_failed_save_leaves_the_old_state(tmp_path: Path) -> None:
    save_state(tmp_path, *_parts(0), Progress(step=1), CPU)
    with pytest.raises(TypeError):
        save_state(tmp_path, *_parts(0), Progress(step=2, history=[{"bad": lambda: 0}]), CPU)  # type: ignore[dict-item]
    state = load_state(tmp_path)
    assert state is not None
    assert state["progress"]["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]
