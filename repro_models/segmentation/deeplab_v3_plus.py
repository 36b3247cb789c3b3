"""DeepLab V3+ (Chen et al., 2018, arXiv 1802.02611).

Figure 2: DeepLab V3's encoder and pyramid at a sixteenth of the image; its features, brought to a quarter, are joined
to the reduced low-level features there; two 3x3 convolutions refine both. Section 4.1: 48 reduced channels, two
convolutions. Section 3.2: aligned Xception, and separable convolutions in pyramid and decoder.

Differs:
    - Weights start fresh: the paper's have seen ImageNet. Kaiming normal, by the outputs, as for ResNet; classifier by
      torch's default.
    - Features are brought to the size of the low-level map and logits to that of the image, whatever the sides; the
      paper takes factors of 4. Corners of pixels are aligned, not their centres; `aligns_centres=True` does as
      segmentation-models-pytorch.
    - Four sizes of the network with ResNet-101 are in circulation. The default is the paper's; another has one
      convolution in its decoder, which takes the low-level map first, and torchvision's ResNet;
      segmentation-models-pytorch has separable convolutions without normalisation between depthwise and pointwise
      ones, one in the decoder, and another one after the pyramid.
    - A published port with MobileNetV2 pads maps in another place (`repro_models/blocks/mobilenet.py`);
      `has_port_padding=True`.
Shapes:
    B batch, C channels, X Y pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.aligned_xception import AlignedXception
from repro_models.blocks.aspp import ASPP, SEPARABLE, pyramid_conv
from repro_models.blocks.conv_norm import conv_norm_relu
from repro_models.blocks.mobilenet import MobileNetV2
from repro_models.blocks.resnet import ResNet
from repro_models.contract import Constraints, Paper, Problem, Range, Variant

PAPER = Paper(
    title="Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
    year=2018,
    address="https://arxiv.org/abs/1802.02611",
    reference_code="https://github.com/tensorflow/models/tree/master/research/deeplab",
)

_RATES = (6, 12, 18)
_RATES_STRIDE = 16
_BACKBONES = ("resnet", "xception", "mobilenet_v2")


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are the paper's with ResNet-101.

    Attributes:
        backbone: "resnet", "xception" or "mobilenet_v2"; the last one has no further settings but `has_port_padding`.
        num_blocks: units of each of the four stages of the ResNet.
        base_features: channels of the first convolution: 64 in a ResNet, 32 in Xception.
        output_stride: of the last map: 16 or 8.
        multi_grid: factors of the dilations of the last ResNet stage's units, one each; empty: all 1.
        atrous_rates: of the pyramid; None: 6, 12, 18 at a sixteenth and twice that at an eighth.
        pyramid_features: channels of the pyramid and the decoder.
        low_level_features: channels to which the low-level map is reduced.
        joins_low_level_first: order of what the decoder joins.
        num_decoder_convs: 3x3 convolutions of the decoder.
        separable: 3x3 convolutions of pyramid and decoder: "no", "plain" (depthwise and pointwise) or "normalised"
            (with normalisation and ReLU between both, as in the paper with Xception).
        has_conv_after_pyramid: a 3x3 convolution before the decoder, as in segmentation-models-pytorch.
        strides_first_conv: the first convolution of a ResNet unit has the stride, as in the paper of ResNet.
        dilates_first_unit: the first unit of a ResNet stage dilates as the others do.
        has_port_padding: pad MobileNetV2 as the published port does.
        aligns_centres: centres of the corner pixels are aligned where maps are enlarged, not their outer corners.
        dropout: at the end of the pyramid.
    """

    backbone: str = "resnet"
    num_blocks: tuple[int, ...] = (3, 4, 23, 3)
    base_features: int = 64
    output_stride: int = 16
    multi_grid: tuple[int, ...] = (1, 2, 4)
    atrous_rates: tuple[int, ...] | None = None
    pyramid_features: int = 256
    low_level_features: int = 48
    joins_low_level_first: bool = False
    num_decoder_convs: int = 2
    separable: str = "no"
    has_conv_after_pyramid: bool = False
    strides_first_conv: bool = True
    dilates_first_unit: bool = True
    has_port_padding: bool = False
    aligns_centres: bool = False
    dropout: float = 0.0


_VOC, _FIVE = Problem(spatial_dims=2, in_channels=3, num_classes=21), Problem(2, 3, 5)
_PORT = "counted in kazuto1011/deeplab-pytorch"
_VAINF = "counted in VainF/DeepLabV3Plus-Pytorch"
_SMP = "counted in segmentation-models-pytorch 0.6.0"
_RESNET50 = (3, 4, 6, 3)
_ONE_CONV = Config(
    multi_grid=(),
    joins_low_level_first=True,
    num_decoder_convs=1,
    strides_first_conv=False,
    dilates_first_unit=False,
    dropout=0.1,
)
_SEPARABLE = replace(
    _ONE_CONV,
    joins_low_level_first=False,
    dilates_first_unit=True,
    separable="plain",
    has_conv_after_pyramid=True,
    aligns_centres=True,
    dropout=0.5,
)
_SLIM = Config(base_features=16, num_blocks=(1, 1, 1, 1), multi_grid=(), pyramid_features=32, low_level_features=12)
VARIANTS = {
    "paper": Variant(
        Config(),
        _VOC,
        59_344_309,
        f"{_PORT}; the same in jfzhang95/pytorch-deeplab-xception",
        size=(513, 513),
        num_macs=92_002_474_432,
    ),
    "one_unit_a_stage": Variant(Config(num_blocks=(1, 1, 1, 3)), _FIVE, 33_781_157, _PORT),
    "xception": Variant(
        Config(backbone="xception", base_features=32),
        _VOC,
        54_705_317,
        "counted in jfzhang95/pytorch-deeplab-xception, whose pyramid and decoder are not separable",
    ),
    "xception_separable": Variant(
        Config(backbone="xception", base_features=32, separable="normalised"), _VOC, None, "the paper gives none"
    ),
    "one_conv_resnet101": Variant(_ONE_CONV, _VOC, 58_753_973, _VAINF, size=(513, 513), num_macs=83_005_102_528),
    "one_conv_resnet50": Variant(replace(_ONE_CONV, num_blocks=_RESNET50), _FIVE, 39_757_733, _VAINF),
    "one_conv_mobilenet_v2": Variant(replace(_ONE_CONV, backbone="mobilenet_v2"), _FIVE, 5_221_605, _VAINF),
    "separable_resnet101": Variant(_SEPARABLE, _VOC, 45_674_853, _SMP),
    "separable_resnet50": Variant(replace(_SEPARABLE, num_blocks=_RESNET50), _VOC, 26_682_725, _SMP),
    "small": Variant(_SLIM, Problem(2, 1, 5), None, "ours"),
    "tiny": Variant(
        replace(_SLIM, base_features=4, pyramid_features=8, low_level_features=4, separable="normalised"),
        Problem(2, 1, 3),
        None,
        "ours",
    ),
}

SEARCH_SPACE = {"dropout": Range(0.0, 0.5)}


def _smallest_side(config: Config) -> int:
    # Two pixels a side at least in the last map, for batch normalisation; the unpadded first convolution takes two.
    return config.output_stride + 1 + 2 * config.has_port_padding


CONSTRAINTS = Constraints(spatial_dims=(2,), divisor=lambda config: 1, smallest_side=_smallest_side)


class DeepLabV3Plus(nn.Module):
    """Encoder, pyramid, decoder at a quarter of the image.

    Args:
        config: size and form.
        problem: two dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        self.config = config
        self.encoder, low_level, last = _encoder(config, problem.in_channels)
        rates = config.atrous_rates or tuple(rate * _RATES_STRIDE // config.output_stride for rate in _RATES)
        features, separable = config.pyramid_features, config.separable
        self.pyramid = nn.Sequential(ASPP(last, features, rates, separable, config.dropout))
        if config.has_conv_after_pyramid:
            self.pyramid.extend(pyramid_conv(features, features, separable))
        self.reduction = conv_norm_relu(low_level, config.low_level_features)
        widths = [features + config.low_level_features, *[features] * config.num_decoder_convs]
        self.decoder = nn.Sequential()
        for in_channels, out_channels in pairwise(widths):
            self.decoder.extend(pyramid_conv(in_channels, out_channels, separable))
        for part in (self.pyramid, self.reduction, self.decoder):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.classifier = nn.Conv2d(widths[-1], problem.num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, C, X, Y).

        Returns:
            (B, K, X, Y).

        Raises:
            IllegalSizeError: a side is not longer than `output_stride` (2 more with `has_port_padding`).
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        low_level, last = self.encoder(x)
        features = self._enlarge(self.pyramid(last), low_level)
        joined = [features, self.reduction(low_level)]
        features = self.decoder(torch.cat(joined[::-1] if self.config.joins_low_level_first else joined, dim=1))
        return self._enlarge(self.classifier(features), x)

    def _enlarge(self, coarse: Tensor, like: Tensor) -> Tensor:
        return functional.interpolate(
            coarse, size=like.shape[2:], mode="bilinear", align_corners=self.config.aligns_centres
        )


class _TwoMaps(nn.Module):
    """The maps of a ResNet at a quarter and of its last stage."""

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        self.resnet = resnet

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.resnet(x)
        return [maps[1], maps[-1]]


def _encoder(config: Config, in_channels: int) -> tuple[nn.Module, int, int]:
    """The encoder of two maps, and their channels."""
    if config.backbone == "resnet":
        resnet = ResNet(
            in_channels,
            config.num_blocks,
            config.base_features,
            output_stride=config.output_stride,
            multi_grid=config.multi_grid,
            strides_first_conv=config.strides_first_conv,
            dilates_first_unit=config.dilates_first_unit,
        )
        return _TwoMaps(resnet), resnet.channels[1], resnet.channels[-1]
    if config.backbone == "xception":
        xception = AlignedXception(in_channels, config.base_features, config.output_stride)
        return xception, xception.channels[0], xception.channels[1]
    mobilenet = MobileNetV2(in_channels, config.has_port_padding)
    return mobilenet, mobilenet.channels[0], mobilenet.channels[1]


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: the problem is not 2D; backbone, stride, kind of convolution or multi-grid are none there are.
    """
    if problem.spatial_dims != 2:
        raise ValueError(f"spatial_dims={problem.spatial_dims}: DeepLab V3+ serves 2; take `configuration: 2d`")
    if config.backbone not in _BACKBONES:
        raise ValueError(f"backbone={config.backbone!r}: must be one of {', '.join(_BACKBONES)}")
    strides = (16,) if config.backbone == "mobilenet_v2" else (8, 16)
    if config.output_stride not in strides:
        raise ValueError(
            f"output_stride={config.output_stride}: must be {' or '.join(map(str, strides))} "
            f"for backbone={config.backbone!r}"
        )
    if config.separable not in SEPARABLE:
        raise ValueError(f"separable={config.separable!r}: must be one of {', '.join(SEPARABLE)}")
    if config.has_port_padding and config.backbone != "mobilenet_v2":
        raise ValueError("has_port_padding=True: only the port's MobileNetV2 pads so; take backbone='mobilenet_v2'")
    if config.num_decoder_convs < 1:
        raise ValueError(f"num_decoder_convs={config.num_decoder_convs}: must be 1 or more; the paper has 2")
    return DeepLabV3Plus(config, problem)
