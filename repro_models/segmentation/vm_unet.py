"""VM-UNet (Ruan and Xiang, 2024, arXiv 2402.02491).

The form of Swin-Unet with scans in place of attention: patches of 4 x 4 pixels, visual state space (VSS) blocks of
VMamba, patch merging in the encoder, patch expanding in the decoder; skip connections are added.

Two sizes circulate under its name: the configuration that the authors released, 27,427,561 parameters, here the
default, and the defaults of their class, 44,273,833, here the variant `class_defaults`.

Differs:
    - Logits; the authors' code ends in a sigmoid where there is one class, which is the loss's here.
    - Weights start fresh: linear layers from a normal of deviation 0.02. The paper starts encoder and decoder
      from a VMamba-S trained on ImageNet.
    - An image has its own number of channels; the authors' code repeats a grey one three times.
    - Sides that do not halve evenly are refused; the authors' code cuts the last row or column away.
Shapes:
    B batch, C channels, X Y pixels, K classes, S levels, F_i features of level i, whose sides are 1 / (4 * 2^i); maps
    are (B, x, y, F_i).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from repro_models.blocks.cross_scan import cross_scan_mixer
from repro_models.blocks.drop_path import DropPath, rising_probabilities
from repro_models.blocks.patch_expanding import PatchExpanding
from repro_models.blocks.patch_merging import PatchMerging
from repro_models.blocks.swin_block import start_linear_layers
from repro_models.contract import Constraints, Paper, Problem, Range, Variant

PAPER = Paper(
    title="VM-UNet: Vision Mamba UNet for Medical Image Segmentation",
    year=2024,
    address="https://arxiv.org/abs/2402.02491",
    reference_code="https://github.com/JCruan519/VM-UNet",
)

_PATCH = 4


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are the configuration that the authors released.

    Attributes:
        base_features: F_0, a multiple of 4; F_i is 2^i times that.
        depths: blocks of each level of the encoder, the finest first.
        decoder_depths: blocks of each level of the decoder, the coarsest first.
        num_states: of a channel, in the scans.
        drop_path_probability: that the encoder's last block and the decoder's first are left out of a sample in
            training; it rises evenly from 0 along the encoder and falls to 0 along the decoder.
    """

    base_features: int = 96
    depths: tuple[int, ...] = (2, 2, 2, 2)
    decoder_depths: tuple[int, ...] = (2, 2, 2, 1)
    num_states: int = 16
    drop_path_probability: float = 0.2


_MEASURED = "counted in the authors' code"
_SKIN = Problem(spatial_dims=2, in_channels=3, num_classes=1)
VARIANTS = {
    "released": Variant(Config(), _SKIN, 27_427_561, f"{_MEASURED}, in the configuration it releases"),
    "synapse": Variant(Config(), Problem(2, 3, 9), 27_427_761, f"{_MEASURED}, in the configuration it releases"),
    "class_defaults": Variant(
        Config(depths=(2, 2, 9, 2), decoder_depths=(2, 9, 2, 2)),
        _SKIN,
        44_273_833,
        f"{_MEASURED}, by the defaults of its class",
    ),
    "reference_small": Variant(
        Config(base_features=16, depths=(1, 1, 1, 1), decoder_depths=(1, 1, 1, 1), num_states=8),
        Problem(2, 2, 3),
        505_703,
        _MEASURED,
    ),
    "small": Variant(
        Config(
            base_features=16,
            depths=(1, 1, 1, 1),
            decoder_depths=(1, 1, 1, 1),
            num_states=8,
            drop_path_probability=0.0,
        ),
        Problem(2, 1, 2),
        None,
        "ours",
    ),
    "tiny": Variant(
        Config(base_features=4, depths=(1, 1), decoder_depths=(1, 1), num_states=2, drop_path_probability=0.0),
        Problem(2, 1, 3),
        None,
        "ours",
    ),
}

SEARCH_SPACE = {"drop_path_probability": Range(0.0, 0.3)}


def _divisor(config: Config) -> int:
    """The first patches, and a merging after every level but the last."""
    return _PATCH * 2 ** (len(config.depths) - 1)


CONSTRAINTS = Constraints(spatial_dims=(2,), divisor=_divisor, smallest_side=_divisor)


class VssBlock(nn.Module):
    """Scan the normalised map and add it: (B, x, y, C) -> the same shape.

    Args:
        channels: C.
        num_states: of a channel, in the scans.
        drop_path_probability: that a sample goes around the scans in training.
    """

    def __init__(self, channels: int, num_states: int, drop_path_probability: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mixer = cross_scan_mixer(channels, num_states)
        self.drop_path = DropPath(drop_path_probability)

    def forward(self, x: Tensor) -> Tensor:
        """Without a perceptron behind."""
        return x + self.drop_path(self.mixer(self.norm(x)))


class _PatchEmbedding(nn.Module):
    """(B, C, X, Y) -> (B, X / 4, Y / 4, F_0)."""

    def __init__(self, in_channels: int, features: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(in_channels, features, _PATCH, stride=_PATCH)
        self.norm = nn.LayerNorm(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.projection(x).movedim(1, -1))


def _blocks(channels: int, num_states: int, probabilities: Sequence[float]) -> nn.Sequential:
    """Blocks of a level, one for each of `probabilities`: (B, x, y, C) -> the same shape."""
    return nn.Sequential(*(VssBlock(channels, num_states, probability) for probability in probabilities))


def _parted(values: Sequence[float], lengths: Sequence[int]) -> list[Sequence[float]]:
    """`values`, in stretches of `lengths`."""
    return [values[sum(lengths[:number]) : sum(lengths[: number + 1])] for number in range(len(lengths))]


class VmUnet(nn.Module):
    """Encoder of S levels and decoder of S, which begins at the coarsest.

    Args:
        config: size and form.
        problem: two dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        self.config = config
        features = [config.base_features * 2**level for level in range(len(config.depths))]
        highest, num_states = config.drop_path_probability, config.num_states
        rising = rising_probabilities(highest, sum(config.depths))
        falling = rising_probabilities(highest, sum(config.decoder_depths))[::-1]
        self.embedding = _PatchEmbedding(problem.in_channels, features[0])
        self.encoder = nn.ModuleList(
            _blocks(channels, num_states, probabilities)
            for channels, probabilities in zip(features, _parted(rising, config.depths), strict=True)
        )
        self.mergings = nn.ModuleList(PatchMerging(2, channels) for channels in features[:-1])
        self.decoder = nn.ModuleList(
            _blocks(channels, num_states, probabilities)
            for channels, probabilities in zip(features[::-1], _parted(falling, config.decoder_depths), strict=True)
        )
        self.expandings = nn.ModuleList(PatchExpanding(2, 2 * channels, channels) for channels in features[-2::-1])
        self.final_expanding = PatchExpanding(2, features[0], features[0] // _PATCH, _PATCH)
        self.head = nn.Conv2d(features[0] // _PATCH, problem.num_classes, 1)
        start_linear_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, C, X, Y).

        Returns:
            (B, K, X, Y).

        Raises:
            IllegalSizeError: a side is no multiple of 4 * 2^(S - 1).
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        x = self.embedding(x)
        skips = []
        for blocks, merging in zip(self.encoder, self.mergings, strict=False):
            x = merging(blocks(x))
            skips.append(x)  # as it enters the next level
        x = self.decoder[0](self.encoder[-1](x))
        for blocks, expanding in zip(self.decoder[1:], self.expandings, strict=True):
            x = blocks(expanding(x + skips.pop()))
        return self.head(self.final_expanding(x).movedim(-1, 1))


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: the problem is not 2D, an encoder and a decoder of unequal length or of one level, features that
            are no multiple of 4, or a probability that is none.
    """
    if problem.spatial_dims != 2:
        raise ValueError(
            f"spatial_dims={problem.spatial_dims}: VM-UNet serves 2; take segmentation/segmamba or "
            "segmentation/swin_unetr for 3D"
        )
    if len(config.depths) != len(config.decoder_depths) or len(config.depths) < 2:
        raise ValueError(
            f"depths={config.depths} and decoder_depths={config.decoder_depths}: give one of each per level, for two "
            "levels or more"
        )
    if config.base_features < 1 or config.base_features % _PATCH:
        raise ValueError(
            f"base_features={config.base_features}: must be a multiple of {_PATCH}, which the last patch expanding "
            "divides it by"
        )
    if not 0 <= config.drop_path_probability < 1:
        raise ValueError(f"drop_path_probability={config.drop_path_probability}: must be from 0 to less than 1")
    return VmUnet(config, problem)
