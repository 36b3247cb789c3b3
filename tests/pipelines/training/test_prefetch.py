from __future__ import annotations

import threading

import pytest
import torch

from pipelines.training.prefetch import Batch, BatchPrefetch


def _batch(step: int) -> Batch:
    return {"step": torch.tensor([step])}


def test_each_step_gets_its_batch_and_each_is_loaded_once() -> None:
    loaded: list[int] = []

    def load(step: int) -> Batch:
        loaded.append(step)
        return _batch(step)

    with BatchPrefetch(load, lambda step: step < 4) as batches:
        assert [batches.batch(step)["step"].item() for step in (1, 2, 3)] == [1, 2, 3]
    assert loaded == [1, 2, 3]


def test_the_next_batch_is_loaded_before_it_is_asked_for() -> None:
    is_loaded = threading.Event()

    def load(step: int) -> Batch:
        if step == 1:
            is_loaded.set()
        return _batch(step)

    with BatchPrefetch(load, lambda step: True) as batches:
        batches.batch(0)
        assert is_loaded.wait(timeout=10)


def test_an_error_is_raised_at_its_step_and_the_thread_ends() -> None:
    def load(step: int) -> Batch:
        if step == 1:
            raise OSError("damaged")
        return _batch(step)

    with BatchPrefetch(load, lambda step: True) as batches:
        batches.batch(0)
        with pytest.raises(OSError, match="damaged"):
            batches.batch(1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]
