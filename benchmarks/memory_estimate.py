"""The planner's estimate of memory beside the tensors of a training step, counted on shapes alone.

`python -m benchmarks.memory_estimate` prints both for each architecture at the size of its paper, and writes
benchmarks/results/memory_estimate.json. Counted are weights, gradients, AdamW's state and what backward keeps, float32,
a batch of 2; no workspace of a convolution. A GPU training keeps bfloat16, so compare architectures, not gibibytes.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from pipelines.atomic_files import write_text
from pipelines.planning.memory import conv_elements, predicted_gib
from pipelines.planning.shapes import shapes_only
from pipelines.planning.topology import topology
from pipelines.tracking.provenance import ROOT, git_commit, machine
from repro_models import registry
from repro_models.contract import Problem

PATCH = (96, 96, 96)
PROBLEM = Problem(spatial_dims=3, in_channels=1, num_classes=5)
BATCH_SIZE = 2
ENTRIES = {
    "nnunet": ("segmentation/nnunet", None),
    "nnunet residual": ("segmentation/nnunet", "residual"),
    "unet_3d": ("segmentation/unet_3d", None),
    "unetr": ("segmentation/unetr", None),
    "swin_unetr": ("segmentation/swin_unetr", None),
}


def counted_gib(architecture: Any, config: Any) -> float:
    """Largest sum of the tensors alive in a training step, GiB."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    with FakeTensorMode():
        network = architecture.build(config, PROBLEM).train()
        optimizer = torch.optim.AdamW(parameter for parameter in network.parameters() if parameter.requires_grad)
        tracker = MemTracker()
        tracker.track_external(network, optimizer)
        with tracker:
            outputs = network(torch.empty(BATCH_SIZE, PROBLEM.in_channels, *PATCH))
            outputs = [outputs] if isinstance(outputs, Tensor) else outputs
            torch.stack([output.square().mean() for output in outputs]).sum().backward()
            optimizer.step()
    return max(peak["Total"] for peak in tracker.get_tracker_snapshot("peak").values()) / 2**30


def main() -> None:
    """Estimate, count, print, write."""
    table = {}
    for entry, (name, variant) in ENTRIES.items():
        architecture = registry.load(name)
        config = architecture.VARIANTS[variant].config if variant else architecture.Config()
        if hasattr(architecture, "with_topology"):
            chosen = topology((1.0, 1.0, 1.0), PATCH)
            config = architecture.with_topology(config, chosen.strides, chosen.kernel_sizes)
        if hasattr(architecture, "with_patch_size"):
            config = architecture.with_patch_size(config, PATCH)
        with shapes_only():
            network = architecture.build(config, PROBLEM)
        elements = conv_elements(network, PROBLEM.in_channels, PATCH)
        estimated, counted = predicted_gib(elements, BATCH_SIZE, len(PATCH)), counted_gib(architecture, config)
        table[entry] = {
            "estimated_gib": estimated,
            "counted_gib": counted,
            "counted_over_estimated": counted / estimated,
        }
    result = {
        "command": "python -m benchmarks.memory_estimate",
        "commit": git_commit(),
        "machine": machine(),
        "patch_size": PATCH,
        "batch_size": BATCH_SIZE,
        "architectures": table,
    }
    write_text(ROOT / "benchmarks/results/memory_estimate.json", json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
