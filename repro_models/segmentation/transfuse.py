"""TransFuse (Zhang et al., 2021, arXiv 2102.08005).

Figure 1: a ResNet of three stages and a vision transformer side by side, fused at 1/16, 1/8 and 1/4 by BiFusion modules
that attention-gated steps join (equations 1 to 3); three outputs are supervised.

Differs:
    - Weights start fresh; the paper's branches are trained on ImageNet first.
    - Sizes are those of the authors' code. Its class token, which nothing reads, is not here; `VARIANTS` gives both
      counts. It takes images of one size, written into its forward pass; here `image_size` says which.
    - The prediction is the map of the finest fusion alone, so evaluation does not compute the two others.
    - Convolutions before batch normalisation keep their biases, which have no effect, as in the authors' code.
    - The loss of each output is the study's; the paper adds a cross entropy and an IoU that weigh pixels near borders
      more. The outputs' weights are the paper's.
    - Layers of the transformer start as `repro_models/blocks/vision_transformer.py` says, convolutions of the fusion by
      Kaiming normal, as in the authors' code.
Shapes:
    B batch, C channels, X Y pixels, K classes, T tokens (one per 16 x 16 pixels), E hidden size, G channels of the CNN,
    D channels of the transformer at the same resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.image_size import OneImageSize, sides_of
from repro_models.blocks.resnet import ResNet
from repro_models.blocks.vision_transformer import LAYER_NORM_EPSILON, VisionTransformer, check_heads, tokens_as_map
from repro_models.contract import Paper, Problem, Range, SupervisedLogits, Variant

PAPER = Paper(
    title="TransFuse: Fusing Transformers and CNNs for Medical Image Segmentation",
    year=2021,
    address="https://arxiv.org/abs/2102.08005",
    reference_code="https://github.com/Rayicer/TransFuse",
)

_TOKEN_SIDE = 16
_FINEST = 4


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are TransFuse-S for ISIC 2017.

    Attributes:
        image_size: sides of the images it takes, all others are refused, because each token has a position of its own;
            an int serves both axes. Planning sets it to the patch (`with_patch_size`).
        resnet_depths: units of the three stages of the ResNet.
        base_features: channels of its first convolution.
        has_bottlenecks: its units have three convolutions, as in ResNet-50; False: two, as in ResNet-34.
        hidden_size: E, a multiple of `num_heads` and of 4.
        mlp_size: hidden units of the two-layer perceptron of a block.
        num_heads: of every block.
        num_blocks: transformer blocks.
        dropout: probability of a channel of a map of either branch; half of it after a fusion.
        loss_weights: of the outputs in training: of the finest fusion, of the transformer, of the coarsest fusion.
    """

    image_size: int | Sequence[int] = (192, 256)
    resnet_depths: tuple[int, int, int] = (3, 4, 6)
    base_features: int = 64
    has_bottlenecks: bool = False
    hidden_size: int = 384
    mlp_size: int = 1536
    num_heads: int = 6
    num_blocks: int = 8
    dropout: float = 0.2
    loss_weights: tuple[float, float, float] = (0.5, 0.3, 0.2)


def with_patch_size(config: Config, patch_size: Sequence[int]) -> Config:
    """`config` for images of `patch_size` pixels."""
    return replace(config, image_size=tuple(patch_size))


VARIANTS = {
    "paper": Variant(
        Config(),
        Problem(spatial_dims=2, in_channels=3, num_classes=1),
        26_248_341,
        "the authors' code counts 26,248,725, of which 384 are a class token that nothing reads; its 8,818,767,744 "
        "MACs are with the two outputs that only training needs",
        (192, 256),
        8_693_417_856,
    ),
    "large": Variant(
        Config(has_bottlenecks=True, hidden_size=768, mlp_size=3072, num_heads=12, num_blocks=12),
        Problem(2, 3, 1),
        143_540_021,
        "the authors' code counts 143,540,789, of which 768 are a class token that nothing reads; its 62,594,041,728 "
        "MACs are with the two outputs that only training needs",
        (192, 256),
        60_611_004_288,
    ),
    "small": Variant(
        Config(
            image_size=64,
            resnet_depths=(1, 1, 1),
            base_features=16,
            hidden_size=96,
            mlp_size=384,
            num_heads=6,
            num_blocks=4,
        ),
        Problem(2, 1, 5),
        None,
        "ours",
    ),
    "tiny": Variant(
        Config(
            image_size=32,
            resnet_depths=(1, 1, 1),
            base_features=4,
            hidden_size=16,
            mlp_size=32,
            num_heads=2,
            num_blocks=2,
        ),
        Problem(2, 1, 3),
        None,
        "ours",
    ),
}

SEARCH_SPACE = {"dropout": Range(0.0, 0.4)}

# Two tokens a side at least: batch normalisation cannot train on one.
CONSTRAINTS = OneImageSize(
    spatial_dims=(2,), divisor=lambda config: _TOKEN_SIDE, smallest_side=lambda config: 2 * _TOKEN_SIDE
)


def _enlarged(x: Tensor, factor: int) -> Tensor:
    """(B, C, X, Y) -> (B, C, factor * X, factor * Y), corners at the same places."""
    size = [factor * side for side in x.shape[2:]]
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=True)


def _conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    """Convolution that keeps the sides."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)


def _conv_norm(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(_conv(in_channels, out_channels, kernel_size), nn.BatchNorm2d(out_channels))


def _conv_norm_relu(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(*_conv_norm(in_channels, out_channels, kernel_size), nn.ReLU(inplace=True))


class _TwoConvs(nn.Module):
    """Two convolutions beside a shortcut: (B, in_channels, X, Y) -> (B, out_channels, X, Y)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *_conv_norm_relu(in_channels, out_channels, 3), *_conv_norm(out_channels, out_channels, 3)
        )
        self.shortcut = _conv_norm(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.residual(x) + self.shortcut(x))


class _PreActivationBottleneck(nn.Module):
    """Normalisation before each of three convolutions, beside a shortcut.

    (B, in_channels, X, Y) -> (B, out_channels, X, Y).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        layers: list[nn.Module] = []
        for before, after, kernel_size in ((in_channels, half, 1), (half, half, 3), (half, out_channels, 1)):
            layers += [nn.BatchNorm2d(before), nn.ReLU(inplace=True), _conv(before, after, kernel_size)]
        self.residual = nn.Sequential(*layers)
        self.shortcut = _conv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


class _BiFusion(nn.Module):
    """Equation 1: (B, G, X, Y) of the CNN and (B, D, X, Y) of the transformer -> (B, G, X, Y).

    Args:
        cnn_channels: G.
        transformer_channels: D, a multiple of `reduction`.
        reduction: how many times fewer hidden units the attention over channels has.
        dropout: probability of a channel of the result.
    """

    def __init__(self, cnn_channels: int, transformer_channels: int, reduction: int, dropout: float) -> None:
        super().__init__()
        hidden = transformer_channels // reduction
        self.channel_attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(transformer_channels, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, transformer_channels, 1),
            nn.Sigmoid(),
        )
        self.spatial_attention = nn.Sequential(
            nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1), nn.Sigmoid()
        )
        self.cnn_factor = _conv_norm(cnn_channels, cnn_channels, 1)
        self.transformer_factor = _conv_norm(transformer_channels, cnn_channels, 1)
        self.product = _conv_norm_relu(cnn_channels, cnn_channels, 3)
        self.residual = _PreActivationBottleneck(2 * cnn_channels + transformer_channels, cnn_channels)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, cnn: Tensor, transformer: Tensor) -> Tensor:
        product = self.product(self.cnn_factor(cnn) * self.transformer_factor(transformer))
        pooled = torch.cat([cnn.amax(1, keepdim=True), cnn.mean(1, keepdim=True)], dim=1)
        cnn = cnn * self.spatial_attention(pooled)
        transformer = transformer * self.channel_attention(transformer)
        return self.dropout(self.residual(torch.cat([cnn, transformer, product], dim=1)))


class _GatedStep(nn.Module):
    """Equations 2 and 3: double the sides, gate the finer fusion by the result, convolve both.

    (B, coarse, X, Y) and (B, fine, 2 X, 2 Y) -> (B, fine, 2 X, 2 Y).
    """

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.gate_projection = _conv_norm(coarse, fine, 1)
        self.skip_projection = _conv_norm(fine, fine, 1)
        self.gate = nn.Sequential(*_conv_norm(fine, 1, 1), nn.Sigmoid())
        self.convs = _TwoConvs(fine + coarse, fine)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = _enlarged(x, 2)
        gate = self.gate(functional.relu(self.gate_projection(x) + self.skip_projection(skip)))
        return self.convs(torch.cat([gate * skip, x], dim=1))


class TransFuse(nn.Module):
    """CNN and transformer in parallel, fused at three resolutions.

    Args:
        config: size and form.
        problem: two dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        self.config = config
        self.grid = tuple(side // _TOKEN_SIDE for side in sides_of(config.image_size, 2))
        self.resnet = ResNet(
            problem.in_channels, config.resnet_depths, config.base_features, is_bottleneck=config.has_bottlenecks
        )
        self.transformer = VisionTransformer(
            2,
            problem.in_channels,
            self.grid,
            _TOKEN_SIDE,
            config.hidden_size,
            config.mlp_size,
            config.num_heads,
            config.num_blocks,
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPSILON)
        _, fine, middle, coarse = self.resnet.channels
        self.dropout = nn.Dropout2d(config.dropout)
        # From here on from coarse to fine: 1/16, 1/8, 1/4.
        self.transformer_steps = nn.ModuleList([_TwoConvs(config.hidden_size, middle), _TwoConvs(middle, fine)])
        self.fusions = nn.ModuleList(
            _BiFusion(cnn_channels, transformer_channels, reduction, config.dropout / 2)
            for cnn_channels, transformer_channels, reduction in (
                (coarse, config.hidden_size, 4),
                (middle, middle, 2),
                (fine, fine, 1),
            )
        )
        self.steps = nn.ModuleList([_GatedStep(coarse, middle), _GatedStep(middle, fine)])
        num_classes = problem.num_classes
        self.fused_head = nn.Sequential(_conv_norm_relu(fine, fine, 3), _conv(fine, num_classes, 3))
        self.transformer_head = nn.Sequential(_conv_norm_relu(fine, fine, 3), _conv(fine, num_classes, 3))
        self.coarse_head = nn.Sequential(
            _conv_norm_relu(coarse, fine, 1), _conv_norm_relu(fine, fine, 3), _conv(fine, num_classes, 3)
        )
        for name, part in self.named_children():
            for module in part.modules():
                if name not in ("resnet", "transformer") and isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor | SupervisedLogits:
        """Logits.

        Args:
            x: (B, C, *image_size).

        Returns:
            (B, K, *image_size), of the finest fusion; in training these and those of the transformer and of the
            coarsest fusion, of the same shape.

        Raises:
            IllegalSizeError: the image does not have the sides `image_size`.
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        transformer_maps, cnn_maps = self._transformer_maps(x), self._cnn_maps(x)
        coarse, *finer = [fuse(*maps) for fuse, *maps in zip(self.fusions, cnn_maps, transformer_maps, strict=True)]
        y = coarse
        for step, skip in zip(self.steps, finer, strict=True):
            y = step(y, skip)
        logits = _enlarged(self.fused_head(y), _FINEST)
        if not self.training:
            return logits
        of_transformer = _enlarged(self.transformer_head(transformer_maps[-1]), _FINEST)
        return SupervisedLogits(
            [logits, of_transformer, _enlarged(self.coarse_head(coarse), _TOKEN_SIDE)], tuple(self.config.loss_weights)
        )

    def _transformer_maps(self, x: Tensor) -> list[Tensor]:
        """(B, C, X, Y) -> the transformer's maps at 1/16, 1/8 and 1/4."""
        tokens = self.norm(self.transformer(x, {self.config.num_blocks})[0])
        maps = [self.dropout(tokens_as_map(tokens, self.grid))]
        for convs in self.transformer_steps:
            maps.append(self.dropout(convs(_enlarged(maps[-1], 2))))
        return maps

    def _cnn_maps(self, x: Tensor) -> list[Tensor]:
        """(B, C, X, Y) -> the CNN's maps at 1/16, 1/8 and 1/4."""
        x = self.resnet.pool(self.resnet.stem(x))
        maps: list[Tensor] = []
        for stage in self.resnet.stages:
            x = self.dropout(stage(x))
            maps.insert(0, x)
        return maps


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: the problem is not 2D, heads do not divide the hidden size or 4 does not, or the ResNet has another
            number of stages than three or an odd number of channels, or the outputs have not three weights.
        IllegalSizeError: a side of `image_size` is no multiple of 16, or below 32.
    """
    if problem.spatial_dims != 2:
        raise ValueError(
            f"spatial_dims={problem.spatial_dims}: TransFuse serves 2; take segmentation/unetr or set "
            "configuration: 2d for slices"
        )
    check_heads(config.hidden_size, config.num_heads)
    if config.hidden_size % 4 or config.base_features % 2:
        raise ValueError(
            f"hidden_size={config.hidden_size} and base_features={config.base_features}: the first must be a multiple "
            "of 4 and the second of 2, because fusions reduce channels by that"
        )
    if len(config.resnet_depths) != 3 or any(depth < 1 for depth in config.resnet_depths):
        raise ValueError(f"resnet_depths={config.resnet_depths}: give three numbers of units, 1 at least")
    if len(config.loss_weights) != 3 or min(config.loss_weights) < 0:
        raise ValueError(f"loss_weights={config.loss_weights}: give three that are not negative, one for each output")
    CONSTRAINTS.check_config(config, problem.spatial_dims)
    return TransFuse(config, problem)
