"""Sliding-window prediction of a case in process: this project and nnunetv2 in turn, each in its own interpreter.

`python -m benchmarks.nnunet_inference` prints CPU seconds with one torch thread, peak memory with few and many classes,
and ratios, and writes benchmarks/results/nnunet_inference.json. Both sides run the network that nnU-Net plans for MSD
Hippocampus with the same drawn weights on the same noise; label maps are compared. Imports, building the network and a
first pass are not timed. Memory is that of the whole process, from the image to the label map on a finer grid, with a
network of one 1×1×1 convolution, so that it is the handling of logits that shows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

SIDES = ("ours", "nnunetv2")
# Without it no logit of a drawn network is far from another, and nnunetv2's half-precision sums decide many voxels.
LOGIT_SPREAD = 10.0


@dataclass(frozen=True)
class Case:
    """An image and how it is predicted."""

    image_shape: tuple[int, int, int]
    patch_size: tuple[int, int, int]
    is_mirrored: bool

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """All, or none."""
        return (0, 1, 2) if self.is_mirrored else ()


CASES = {
    "hippocampus, 1 tile": Case((36, 50, 35), (40, 56, 40), False),
    "hippocampus, 1 tile, mirrored": Case((36, 50, 35), (40, 56, 40), True),
    "96x160x128, 18 tiles of 64x80x64": Case((96, 160, 128), (64, 80, 64), False),
    "64x96x80, 4 tiles of 64x80x64, mirrored": Case((64, 96, 80), (64, 80, 64), True),
}
MEMORY_SHAPE, MEMORY_PATCH, MEMORY_SCAN_SHAPE = (96, 96, 96), (32, 32, 32), (128, 128, 128)
NUM_CLASSES = (2, 60)


def our_network() -> nn.Module:
    """nnU-Net's network for Hippocampus, weights by seed 0."""
    from pipelines.planning.precision import place
    from repro_models.contract import Problem
    from repro_models.segmentation import nnunet

    torch.manual_seed(0)
    config = nnunet.VARIANTS["hippocampus_3d"].config
    network = nnunet.build(config, Problem(spatial_dims=3, in_channels=1, num_classes=3)).eval()
    with torch.no_grad():
        network.get_parameter("heads.2.weight").mul_(LOGIT_SPREAD)
    return place(network, torch.device("cpu"))


def their_network() -> nn.Module:
    """The same network as nnunetv2 builds it, with the same weights."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    network = PlainConvUNet(
        input_channels=1,
        n_stages=4,
        features_per_stage=[32, 64, 128, 256],
        conv_op=nn.Conv3d,
        kernel_sizes=[[3, 3, 3]] * 4,
        strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
        n_conv_per_stage=[2] * 4,
        num_classes=3,
        n_conv_per_stage_decoder=[2] * 3,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=False,
    ).eval()
    for ours, theirs in zip(_layers_in_order(our_network()), _layers_in_order(network), strict=True):
        theirs.load_state_dict(ours.state_dict())
    return network


def _layers_in_order(network: nn.Module) -> list[nn.Module]:
    """Layers that have weights, in the order in which they run."""
    order: list[nn.Module] = []
    layers = {module for module in network.modules() if not list(module.children()) and list(module.parameters())}
    hooks = [layer.register_forward_hook(lambda layer, *_: order.append(layer)) for layer in layers]
    with torch.no_grad():
        network(torch.zeros(1, 1, 16, 16, 16))
    for hook in hooks:
        hook.remove()
    return order


def our_prediction(network: nn.Module, case: Case) -> Callable[[torch.Tensor], torch.Tensor]:
    from pipelines.inference.sliding_window import predict_logits

    def predict(image: torch.Tensor) -> torch.Tensor:
        return predict_logits([network], image, case.patch_size, 3, mirror_axes=case.mirror_axes)

    return predict


def their_prediction(network: nn.Module, case: Case) -> Callable[[torch.Tensor], torch.Tensor]:
    return _predictor(network, case.patch_size, case.mirror_axes, 3).predict_sliding_window_return_logits


def _predictor(network: nn.Module, patch_size: tuple[int, ...], mirror_axes: tuple[int, ...], classes: int) -> Any:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    configuration = {
        "patch_size": list(patch_size),
        "spacing": [1.0, 1.0, 1.0],
        "architecture": {},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
    }
    plans = {
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "configurations": {"3d_fullres": configuration},
    }
    manager = PlansManager(plans)
    labels = {"labels": {"background": 0} | {f"class {value}": value for value in range(1, classes)}}
    predictor = nnUNetPredictor(use_mirroring=bool(mirror_axes), device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        network, manager, manager.get_configuration("3d_fullres"), None, labels, "nnUNetTrainer", mirror_axes or None
    )
    return predictor


def _image(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32))


def _time_side(side: str, out: Path, names: list[str]) -> None:
    build, start = {"ours": (our_network, our_prediction), "nnunetv2": (their_network, their_prediction)}[side]
    network, seconds, labels = build(), {}, []
    for name in names:
        case = CASES[name]
        predict, image = start(network, case), _image(case.image_shape)
        with torch.inference_mode():
            network(torch.zeros(1, 1, *case.patch_size))
        started = time.process_time()
        logits = predict(image)
        seconds[name] = time.process_time() - started
        labels.append(logits.float().argmax(0).numpy().astype(np.uint8))
    np.savez(out, *labels)
    print(json.dumps(seconds))


def _remember_side(side: str, num_classes: int) -> None:
    """Predict with many classes and bring labels to a finer grid; nothing is printed, the process is watched."""
    torch.manual_seed(0)
    network = nn.Conv3d(1, num_classes, 1).eval()
    box = [[0, size] for size in MEMORY_SCAN_SHAPE]
    spacing = [old / new for old, new in zip(MEMORY_SHAPE, MEMORY_SCAN_SHAPE, strict=True)]
    if side == "ours":
        from pipelines.inference.export import to_scan_grid
        from pipelines.inference.sliding_window import predict_blocks

        properties = {
            "shape": list(MEMORY_SCAN_SHAPE),
            "spacing_mm": spacing,
            "transpose_forward": [0, 1, 2],
            "box": box,
            "shape_after_crop": list(MEMORY_SCAN_SHAPE),
            "shape_after_resampling": list(MEMORY_SHAPE),
            "spacing_after_mm": [1.0, 1.0, 1.0],
        }
        label = to_scan_grid(predict_blocks([network], _image(MEMORY_SHAPE), MEMORY_PATCH, num_classes), properties)
    else:
        from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

        predictor = _predictor(network, MEMORY_PATCH, (), num_classes)
        their_properties = {
            "spacing": spacing,
            "shape_before_cropping": MEMORY_SCAN_SHAPE,
            "bbox_used_for_cropping": box,
            "shape_after_cropping_and_before_resampling": MEMORY_SCAN_SHAPE,
        }
        label = convert_predicted_logits_to_segmentation_with_correct_shape(
            predictor.predict_sliding_window_return_logits(_image(MEMORY_SHAPE)),
            predictor.plans_manager,
            predictor.configuration_manager,
            predictor.label_manager,
            their_properties,
            num_threads_torch=1,
        )
    assert label.shape == MEMORY_SCAN_SHAPE


def _command(side: str, *arguments: str) -> list[str]:
    from benchmarks.nnunet_peer import peer_python

    python = sys.executable if side == "ours" else str(peer_python())
    return [python, "-W", "ignore", "-m", "benchmarks.nnunet_inference", "--side", side, *arguments]


def time_table(num_rounds: int, names: list[str], folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Median CPU seconds of both sides, their ratio, and the share of voxels with equal labels."""
    from pipelines.tracking.provenance import ROOT

    runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(num_rounds):
        for side, results in runs.items():
            command = _command(side, "--out", str(folder / f"{side}.npz"), "--cases", *names)
            output = subprocess.run(
                command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, check=True, text=True
            ).stdout
            results.append(json.loads(output.splitlines()[-1]))
    labels = [np.load(folder / f"{side}.npz").values() for side in SIDES]
    table = {}
    for name, ours, theirs in zip(names, *labels, strict=True):
        seconds = {side: statistics.median(run[name] for run in results) for side, results in runs.items()}
        table[name] = {
            "cpu_s": seconds,
            "ours_over_nnunetv2": seconds["ours"] / seconds["nnunetv2"],
            "equal_labels": float((ours == theirs).mean()),
        }
    return table


def memory_table(folder: Path, environment: dict[str, str]) -> dict[str, dict[str, float]]:
    """Peak GiB of both sides by number of classes."""
    from benchmarks.process_tree import measure
    from pipelines.tracking.provenance import ROOT

    return {
        str(classes): {
            side: measure(_command(side, "--classes", str(classes)), ROOT, folder / "log", environment).peak_gib
            for side in SIDES
        }
        for classes in NUM_CLASSES
    }


def main() -> None:
    """Run both sides in turn, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--side", choices=SIDES, help="run one side only; the benchmark says this to itself")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--classes", type=int)
    arguments = parser.parse_args()
    if arguments.side:
        torch.set_num_threads(1)
        if arguments.classes:
            _remember_side(arguments.side, arguments.classes)
        else:
            _time_side(arguments.side, arguments.out, arguments.cases)
        return
    from benchmarks.nnunet_peer import peer_environment
    from pipelines.atomic_files import write_text
    from pipelines.tracking.provenance import ROOT, git_commit, machine

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = peer_environment(folder)
        result = {
            "command": "python -m benchmarks.nnunet_inference",
            "commit": git_commit(),
            "machine": machine() | {"nnunetv2": "2.8.1"},
            "median_of": arguments.rounds,
            "cases": time_table(arguments.rounds, arguments.cases, folder, environment),
            "peak_gib_by_classes": memory_table(folder, environment),
        }
    if arguments.cases == list(CASES):
        write_text(ROOT / "benchmarks/results/nnunet_inference.json", json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
