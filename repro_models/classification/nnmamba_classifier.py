"""nnMamba (Gong et al., 2024, arXiv 2402.03526), the form for classification.

A residual convolutional encoder begins at 1/2 with a Mamba layer over all voxels; a small perceptron reads the means of
the maps of all stages. The form for segmentation is `repro_models/segmentation/nnmamba.py`.

Differs:
    - The Mamba layer stands once, behind the stem, and scans from the first voxel to the last, as in the authors' code;
      the siamese orders of MICCSS are only in their network for segmentation.
    - Means go to the perceptron as they are, as in the code the authors train with and count. The paper names a
      "channel-sequential learning" for classification, and an early form of the code scans the means as a sequence:
      `Config(scans_means=True)`. Channels of a step are neighbours here and interleaved there, which is the same
      network with the channels of a stage in another order.
Shapes:
    B batch, C channels, X Y Z voxels (*s all of them), K classes, F base features, S stages.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from repro_models.blocks.mamba_in_convolution import MambaInConvolution, ResidualUnit, halving_stem
from repro_models.blocks.mamba_mixer import mamba
from repro_models.contract import Constraints, Paper, Problem, Range, Variant

PAPER = Paper(
    title=("nnMamba: 3D Biomedical Image Segmentation, Classification and Landmark Detection with State Space Model"),
    year=2024,
    address="https://arxiv.org/abs/2402.03526",
    reference_code="https://github.com/lhaof/nnMamba",
)

_DIMS = 3
# Steps that the convolution before a scan of means sees.
_KERNEL_SIZE_OF_MEANS = 2


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are those of the authors' code.

    Attributes:
        base_features: F, of the map at 1/2; each coarser one has twice as many.
        num_stages: S, each halves.
        num_units: residual units of a stage, the first halves.
        num_states: states of an inner channel.
        kernel_size: voxels that the convolution before the scan sees.
        expand: inner channels of a Mamba layer, as a multiple of its channels.
        scans_means: the means pass another Mamba layer, as a sequence whose steps have 2 F channels.
        dropout_probability: of each hidden value of the perceptron.
    """

    base_features: int = 32
    num_stages: int = 3
    num_units: int = 3
    num_states: int = 8
    kernel_size: int = 4
    expand: int = 2
    scans_means: bool = False
    dropout_probability: float = 0.5


VARIANTS = {
    "paper": Variant(Config(), Problem(3, 1, 1), 12_876_321, "counted in the authors' code, one logit under a sigmoid"),
    "small": Variant(Config(base_features=16, num_units=2), Problem(3, 1, 2), None, "ours"),
    "tiny": Variant(
        Config(base_features=4, num_stages=2, num_units=2, num_states=2, kernel_size=2, expand=1),
        Problem(3, 1, 3),
        None,
        "ours",
    ),
}

SEARCH_SPACE = {"dropout_probability": Range(0.0, 0.7)}

CONSTRAINTS = Constraints(
    spatial_dims=(_DIMS,),
    divisor=lambda config: 1,
    # Stem and stages halve and round up, and batch normalisation cannot train on the one voxel of a batch of one.
    smallest_side=lambda config: 2 ** (config.num_stages + 1) + 1,
)


class ScanOfMeans(nn.Module):
    """Means as a sequence, the finest stage first, that a Mamba layer adds to: (B, n C) -> the same shape.

    Args:
        channels: C, of a step.
        num_states: of an inner channel.
        expand: inner channels, as a multiple of C.
    """

    def __init__(self, channels: int, num_states: int, expand: int) -> None:
        super().__init__()
        self.channels = channels
        self.mixer = mamba(channels, num_states, _KERNEL_SIZE_OF_MEANS, expand)

    def forward(self, means: Tensor) -> Tensor:
        """Scan and add."""
        steps = means.unflatten(1, (-1, self.channels))
        return (steps + self.mixer(steps)).flatten(1)


def _stage(channels: int, num_units: int) -> nn.Sequential:
    """(B, C, *s) -> (B, 2 C, *s / 2), rounded up."""
    width = 2 * channels
    return nn.Sequential(ResidualUnit(channels, width), *(ResidualUnit(width, width) for _ in range(num_units - 1)))


class NnMambaClassifier(nn.Module):
    """Stem, Mamba layer, residual stages, perceptron on the means of their maps.

    Args:
        config: size and form.
        problem: channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        self.config = config
        features = config.base_features
        widths = [features * 2**level for level in range(config.num_stages + 1)]
        self.stem = halving_stem(problem.in_channels, features)
        make_mixer = partial(mamba, num_states=config.num_states, kernel_size=config.kernel_size, expand=config.expand)
        self.mamba = MambaInConvolution(features, make_mixer)
        self.stages = nn.ModuleList(_stage(width, config.num_units) for width in widths[:-1])
        self.scan: nn.Module = nn.Identity()
        if config.scans_means:
            self.scan = ScanOfMeans(2 * features, config.num_states, config.expand)
        self.head = nn.Sequential(
            nn.Linear(sum(widths[1:]), features),
            nn.ReLU(inplace=True),
            nn.Dropout(config.dropout_probability),
            nn.Linear(features, problem.num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, C, X, Y, Z).

        Returns:
            (B, K).

        Raises:
            IllegalSizeError: a side is too small.
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        x = self.stem(x)
        x = x + self.mamba(x)
        means = []
        for stage in self.stages:
            x = stage(x)
            means.append(x.mean((2, 3, 4)))
        return self.head(self.scan(torch.cat(means, dim=1)))


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: the problem is not 3D, a number below 1, or a probability that is none.
    """
    if problem.spatial_dims != _DIMS:
        raise ValueError(
            f"spatial_dims={problem.spatial_dims}: nnMamba serves 3; take classification/vision_mamba for 2D"
        )
    for field in ("base_features", "num_stages", "num_units", "num_states", "kernel_size", "expand"):
        if getattr(config, field) < 1:
            raise ValueError(f"{field}={getattr(config, field)}: must be 1 or more")
    if not 0 <= config.dropout_probability < 1:
        raise ValueError(f"dropout_probability={config.dropout_probability}: must be from 0 to less than 1")
    return NnMambaClassifier(config, problem)
