"""Fully convolutional networks: FCN-32s, FCN-16s, FCN-8s (Long et al., 2015, arXiv 1411.4038; Shelhamer et al., 2017).

Figure 3: VGG-16 whose fully connected layers are convolutions; scores of the coarsest map, doubled and added to those
of finer poolings, then brought to the size of the image by bilinear transposed convolutions. Sections 4.1 to 4.3.

Differs:
    - Weights start fresh: the paper's have seen ImageNet, and those of FCN-16s and FCN-8s the next coarser network.
      Kaiming normal. The paper starts scores at zero and finds random ones neither better nor faster; here they start
      from a normal of deviation 0.01, so that a seed is seen from the first step.
    - `has_wide_padding=False`, ours, pads every convolution to keep the sides. The paper pads the first one by 100 and
      `fc6` not at all, which costs 13 times the operations where an image has 64 pixels a side.
    - `has_norm=True`, ours, puts batch normalisation before the ReLUs, for training without ImageNet.
    - All transposed convolutions stay bilinear, as in the authors' code. The first paper learns those that double;
      `learns_doubling=True`.
    - `backbone="resnet"` is torchvision's FCN, no network of the paper: a dilated ResNet-50 at an eighth, one head
      and an auxiliary one on the stage before, whose loss weighs a half; bilinear interpolation.
Shapes:
    B batch, C channels, X Y pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.fcn_head import fcn_head
from repro_models.blocks.resnet import ResNet
from repro_models.blocks.vgg import initialise_conv, vgg_stages, vgg_widths
from repro_models.contract import Constraints, Paper, Problem, Range, SupervisedLogits, Variant

PAPER = Paper(
    title="Fully Convolutional Networks for Semantic Segmentation",
    year=2015,
    address="https://arxiv.org/abs/1411.4038",
    reference_code="https://github.com/shelhamer/fcn.berkeleyvision.org",
)

_WIDE_PADDING = 100
_FC6_KERNEL_SIZE = 7
_RESNET_OUTPUT_STRIDE = 8
_AUXILIARY_WEIGHT = 0.5


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are the paper's FCN-8s.

    Attributes:
        backbone: "vgg16", or "resnet" for torchvision's network, which `num_blocks` and `base_features` alone describe.
        stride: of the finest scores: 32, 16 or 8.
        base_features: channels of the first stage.
        fc_features: channels of the two convolutions that were fully connected layers.
        dropout: of whole channels, after both.
        skip_scales: factors of the poolings at 1/8 and 1/16 before their scores; (0.0001, 0.01) trains all at once.
        has_wide_padding: padding of 100 around the image, as in the paper.
        has_norm: batch normalisation.
        learns_doubling: the transposed convolutions of stride 2 are learned.
        num_blocks: units of each stage of the ResNet.
    """

    backbone: str = "vgg16"
    stride: int = 8
    base_features: int = 64
    fc_features: int = 4096
    dropout: float = 0.5
    skip_scales: tuple[float, float] = (1.0, 1.0)
    has_wide_padding: bool = True
    has_norm: bool = False
    learns_doubling: bool = False
    num_blocks: tuple[int, ...] = (3, 4, 6, 3)


_AT_ONCE = (0.0001, 0.01)
_PORT = "counted in wkentaro/pytorch-fcn"
_VOC = Problem(spatial_dims=2, in_channels=3, num_classes=21)
_SLIM = Config(base_features=12, fc_features=192, dropout=0.1, has_wide_padding=False, has_norm=True)
VARIANTS = {
    "paper": Variant(
        Config(),
        _VOC,
        134_489_759,
        f"{_PORT}, 127,008 of them frozen; the paper gives 134 million",
        size=(500, 500),
        num_macs=181_529_034_048,
    ),
    "fcn_16s": Variant(
        Config(stride=16),
        _VOC,
        134_815_994,
        f"{_PORT}, 458,640 of them frozen",
        size=(500, 500),
        num_macs=181_448_086_272,
    ),
    "fcn_32s": Variant(
        Config(stride=32),
        _VOC,
        136_152_917,
        f"{_PORT}, 1,806,336 of them frozen",
        size=(500, 500),
        num_macs=181_365_854_976,
    ),
    "at_once": Variant(Config(skip_scales=_AT_ONCE), Problem(2, 3, 5), 134_292_079, _PORT),
    "resnet50": Variant(Config(backbone="resnet"), _VOC, 35_322_218, "counted in torchvision 0.29.2, fcn_resnet50"),
    "small": Variant(_SLIM, Problem(2, 1, 5), None, "ours"),
    "tiny": Variant(
        Config(base_features=4, fc_features=16, has_wide_padding=False, learns_doubling=True),
        Problem(2, 1, 3),
        None,
        "ours",
    ),
}

SEARCH_SPACE = {"dropout": Range(0.0, 0.5)}


def _smallest_side(config: Config) -> int:
    # Where batch normalisation must train, the coarsest map has two pixels at least.
    if config.backbone == "resnet":
        return _RESNET_OUTPUT_STRIDE + 1
    return 17 if config.has_norm else 1


CONSTRAINTS = Constraints(spatial_dims=(2,), divisor=lambda config: 1, smallest_side=_smallest_side)


def bilinear_kernel(num_classes: int, stride: int) -> Tensor:
    """(K, K, 2 stride, 2 stride): each class to itself, weights falling linearly from the centre."""
    centre = stride - 0.5
    line = 1 - (torch.arange(2 * stride) - centre).abs() / stride
    return torch.eye(num_classes)[:, :, None, None] * line[:, None] * line


class _Upsampling(nn.ConvTranspose2d):
    """(B, K, X, Y) -> (B, K, stride (X + 1), stride (Y + 1)), bilinear unless it learns."""

    def __init__(self, num_classes: int, stride: int, is_learned: bool) -> None:
        super().__init__(num_classes, num_classes, 2 * stride, stride=stride, bias=False)
        self.weight.data.copy_(bilinear_kernel(num_classes, stride))
        self.weight.requires_grad_(is_learned)


def _cut(x: Tensor, start: int, size: torch.Size) -> Tensor:
    """`size` pixels of (B, K, X, Y) from `start` on, along both axes."""
    return x[:, :, start : start + size[0], start : start + size[1]]


class FCN(nn.Module):
    """VGG-16, scores of one to three levels, their sum at the size of the image.

    A score lies over the centre of the pixels it sees, so what is cut away follows from paddings and strides. With the
    first convolution padded by 100 and `fc6` not at all: 5 and 9 pixels of the scores at 1/16 and 1/8, and 100 - 81,
    100 - 73 or 100 - 69 of the image for strides of 32, 16 and 8. Where every convolution keeps the sides: half a
    stride of each transposed convolution.

    Args:
        config: size and form.
        problem: two dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        self.config = config
        num_classes, widths = problem.num_classes, vgg_widths(config.base_features)
        padding = _WIDE_PADDING if config.has_wide_padding else 1
        self.stages = vgg_stages(
            problem.in_channels, config.base_features, has_norm=config.has_norm, first_padding=padding
        )
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.fully_connected = nn.Sequential(
            nn.Conv2d(
                widths[-1],
                config.fc_features,
                _FC6_KERNEL_SIZE,
                padding=0 if config.has_wide_padding else _FC6_KERNEL_SIZE // 2,
            ),
            nn.ReLU(inplace=True),
            nn.Dropout2d(config.dropout),
            nn.Conv2d(config.fc_features, config.fc_features, 1),
            nn.ReLU(inplace=True),
            nn.Dropout2d(config.dropout),
        )
        for layer in self.fully_connected:
            if isinstance(layer, nn.Conv2d):
                initialise_conv(layer)
        # From coarse to fine: channels scored, factors before the scores, and where scores are cut.
        num_skips = {32: 0, 16: 1, 8: 2}[config.stride]
        self.skip_factors = config.skip_scales[::-1][:num_skips]
        self.skip_starts = (5, 9)[:num_skips]
        self.scores = nn.ModuleList(
            nn.Conv2d(channels, num_classes, 1)
            for channels in (config.fc_features, widths[3], widths[2])[: num_skips + 1]
        )
        for score in self.scores:
            nn.init.normal_(score.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(score.bias)  # type: ignore[arg-type]
        self.doublings = nn.ModuleList(
            _Upsampling(num_classes, 2, is_learned=config.learns_doubling) for _ in range(num_skips)
        )
        self.to_image = _Upsampling(num_classes, config.stride, is_learned=False)
        self.image_start = config.stride // 2
        if config.has_wide_padding:
            self.image_start = _WIDE_PADDING - {32: 81, 16: 73, 8: 69}[config.stride]

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, C, X, Y).

        Returns:
            (B, K, X, Y).
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        size = x.shape[2:]
        poolings: list[Tensor] = []
        for stage in self.stages:
            x = self.pool(stage(x))
            poolings.append(x)
        score, *skip_scores = self.scores
        y = score(self.fully_connected(x))
        skips = zip(self.doublings, skip_scores, poolings[3:1:-1], self.skip_factors, self.skip_starts, strict=False)
        for doubling, score, pooling, factor, start in skips:
            finer = score(pooling * factor)
            y = doubling(y)
            if self.config.has_wide_padding:
                y = y + _cut(finer, start, y.shape[2:])
            else:
                y = _cut(y, 1, finer.shape[2:]) + finer
        return _cut(self.to_image(y), self.image_start, size)


class FCNOnResNet(nn.Module):
    """Dilated ResNet, a head on its last stage, in training another one on the stage before.

    Args:
        config: `base_features`, `num_blocks`.
        problem: two dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        self.config = config
        self.encoder = ResNet(
            problem.in_channels,
            config.num_blocks,
            config.base_features,
            output_stride=_RESNET_OUTPUT_STRIDE,
            dilates_first_unit=False,
        )
        self.head = fcn_head(self.encoder.channels[-1], problem.num_classes)
        self.auxiliary_head = fcn_head(self.encoder.channels[-2], problem.num_classes)

    def forward(self, x: Tensor) -> Tensor | SupervisedLogits:
        """Logits (B, K, X, Y) of images (B, C, X, Y); in training mode those of both heads.

        Raises:
            IllegalSizeError: a side is under 9.
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        maps = self.encoder(x)
        logits = [self._to_image(self.head(maps[-1]), x)]
        if not self.training:
            return logits[0]
        logits.append(self._to_image(self.auxiliary_head(maps[-2]), x))
        return SupervisedLogits(logits, (1.0, _AUXILIARY_WEIGHT))

    def _to_image(self, logits: Tensor, image: Tensor) -> Tensor:
        return functional.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=False)


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: the problem is not 2D, or the stride or the backbone is none there is.
    """
    if problem.spatial_dims != 2:
        raise ValueError(f"spatial_dims={problem.spatial_dims}: FCN serves 2; take `configuration: 2d`")
    if config.stride not in (8, 16, 32):
        raise ValueError(f"stride={config.stride}: must be 8, 16 or 32")
    if config.backbone not in ("vgg16", "resnet"):
        raise ValueError(f"backbone={config.backbone!r}: must be 'vgg16' or 'resnet'")
    return FCN(config, problem) if config.backbone == "vgg16" else FCNOnResNet(config, problem)
