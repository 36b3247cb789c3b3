"""Numbers that are no longer finite, and whose fault it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def check_finite(
    description: str,
    step: int,
    loss: float,
    gradient_norm: float,
    learning_rate: float,
    batch: dict[str, Tensor],
    indices: Sequence[int],
) -> None:
    """Raise when loss or gradient is NaN or infinite; the data is named when the batch is at fault.

    Args:
        description: names the run.
        step: that gave the loss.
        loss: over the global batch.
        gradient_norm: before clipping.
        learning_rate: of the step.
        batch: of the step; samples along the first axis of each tensor.
        indices: of those samples in the global batch.

    Raises:
        ValueError: loss or gradient is not finite.
    """
    if math.isfinite(loss) and math.isfinite(gradient_norm):
        return
    for name, tensor in batch.items():
        bad = [index for index, sample in zip(indices, tensor, strict=True) if not sample.isfinite().all()]
        if bad:
            raise ValueError(
                f"{description}: the batch of step {step} holds NaN or infinity in {name!r}, samples {bad}; "
                "look for damaged images with `repro check` and prepare the data anew"
            )
    raise ValueError(
        f"{description}: loss {loss:g} with gradient norm {gradient_norm:g} at step {step}, learning rate "
        f"{learning_rate:g}; samples {indices[0]} to {indices[-1]} are finite, so the training diverged: lower the "
        "learning rate, to a tenth say (the last saved state is untouched)"
    )
