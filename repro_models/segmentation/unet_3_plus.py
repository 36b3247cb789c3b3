"""UNet 3+ (Huang et al., 2020, arXiv 2004.08790).

Figure 1c: every decoder stage gathers maps of all scales, brought to its size (max-pooling from finer encoder stages,
bilinear interpolation from coarser decoder stages) and to as many channels each, and convolves them together. Figure 3:
deep supervision of every stage and, in front of it, the class-guided module, which guesses from the lowest map whether
there is an organ at all.

Differs:
    - The classification-guided module is an option (`is_class_guided`); deep supervision is on. The paper's hybrid loss
      is `repro_models/losses/unet_3_plus_loss.py`.
    - Where the module finds no organ, evaluation mode says background. The authors' code multiplies the logits by 0,
      after which the sigmoid gives 0.5 everywhere; the intent of the paper, probability 0, is followed here.
    - In training the gate stays open, because a closed one would keep the segmentation of an image that was guessed
      wrong from learning; the guess is trained by its own cross entropy. The authors' code does not return the guess.
    - The guess is a softmax of two logits with cross entropy, for two sigmoids with binary cross entropy.
    - Each side output's loss weighs 1 / 5, not 1, so that the loss is as large as that of one output.
    - In evaluation mode side outputs are not computed.
Shapes:
    B batch, C channels, X Y pixels, K classes, S stages.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.fan_in_init import init_by_fan_in
from repro_models.blocks.two_convs import TwoConvs
from repro_models.contract import Constraints, Paper, Problem, SupervisedLogits, Variant

PAPER = Paper(
    title="UNet 3+: A Full-Scale Connected UNet for Medical Image Segmentation",
    year=2020,
    address="https://arxiv.org/abs/2004.08790",
    reference_code="https://github.com/ZJUGiveLab/UNet-Version",
)

# Of the background where the class-guided module finds nothing, over all else: a probability of 0.99995, and no more
# than what a sure network says, so that the mean over tiles is not decided by the tiles without an organ.
_CLOSED_LOGIT = 10.0


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are the paper's.

    Attributes:
        features: channels of each encoder stage, the finest first; a decoder stage gathers `features[0]` of each.
        deep_supervision: a head on each stage, not only on the finest.
        is_class_guided: with the classification-guided module.
        guide_dropout_probability: of each value of the map that the module sees.
    """

    features: tuple[int, ...] = (64, 128, 256, 512, 1024)
    deep_supervision: bool = True
    is_class_guided: bool = False
    guide_dropout_probability: float = 0.5


VARIANTS = {
    "paper": Variant(
        Config(),
        Problem(spatial_dims=2, in_channels=3, num_classes=1),
        26_989_637,
        "measured in the authors' code",
        size=(320, 320),
        # Side outputs are not computed in evaluation mode; with them, as the authors' code has it, 308,932,300,800.
        num_macs=308_831_846_400,
    ),
    "plain": Variant(
        Config(deep_supervision=False),
        Problem(2, 3, 1),
        26_971_777,
        "measured in the authors' code",
        size=(320, 320),
        num_macs=308_831_846_400,
    ),
    "class_guided": Variant(
        Config(is_class_guided=True), Problem(2, 3, 1), 26_991_687, "measured in the authors' code"
    ),
    "small": Variant(Config(features=(8, 16, 32, 64, 128)), Problem(2, 1, 2), None, "ours"),
    "tiny": Variant(Config(features=(4, 8, 16), is_class_guided=True), Problem(2, 1, 3), None, "ours"),
}


CONSTRAINTS = Constraints(
    spatial_dims=(2,),
    divisor=lambda config: 2 ** (len(config.features) - 1),
    # Batch normalisation cannot train on one pixel.
    smallest_side=lambda config: 2 ** len(config.features),
)


class _ConvNormReLU(nn.Sequential):
    """(B, in_channels, X, Y) -> (B, out_channels, X, Y)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
        )


class _FullScaleStage(nn.Module):
    """A decoder stage: maps of all stages, the finest first, each (B, channels[k], X / 2^k, Y / 2^k), to its own.

    Args:
        stage: 0 is full resolution.
        channels: of the maps.
        gathered: channels that each map is brought to; the result has as many for each map.
    """

    def __init__(self, stage: int, channels: list[int], gathered: int) -> None:
        super().__init__()
        self.stage = stage
        self.gather = nn.ModuleList(_ConvNormReLU(width, gathered) for width in channels)
        self.fuse = _ConvNormReLU(gathered * len(channels), gathered * len(channels))

    def forward(self, maps: list[Tensor]) -> Tensor:
        gathered = [
            conv(_to_stage(x, own, self.stage)) for own, (conv, x) in enumerate(zip(self.gather, maps, strict=True))
        ]
        return self.fuse(torch.cat(gathered, dim=1))


def _to_stage(x: Tensor, own: int, stage: int) -> Tensor:
    """A map of stage `own` with the sides of `stage`."""
    if own < stage:
        return functional.max_pool2d(x, 2 ** (stage - own))
    if own > stage:
        return _upsampled(x, 2 ** (own - stage))
    return x


def _upsampled(x: Tensor, factor: int) -> Tensor:
    return functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


class UNet3Plus(nn.Module):
    """Encoder, full-scale decoder, heads, and the class-guided module where there is one.

    Args:
        config: size and form.
        problem: two dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        features = config.features
        num_stages, gathered = len(features), features[0]
        fused = num_stages * gathered
        self.config = config
        self.encoder = nn.ModuleList(
            TwoConvs(2, (in_channels, width, width), norm="batch")
            for in_channels, width in zip([problem.in_channels, *features], features, strict=False)
        )
        # By stage, the finest first. The lowest map belongs to the encoder and to the decoder.
        self.decoder = nn.ModuleList(
            _FullScaleStage(
                stage, [*features[: stage + 1], *[fused] * (num_stages - stage - 2), features[-1]], gathered
            )
            for stage in range(num_stages - 1)
        )
        widths = [*[fused] * (num_stages - 1), features[-1]] if config.deep_supervision else [fused]
        self.heads = nn.ModuleList(nn.Conv2d(width, problem.num_classes, 3, padding=1) for width in widths)
        if config.is_class_guided:
            self.guide = nn.Sequential(
                nn.Dropout(config.guide_dropout_probability), nn.Conv2d(features[-1], 2, 1), nn.AdaptiveMaxPool2d(1)
            )
        init_by_fan_in(self)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, mean=1.0, std=0.02)

    def forward(self, x: Tensor) -> Tensor | SupervisedLogits:
        """Logits.

        Args:
            x: (B, C, X, Y).

        Returns:
            (B, K, X, Y). In training mode with deep supervision or class guidance: those of all heads, the finest
            first, brought to that size, and the guess whether there is foreground.

        Raises:
            IllegalSizeError: a side is no multiple of 16 or under 32 (five stages).
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        encoded: list[Tensor] = []
        for number, stage in enumerate(self.encoder):
            x = stage(x if number == 0 else functional.max_pool2d(x, 2))
            encoded.append(x)
        presence = self.guide(x).flatten(1) if self.config.is_class_guided else None
        decoded = [x]
        for number in reversed(range(len(self.decoder))):
            decoded.insert(0, self.decoder[number]([*encoded[: number + 1], *decoded]))
        if not self.training:
            return _gated(self.heads[0](decoded[0]), presence)
        logits = [head(map_) for head, map_ in zip(self.heads, decoded, strict=False)]
        if len(logits) == 1 and presence is None:
            return logits[0]
        logits = [_upsampled(side, 2**number) if number else side for number, side in enumerate(logits)]
        return SupervisedLogits(logits, (1 / len(logits),) * len(logits), presence)


def _gated(logits: Tensor, presence: Tensor | None) -> Tensor:
    """Background where the guess is that there is nothing else; presence (B, 2)."""
    if presence is None:
        return logits
    is_closed = (presence[:, 0] >= presence[:, 1]).view(-1, 1, 1, 1)
    # A single class is a sigmoid's, and has no background of its own.
    first = _CLOSED_LOGIT if logits.shape[1] > 1 else -_CLOSED_LOGIT
    closed = torch.cat([logits.new_full((1, 1, 1, 1), first), logits.new_zeros(1, logits.shape[1] - 1, 1, 1)], dim=1)
    return torch.where(is_closed, closed, logits)


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights: convolutions by He et al. (incoming values), scales of norms from N(1, 0.02).

    Raises:
        ValueError: the problem is not 2D, or there is one stage only.
    """
    if problem.spatial_dims != 2:
        raise ValueError(
            f"spatial_dims={problem.spatial_dims}: UNet 3+ serves 2; set the entry's configuration to 2d, or take "
            "segmentation/unet_plus_plus"
        )
    if len(config.features) < 2:
        raise ValueError(f"features={config.features}: must be the channels of two stages or more")
    return UNet3Plus(config, problem)
