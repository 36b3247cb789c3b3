"""DeepLab V3 (Chen et al., 2017, arXiv 1706.05587).

Figure 5: a ResNet whose last stages dilate instead of striding, with multi-grid (1, 2, 4) in the last one; atrous
spatial pyramid pooling with image-level features; logits at a sixteenth (or an eighth) of the image, brought to its
size bilinearly. No CRF.

Differs:
    - Weights start fresh: the paper's have seen ImageNet. Kaiming normal, by the outputs, as for ResNet; classifier by
      torch's default.
    - The paper trains batch normalisation at a sixteenth and freezes it for an eighth; here it is always trained.
    - torchvision's network has another 3x3 convolution before the classifier, no multi-grid, the stride in the second
      convolution of a unit, first units that keep the dilation before them, dropout of a half, and can have an
      auxiliary head (loss weighs a half) in training: `VARIANTS["torchvision_resnet50"]` and its neighbours.
    - A published port lists rates 6, 12, 18 at an eighth; the paper doubles them there, and so do we unless
      `atrous_rates` says otherwise. The count is the same.
Shapes:
    B batch, C channels, X Y pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.aspp import ASPP
from repro_models.blocks.conv_norm import conv_norm_relu
from repro_models.blocks.fcn_head import fcn_head
from repro_models.blocks.mobilenet import MobileNetV3
from repro_models.blocks.resnet import ResNet
from repro_models.contract import Constraints, Paper, Problem, Range, SupervisedLogits, Variant

PAPER = Paper(
    title="Rethinking Atrous Convolution for Semantic Image Segmentation",
    year=2017,
    address="https://arxiv.org/abs/1706.05587",
    reference_code="https://github.com/tensorflow/models/tree/master/research/deeplab",
)

_RATES = (6, 12, 18)
_RATES_STRIDE = 16
_AUXILIARY_WEIGHT = 0.5


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are the paper's with ResNet-101.

    Attributes:
        backbone: "resnet", or "mobilenet_v3" (large), which strides to a sixteenth and has no further settings here.
        num_blocks: units of each of the four stages.
        base_features: channels of the first convolution.
        output_stride: of the last map: 16 or 8.
        multi_grid: factors of the dilations of the last stage's units, one each; empty: all 1.
        atrous_rates: of the pyramid; None: 6, 12, 18 at a sixteenth and twice that at an eighth.
        pyramid_features: channels of the pyramid.
        strides_first_conv: the first convolution of a unit has the stride, as in the paper of ResNet.
        dilates_first_unit: the first unit of a stage dilates as the others do.
        has_extra_conv: 3x3 convolution before the classifier, as in torchvision.
        has_auxiliary_head: a head on the last stage but one, in training, as in torchvision.
        dropout: at the end of the pyramid.
    """

    backbone: str = "resnet"
    num_blocks: tuple[int, ...] = (3, 4, 23, 3)
    base_features: int = 64
    output_stride: int = 16
    multi_grid: tuple[int, ...] = (1, 2, 4)
    atrous_rates: tuple[int, ...] | None = None
    pyramid_features: int = 256
    strides_first_conv: bool = True
    dilates_first_unit: bool = True
    has_extra_conv: bool = False
    has_auxiliary_head: bool = False
    dropout: float = 0.0


_VOC = Problem(spatial_dims=2, in_channels=3, num_classes=21)
_PORT = "counted in kazuto1011/deeplab-pytorch"
_TORCHVISION = "counted in torchvision 0.29.2"
_TV_RESNET101 = Config(
    output_stride=8,
    multi_grid=(),
    strides_first_conv=False,
    dilates_first_unit=False,
    has_extra_conv=True,
    dropout=0.5,
)
_TV_RESNET50 = replace(_TV_RESNET101, num_blocks=(3, 4, 6, 3))
_SLIM = Config(base_features=16, num_blocks=(1, 1, 1, 1), multi_grid=(), pyramid_features=32)
VARIANTS = {
    "paper": Variant(Config(), _VOC, 58_040_661, f"{_PORT}, at an eighth"),
    "stride_8": Variant(Config(output_stride=8), _VOC, 58_040_661, _PORT, size=(513, 513), num_macs=245_775_202_752),
    "one_unit_a_stage": Variant(
        Config(num_blocks=(1, 1, 1, 3), output_stride=8, atrous_rates=_RATES), Problem(2, 3, 5), 32_477_509, _PORT
    ),
    "torchvision_resnet50": Variant(
        _TV_RESNET50,
        _VOC,
        39_638_869,
        f"{_TORCHVISION}; the same in segmentation-models-pytorch 0.6.0",
        size=(520, 520),
        num_macs=168_731_205_888,
    ),
    "torchvision_resnet50_auxiliary": Variant(
        replace(_TV_RESNET50, has_auxiliary_head=True), _VOC, 42_004_074, _TORCHVISION
    ),
    "torchvision_resnet101": Variant(
        _TV_RESNET101, _VOC, 58_630_997, _TORCHVISION, size=(520, 520), num_macs=248_752_300_288
    ),
    "torchvision_mobilenet_v3": Variant(
        Config(backbone="mobilenet_v3", atrous_rates=(12, 24, 36), has_extra_conv=True, dropout=0.5),
        _VOC,
        11_025_477,
        _TORCHVISION,
        size=(520, 520),
        num_macs=10_436_350_688,
    ),
    "small": Variant(replace(_SLIM, output_stride=8), Problem(2, 1, 5), None, "ours"),
    "tiny": Variant(
        replace(_SLIM, base_features=4, pyramid_features=8, has_extra_conv=True, has_auxiliary_head=True),
        Problem(2, 1, 3),
        None,
        "ours",
    ),
}

SEARCH_SPACE = {"dropout": Range(0.0, 0.5)}

# Two pixels a side at least in the last map, for batch normalisation.
CONSTRAINTS = Constraints(
    spatial_dims=(2,), divisor=lambda config: 1, smallest_side=lambda config: config.output_stride + 1
)


class DeepLabV3(nn.Module):
    """Encoder, pyramid, classifier.

    Args:
        config: size and form.
        problem: two dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        self.config = config
        self.encoder: ResNet | MobileNetV3
        if config.backbone == "resnet":
            self.encoder = ResNet(
                problem.in_channels,
                config.num_blocks,
                config.base_features,
                output_stride=config.output_stride,
                multi_grid=config.multi_grid,
                strides_first_conv=config.strides_first_conv,
                dilates_first_unit=config.dilates_first_unit,
            )
        else:
            self.encoder = MobileNetV3(problem.in_channels)
        rates = config.atrous_rates or tuple(rate * _RATES_STRIDE // config.output_stride for rate in _RATES)
        features = config.pyramid_features
        self.pyramid = ASPP(self.encoder.channels[-1], features, rates, dropout=config.dropout)
        extra: Iterable[nn.Module] = conv_norm_relu(features, features, 3) if config.has_extra_conv else ()
        self.classifier = nn.Sequential(*extra, nn.Conv2d(features, problem.num_classes, 1))
        if config.has_auxiliary_head:
            self.auxiliary_head = fcn_head(self.encoder.channels[-2], problem.num_classes)
        for part in (self.pyramid, self.classifier[:-1]):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor | SupervisedLogits:
        """Logits.

        Args:
            x: (B, C, X, Y).

        Returns:
            (B, K, X, Y); in training mode with an auxiliary head those of both heads.

        Raises:
            IllegalSizeError: a side is not longer than `output_stride`.
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        maps = self.encoder(x)
        logits = self._to_image(self._scores(maps[-1]), x)
        if not (self.training and self.config.has_auxiliary_head):
            return logits
        auxiliary = self._to_image(self.auxiliary_head(maps[-2]), x)
        return SupervisedLogits([logits, auxiliary], (1.0, _AUXILIARY_WEIGHT))

    def scores(self, x: Tensor) -> Tensor:
        """Logits before they are brought to the size of the image: (B, C, X, Y) -> (B, K, X / 16, Y / 16)."""
        return self._scores(self.encoder(x)[-1])

    def _scores(self, last_map: Tensor) -> Tensor:
        return self.classifier(self.pyramid(last_map))

    def _to_image(self, scores: Tensor, image: Tensor) -> Tensor:
        return functional.interpolate(scores, size=image.shape[2:], mode="bilinear", align_corners=False)


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: the problem is not 2D; backbone, stride or multi-grid are none there are.
    """
    if problem.spatial_dims != 2:
        raise ValueError(f"spatial_dims={problem.spatial_dims}: DeepLab V3 serves 2; take `configuration: 2d`")
    if config.backbone not in ("resnet", "mobilenet_v3"):
        raise ValueError(f"backbone={config.backbone!r}: must be 'resnet' or 'mobilenet_v3'")
    strides = (8, 16) if config.backbone == "resnet" else (16,)
    if config.output_stride not in strides:
        raise ValueError(
            f"output_stride={config.output_stride}: must be {' or '.join(map(str, strides))} "
            f"for backbone={config.backbone!r}"
        )
    if config.backbone != "resnet" and config.has_auxiliary_head:
        raise ValueError("has_auxiliary_head=True: the auxiliary head stands on a ResNet; take backbone='resnet'")
    return DeepLabV3(config, problem)
