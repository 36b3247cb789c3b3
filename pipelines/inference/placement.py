"""Where a prediction computes, and how it gives way when memory runs out."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import torch

_CPU = torch.device("cpu")
# What allocators say that have no exception of their own: CUDA libraries, and torch's on the CPU.
_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass
class Placement:
    """Devices and batch of one prediction.

    Attributes:
        device: where the networks run.
        sums_device: where the logits of tiles are averaged.
        batch_size: patches in one forward pass.
        subject: what is predicted, as printed lines name it.
        fallbacks: one sentence for every step taken for want of memory.
    """

    device: torch.device = _CPU
    sums_device: torch.device = _CPU
    batch_size: int = 1
    subject: str = "prediction"
    fallbacks: list[str] = field(default_factory=list)

    def give_way(self, error: Exception) -> None:
        """Take the next step that needs less memory, print it and keep it in `fallbacks`.

        Half the batch, down to one patch; then sums on the CPU; then the networks too.

        Raises:
            Exception: `error` itself, when it is not about memory or no step is left.
        """
        if not is_out_of_memory(error):
            raise error
        patches = f"{self.batch_size} patches" if self.batch_size > 1 else "1 patch"
        out = f"out of memory on {self.device} with {patches} at once"
        if self.batch_size > 1:
            self.batch_size //= 2
            step = f"{out}: goes on with {self.batch_size}"
        elif self.sums_device != _CPU:
            self.sums_device = _CPU
            step = f"{out}: goes on with the logits on the CPU"
        elif self.device != _CPU:
            self.device = _CPU
            step = f"{out}, logits on the CPU: goes on with the network on the CPU, which is slow"
        else:
            error.add_note(
                f"{self.subject}: {out}, and nothing is left to give up; give the machine more memory, let fewer "
                "processes run beside this one, or plan a smaller patch (`overrides: patch_size`)"
            )
            raise error
        self._say(step)

    def export_on_cpu(self, error: Exception) -> None:
        """Bring the logits of the whole case to the CPU, because mapping them to the scan did not fit beside them.

        Raises:
            Exception: `error` itself, when it is not about memory or they are there already.
        """
        if not is_out_of_memory(error) or self.sums_device == _CPU:
            raise error
        self._say(
            f"out of memory on {self.sums_device} on the way back to the scan: goes on with the logits on the CPU"
        )
        self.sums_device = _CPU

    def _say(self, step: str) -> None:
        self.fallbacks.append(step)
        print(f"warning: {self.subject}: {step}", file=sys.stderr, flush=True)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, of a GPU or of the machine."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)
