"""Vision Mamba, Vim (Zhu et al., 2024, arXiv 2401.09417).

Figure 2: an image becomes a sequence of patches with learned positions and a class token in its middle; blocks scan the
sequence in both directions; the class token gives the class.

Differs:
    - The projections of a block, in and out, are shared by both directions, and the sum of these is halved, as in the
      authors' code ("v2") and the published counts. A form of theirs with two blocks, one a direction, is in no
      released model and not here.
    - B is discretised as in the authors' code, see `repro_models/blocks/selective_scan.py`.
    - The step sizes of both directions start between 0.001 and 0.1. In the authors' code those of the backward one keep
      the start of an ordinary linear layer and are near 0.69.
    - Images need not be square.
Shapes:
    B batch, C channels, X Y pixels, K classes, M patches, E hidden size; sequences are (B, M + 1, E).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from repro_models.blocks.drop_path import rising_probabilities
from repro_models.blocks.fan_in_init import init_by_fan_in
from repro_models.blocks.image_size import OneImageSize, sides_of
from repro_models.blocks.mamba_mixer import MambaMixer, StateSpace, rank_of_steps
from repro_models.blocks.residual_mixer import RMS_NORM_EPSILON, ResidualMixer, shrink_out_projections
from repro_models.contract import Paper, Problem, Range, Variant

PAPER = Paper(
    title="Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model",
    year=2024,
    address="https://arxiv.org/abs/2401.09417",
    reference_code="https://github.com/hustvl/Vim",
)


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are those of Vim-Ti.

    Attributes:
        image_size: sides of the images it takes, all others are refused, because each patch has a position of its own;
            an int serves all axes. `with_patch_size` sets it.
        patch: pixels of a patch along each axis.
        stride: pixels from a patch to the next; it divides `patch`, and less than that makes patches overlap.
        hidden_size: E.
        num_blocks: how many.
        num_states: of the state space, for each inner channel.
        kernel_size: tokens that the convolution of a direction sees.
        expand: inner channels of a block, as a multiple of E.
        drop_path_probability: that the last block is left out of a sample in training; it rises evenly from 0 for the
            first block.
    """

    image_size: int | Sequence[int] = 224
    patch: int = 16
    stride: int = 16
    hidden_size: int = 192
    num_blocks: int = 24
    num_states: int = 16
    kernel_size: int = 4
    expand: int = 2
    drop_path_probability: float = 0.0


def with_patch_size(config: Config, patch_size: Sequence[int]) -> Config:
    """`config` for images of `patch_size` pixels."""
    return replace(config, image_size=tuple(patch_size))


_IMAGENET = Problem(spatial_dims=2, in_channels=3, num_classes=1000)
_COUNTED = "counted in the authors' code"
VARIANTS = {
    "vim_tiny": Variant(Config(), _IMAGENET, 7_148_008, _COUNTED),
    "vim_small": Variant(Config(hidden_size=384, drop_path_probability=0.05), _IMAGENET, 25_796_584, _COUNTED),
    "vim_base": Variant(Config(hidden_size=768), _IMAGENET, 97_598_440, _COUNTED),
    "vim_tiny_stride_8": Variant(Config(stride=8), _IMAGENET, 7_250_344, _COUNTED),
    "vim_tiny_cifar": Variant(
        Config(image_size=32, patch=4, stride=4), Problem(2, 3, 10), 6_793_354, f"{_COUNTED}, set to such images"
    ),
    "reference_small": Variant(
        Config(image_size=32, patch=8, stride=8, hidden_size=48, num_blocks=3), Problem(2, 3, 7), 87_271, _COUNTED
    ),
    "reference_odd": Variant(
        Config(image_size=36, patch=12, stride=12, hidden_size=40, num_blocks=2, num_states=8),
        Problem(2, 5, 11),
        60_891,
        _COUNTED,
    ),
    "small": Variant(
        Config(image_size=28, patch=4, stride=4, hidden_size=64, num_blocks=4), Problem(2, 1, 10), None, "ours"
    ),
    "tiny": Variant(
        Config(image_size=8, patch=4, stride=4, hidden_size=8, num_blocks=2, num_states=4),
        Problem(2, 1, 3),
        None,
        "ours",
    ),
}

SEARCH_SPACE = {"drop_path_probability": Range(0.0, 0.3)}

CONSTRAINTS = OneImageSize(
    spatial_dims=(2,), divisor=lambda config: config.stride, smallest_side=lambda config: config.patch
)

# Of positions, class token and head at the start (the authors' code).
_DEVIATION = 0.02


class BothDirections(nn.Module):
    """Mean of a scan from the first step to the last and one from the last to the first; (B, L, C) -> (B, L, C).

    Args:
        forward_scan: of the first kind.
        backward_scan: of the second kind, with weights of its own.
    """

    def __init__(self, forward_scan: StateSpace, backward_scan: StateSpace) -> None:
        super().__init__()
        self.forward_scan = forward_scan
        self.backward_scan = backward_scan

    def forward(self, x: Tensor) -> Tensor:
        """Scan and halve."""
        return (self.forward_scan(x) + self.backward_scan(x, is_reversed=True)) / 2


def _block(config: Config, drop_path_probability: float) -> ResidualMixer:
    hidden, inner = config.hidden_size, config.expand * config.hidden_size

    def scan() -> StateSpace:
        return StateSpace(inner, config.num_states, config.kernel_size, rank_of_steps(hidden))

    return ResidualMixer(hidden, MambaMixer(hidden, inner, BothDirections(scan(), scan())), drop_path_probability)


class VisionMamba(nn.Module):
    """Patches, blocks, class token.

    Args:
        config: size and form.
        problem: two dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        hidden, num_blocks = config.hidden_size, config.num_blocks
        grid = [(side - config.patch) // config.stride + 1 for side in sides_of(config.image_size, 2)]
        self.config = config
        self.embedding = nn.Conv2d(problem.in_channels, hidden, config.patch, stride=config.stride)
        self.class_token = nn.Parameter(torch.empty(1, 1, hidden))
        self.positions = nn.Parameter(torch.empty(1, math.prod(grid) + 1, hidden))
        self.blocks = nn.ModuleList(
            _block(config, probability)
            for probability in rising_probabilities(config.drop_path_probability, num_blocks)
        )
        self.norm = nn.RMSNorm(hidden, eps=RMS_NORM_EPSILON)
        self.head = nn.Linear(hidden, problem.num_classes)
        init_by_fan_in(self.embedding, gain=1.0)
        for parameter in (self.class_token, self.positions, self.head.weight):
            nn.init.normal_(parameter, std=_DEVIATION)
        nn.init.zeros_(self.head.bias)
        shrink_out_projections(self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, C, *image_size).

        Returns:
            (B, K).

        Raises:
            IllegalSizeError: the image does not have the sides `image_size`.
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        patches = self.embedding(x).flatten(2).transpose(1, 2)  # row by row
        middle = patches.shape[1] // 2
        class_token = self.class_token.expand(patches.shape[0], -1, -1)
        tokens = torch.cat([patches[:, :middle], class_token, patches[:, middle:]], dim=1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens[:, middle].to(self.norm.weight.dtype)))


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: the problem is not 2D, a number below 1, a stride that does not divide the patch, or a probability
            that is none.
        IllegalSizeError: no patches of this kind cover an image of these sides.
    """
    if problem.spatial_dims != 2:
        raise ValueError(
            f"spatial_dims={problem.spatial_dims}: Vision Mamba serves 2; give it the slices of a volume one by one"
        )
    for field in ("patch", "stride", "hidden_size", "num_blocks", "num_states", "kernel_size", "expand"):
        if getattr(config, field) < 1:
            raise ValueError(f"{field}={getattr(config, field)}: must be 1 or more")
    if config.patch % config.stride:
        raise ValueError(
            f"patch={config.patch} and stride={config.stride}: the stride divides the patch, so that patches cover the "
            f"image to its edge; set stride to {config.patch} or to a divisor of it"
        )
    if not 0 <= config.drop_path_probability < 1:
        raise ValueError(f"drop_path_probability={config.drop_path_probability}: must be from 0 to less than 1")
    CONSTRAINTS.check_config(config, problem.spatial_dims)
    return VisionMamba(config, problem)
