from __future__ import annotations

import pytest
import torch

from pipelines.inference.placement import Placement, is_out_of_memory


def test_memory_is_given_up_in_steps_and_each_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    placement = Placement(gpu, gpu, batch_size=6, subject="prediction of b0")
    error = torch.OutOfMemoryError("CUDA out of memory.")
    seen = []
    for _ in range(4):
        placement.give_way(error)
        seen.append((placement.device, placement.sums_device, placement.batch_size))
    assert seen == [(gpu, gpu, 3), (gpu, gpu, 1), (gpu, cpu, 1), (cpu, cpu, 1)]
    assert placement.fallbacks == [
        "out of memory on cuda with 6 patches at once: goes on with 3",
        "out of memory on cuda with 3 patches at once: goes on with 1",
        "out of memory on cuda with 1 patch at once: goes on with the logits on the CPU",
        "out of memory on cuda with 1 patch at once, logits on the CPU: goes on with the network on the CPU, which is "
        "slow",
    ]
    assert capsys.readouterr().err.splitlines() == [
        f"warning: prediction of b0: {sentence}" for sentence in placement.fallbacks
    ]
    with pytest.raises(torch.OutOfMemoryError):
        placement.give_way(error)
    assert len(placement.fallbacks) == 4


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_about_memory_are_known_by_type_or_words(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected
