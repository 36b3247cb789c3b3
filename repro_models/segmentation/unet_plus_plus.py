"""U-Net++ (Zhou et al., 2018, arXiv 1807.10165).

Figure 1a: node X(i, j) stands at resolution i and joins all nodes X(i, 0..j-1) left of it with the up-convolution of
X(i+1, j-1); X(i, 0) is the encoder. Deep supervision (section 3.2): a head on each of X(0, 1), ..., X(0, L).

In evaluation mode the network is "accurate" (the mean of the heads' probabilities) or, pruned to level P, "fast": the
head of X(0, P) alone, and only the nodes that it needs are computed. Pruning takes no training:
`network.pruned_level = 2` on a trained network, or `Config(pruned_level=2)`, which trains all heads all the same.

Differs:
    - Logits are returned. Those of the accurate mode are the logarithm of the mean probability (of one class, its log
      odds); the code of the U-Net 3+ group averages logits.
    - Each head's loss weighs 1 / L, not 1, so that the loss is as large as that of one head.
    - The widely quoted 47.18 M parameters are a network of the U-Net 3+ group: the variant `zju`.
    - Three dimensions too, and instance normalisation with a leaky ReLU, as in MONAI's `BasicUNetPlusPlus`; in some of
      its sizes the up-convolutions to full resolution keep their channels: `keeps_top_channels`.
Shapes:
    B batch, C channels, X Y (Z) pixels, K classes, L levels below full resolution.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.fan_in_init import init_by_fan_in
from repro_models.blocks.pointwise_conv import POINTWISE_CONV
from repro_models.blocks.residual_conv_block import TRANSPOSED_CONV
from repro_models.blocks.two_convs import TwoConvs, check_norm
from repro_models.contract import Constraints, Paper, Problem, Range, SupervisedLogits, Variant

PAPER = Paper(
    title="UNet++: A Nested U-Net Architecture for Medical Image Segmentation",
    year=2018,
    address="https://arxiv.org/abs/1807.10165",
    reference_code="https://github.com/MrGiovanni/UNetPlusPlus",
)


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are the paper's.

    Attributes:
        features: channels of each resolution, the finest first; L is one less than there are.
        deep_supervision: a head on each of X(0, 1..L); False: on X(0, L) alone.
        pruned_level: P in 1..L, by whose head evaluation mode predicts; None takes the mean of all.
        dropout_probability: of each value, after every ReLU.
        norm: None as in the authors' code, "batch" or "instance".
        norms_decoder: nodes that are not the encoder's are normalised, too.
        negative_slope: of the ReLU.
        upsampling_kernel: side of the up-convolutions, 2 or 4.
        keeps_top_channels: the up-convolutions to full resolution do not halve the channels (MONAI's).
    """

    features: tuple[int, ...] = (32, 64, 128, 256, 512)
    deep_supervision: bool = True
    pruned_level: int | None = None
    dropout_probability: float = 0.5
    norm: str | None = None
    norms_decoder: bool = True
    negative_slope: float = 0.0
    upsampling_kernel: int = 2
    keeps_top_channels: bool = False


VARIANTS = {
    "paper": Variant(
        Config(),
        Problem(spatial_dims=2, in_channels=3, num_classes=1),
        9_042_276,
        "counted in a transcription of the authors' code",
        size=(96, 96),
        num_macs=4_189_814_784,
    ),
    "single_head": Variant(
        Config(deep_supervision=False), Problem(2, 1, 1), 9_041_601, "printed in the authors' code (keras)"
    ),
    "zju": Variant(
        Config(
            features=(64, 128, 256, 512, 1024),
            dropout_probability=0.0,
            norm="batch",
            norms_decoder=False,
            upsampling_kernel=4,
        ),
        Problem(2, 3, 1),
        47_176_132,
        "measured in ZJUGiveLab/UNet-Version",
        size=(320, 320),
        num_macs=211_176_652_800,
    ),
    "monai": Variant(
        Config(features=(32, 32, 64, 128, 256), dropout_probability=0.0, norm="instance", negative_slope=0.1),
        Problem(2, 1, 2),
        2_410_312,
        "MONAI 1.6.1, BasicUNetPlusPlus by default",
    ),
    "monai_wide": Variant(
        Config(dropout_probability=0.0, norm="instance", negative_slope=0.1, keeps_top_channels=True),
        Problem(2, 3, 1),
        9_119_332,
        "MONAI 1.6.1, BasicUNetPlusPlus at the paper's channels",
    ),
    "reference_small": Variant(
        Config(features=(4, 8, 16, 32, 64)),
        Problem(2, 1, 1),
        141_816,
        "counted in a transcription of the authors' code",
    ),
    # The paper's form, without normalisation and with half of the values dropped, learns next to nothing in a minute.
    "small": Variant(
        Config(features=(8, 16, 32, 64, 128), dropout_probability=0.0, norm="instance"), Problem(2, 1, 2), None, "ours"
    ),
    "tiny": Variant(Config(features=(4, 8, 16), dropout_probability=0.1), Problem(2, 1, 3), None, "ours"),
}

SEARCH_SPACE = {"dropout_probability": Range(0.0, 0.5)}


def _num_levels(config: Config) -> int:
    return len(config.features) - 1


CONSTRAINTS = Constraints(
    spatial_dims=(2, 3),
    divisor=lambda config: 2 ** _num_levels(config),
    # A normalisation cannot train on one pixel.
    smallest_side=lambda config: 2 ** _num_levels(config) * (1 if config.norm is None else 2),
)


class UNetPlusPlus(nn.Module):
    """Nodes by resolution, up-convolutions between them, heads.

    Args:
        config: size and form.
        problem: dimensions, channels and classes.

    Attributes:
        pruned_level: as in `Config`; may be set on a trained network with deep supervision.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        dims, features, num_levels = problem.spatial_dims, config.features, _num_levels(config)

        def node(in_channels: int, width: int, norm: str | None) -> nn.Module:
            return TwoConvs(
                dims,
                (in_channels, width, width),
                norm,
                negative_slope=config.negative_slope,
                dropout_probability=config.dropout_probability,
            )

        self.config = config
        self.pruned_level = config.pruned_level
        self.pool = nn.MaxPool2d(2) if dims == 2 else nn.MaxPool3d(2)
        self.encoder = nn.ModuleList(
            node(in_channels, width, config.norm)
            for in_channels, width in zip([problem.in_channels, *features], features, strict=False)
        )
        # upsampling[i][j - 1] leads to nodes[i][j - 1], which is X(i, j).
        self.upsampling, self.nodes = nn.ModuleList(), nn.ModuleList()
        decoder_norm = config.norm if config.norms_decoder else None
        for i in range(num_levels):
            fine, coarse = features[i], features[i + 1]
            upsampled = coarse if config.keeps_top_channels and i == 0 else fine
            columns = range(1, num_levels - i + 1)
            self.upsampling.append(
                nn.ModuleList(
                    TRANSPOSED_CONV[dims](
                        coarse,
                        upsampled,
                        config.upsampling_kernel,
                        stride=2,
                        padding=(config.upsampling_kernel - 2) // 2,
                    )
                    for _ in columns
                )
            )
            self.nodes.append(nn.ModuleList(node(j * fine + upsampled, fine, decoder_norm) for j in columns))
        num_heads = num_levels if config.deep_supervision else 1
        self.heads = nn.ModuleList(POINTWISE_CONV[dims](features[0], problem.num_classes) for _ in range(num_heads))
        init_by_fan_in(self)

    def forward(self, x: Tensor) -> Tensor | SupervisedLogits:
        """Logits.

        Args:
            x: (B, C, *spatial).

        Returns:
            (B, K, *spatial); in training mode with deep supervision those of X(0, L), ..., X(0, 1), all of that size.

        Raises:
            IllegalSizeError: a side is no multiple of 16 (five resolutions).
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        deepest = _num_levels(self.config)
        if not self.config.deep_supervision:
            return self.heads[0](self._top_row(x, deepest)[-1])
        if self.training:
            logits = [head(top) for head, top in zip(self.heads, self._top_row(x, deepest), strict=True)]
            return SupervisedLogits(logits[::-1], (1 / deepest,) * deepest)
        if self.pruned_level is not None:
            return self.heads[self.pruned_level - 1](self._top_row(x, self.pruned_level)[-1])
        return _mean_prediction([head(top) for head, top in zip(self.heads, self._top_row(x, deepest), strict=True)])

    def _top_row(self, x: Tensor, level: int) -> list[Tensor]:
        """X(0, 1), ..., X(0, level), each (B, features[0], *spatial)."""
        rows: list[list[Tensor]] = []
        # One diagonal i + j after the other, from the encoder up to full resolution.
        for diagonal in range(level + 1):
            rows.append([self.encoder[diagonal](x if diagonal == 0 else self.pool(rows[-1][0]))])
            for i in reversed(range(diagonal)):
                j = diagonal - i
                upsampled = self.upsampling[i][j - 1](rows[i + 1][j - 1])  # type: ignore[index]
                rows[i].append(self.nodes[i][j - 1](torch.cat([upsampled, *rows[i]], dim=1)))  # type: ignore[index]
        return rows[0][1:]


def _mean_prediction(heads: list[Tensor]) -> Tensor:
    """Logits whose softmax is the mean of the heads' (for one class: whose sigmoid); all (B, K, *spatial)."""

    def log_mean(logarithms: list[Tensor]) -> Tensor:
        return functools.reduce(torch.logaddexp, logarithms) - math.log(len(logarithms))

    if heads[0].shape[1] == 1:
        return log_mean([functional.logsigmoid(head) for head in heads]) - log_mean(
            [functional.logsigmoid(-head) for head in heads]
        )
    return log_mean([head.log_softmax(dim=1) for head in heads])


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights, as in the authors' code from a normal of variance 2 over incoming values.

    Raises:
        ValueError: `config.norm` or `config.upsampling_kernel` is unknown, there is one resolution only, there is no
            head of the pruned level, or no such dimensions.
    """
    check_norm(config.norm)
    if problem.spatial_dims not in CONSTRAINTS.spatial_dims:
        raise ValueError(f"spatial_dims={problem.spatial_dims}: U-Net++ serves 2 and 3")
    if len(config.features) < 2:
        raise ValueError(f"features={config.features}: must be the channels of two resolutions or more")
    if config.upsampling_kernel not in (2, 4):
        raise ValueError(f"upsampling_kernel={config.upsampling_kernel}: must be 2 or 4")
    if config.pruned_level is not None:
        if not config.deep_supervision:
            raise ValueError(
                f"pruned_level={config.pruned_level}: without deep supervision there is one head; set "
                "deep_supervision=True, or leave pruned_level out"
            )
        if not 1 <= config.pruned_level <= _num_levels(config):
            raise ValueError(f"pruned_level={config.pruned_level}: must be from 1 to {_num_levels(config)}, or None")
    return UNetPlusPlus(config, problem)
