"""DeepLab V1 (Chen et al., 2015, arXiv 1412.7062) and V2 (Chen et al., 2016, arXiv 1606.00915).

V1, section 3: VGG-16 whose last two poolings keep the sides, atrous convolutions instead, and a large field of view by
one atrous `fc6` (LargeFOV). V2, section 3.2: several atrous rates side by side (ASPP), on VGG-16 or ResNet-101. Scores
lie at an eighth of the image and are brought to its size bilinearly; a fully connected CRF refines them.

Differs:
    - Weights start fresh: the papers' have seen ImageNet (V2: COCO as well). Kaiming normal; scores from a normal of
      deviation 0.01, as in the papers. Batch normalisation is trained, where the papers' is frozen.
    - Training compares logits at the size of the image; the papers shrink labels to an eighth.
    - Sides of any length: a score stays where its centre is, at every eighth pixel, as the papers' sides of 8 n + 1
      have it; pixels beyond the last score take its value.
    - `input_scales` gives the papers' fusion of smaller images by maximum, with a loss for each and for the fusion. It
      is off by default, as in the published counts.
    - The CRF is solved exactly (`repro_models/blocks/dense_crf.py`), in evaluation mode, on the image as the network
      gets it: intensities are normalised, so `crf_intensity_std` is in those units and not in grey values of 0 to 255.
      Off by default: time grows with the square of the pixels.
Shapes:
    B batch, C channels, X Y pixels, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.dense_crf import DenseCRF
from repro_models.blocks.resnet import ResNet
from repro_models.blocks.vgg import initialise_conv, vgg_stages, vgg_widths
from repro_models.contract import Constraints, Paper, Problem, Range, SupervisedLogits, Variant

PAPER = Paper(
    title="DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, "
    "and Fully Connected CRFs",
    year=2016,
    address="https://arxiv.org/abs/1606.00915",
    reference_code="https://bitbucket.org/aquariusjay/deeplab-public-ver2",
)

_STRIDE = 8
_FC6_KERNEL_SIZE = 3


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are V2's with ResNet-101.

    Attributes:
        backbone: "resnet" or "vgg16".
        rates: of the atrous convolutions side by side; a single one, 12, is LargeFOV.
        base_features: channels of the first stage.
        num_blocks: residual units of each stage of the ResNet.
        fc_features: channels of `fc6` and `fc7` after VGG-16.
        has_average_pooling: the 3x3 average of V1 before `fc6`, for VGG-16.
        dropout: after `fc6` and `fc7`.
        input_scales: smaller images whose scores are fused with the image's own; the papers' are (0.75, 0.5).
        num_crf_iterations: mean-field steps; 0: no CRF.
        crf_weights: of the bilateral and the spatial kernel.
        crf_stds_pixels: of the bilateral and the spatial kernel.
        crf_intensity_std: of the bilateral kernel, in units of the network's input.
    """

    backbone: str = "resnet"
    rates: tuple[int, ...] = (6, 12, 18, 24)
    base_features: int = 64
    num_blocks: tuple[int, ...] = (3, 4, 23, 3)
    fc_features: int = 1024
    has_average_pooling: bool = False
    dropout: float = 0.5
    input_scales: tuple[float, ...] = ()
    num_crf_iterations: int = 0
    crf_weights: tuple[float, float] = (4.0, 3.0)
    crf_stds_pixels: tuple[float, float] = (67.0, 1.0)
    crf_intensity_std: float = 0.1


_V1 = Config(backbone="vgg16", rates=(12,), has_average_pooling=True)
_VOC = Problem(spatial_dims=2, in_channels=3, num_classes=21)
_PORT = "counted in kazuto1011/deeplab-pytorch"
_TRANSCRIPTION = "counted in a transcription of the authors' prototxt"
_SLIM = Config(base_features=16, num_blocks=(1, 1, 1, 1))
VARIANTS = {
    "paper": Variant(Config(), _VOC, 44_048_532, _PORT, size=(513, 513), num_macs=188_885_763_264),
    "v2_vgg16": Variant(
        Config(backbone="vgg16"), _VOC, 37_877_652, _TRANSCRIPTION, size=(321, 321), num_macs=80_120_358_592
    ),
    "v1": Variant(
        _V1,
        _VOC,
        20_505_429,
        f"{_TRANSCRIPTION}; the paper gives 20.5 million",
        size=(321, 321),
        num_macs=50_928_085_696,
    ),
    "v1_eighth": Variant(
        replace(_V1, base_features=8, fc_features=128), Problem(2, 3, 5), 321_581, "counted in the same transcription"
    ),
    "small": Variant(_SLIM, Problem(2, 1, 5), None, "ours"),
    "v1_small": Variant(replace(_V1, base_features=8, fc_features=128), Problem(2, 1, 5), None, "ours"),
    "tiny": Variant(replace(_SLIM, base_features=4, input_scales=(0.5,)), Problem(2, 1, 3), None, "ours"),
}

SEARCH_SPACE = {"dropout": Range(0.0, 0.5)}


def _smallest_side(config: Config) -> int:
    # Two scores a side, for batch normalisation, of the smallest image as well.
    return math.ceil((_STRIDE + 1) / min((1.0, *config.input_scales)))


CONSTRAINTS = Constraints(spatial_dims=(2,), divisor=lambda config: 1, smallest_side=_smallest_side)


class _VGGScores(nn.Module):
    """(B, C, X, Y) -> (B, K, X / 8, Y / 8): VGG-16, then `fc6`, `fc7` and `fc8` for each rate; their sum."""

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        width = vgg_widths(config.base_features)[-1]
        self.stages = vgg_stages(problem.in_channels, config.base_features, last_dilation=2)
        self.pools = nn.ModuleList(
            nn.MaxPool2d(3, stride=stride, padding=1, ceil_mode=True) for stride in (2, 2, 2, 1, 1)
        )
        self.average: nn.Module = nn.AvgPool2d(3, stride=1, padding=1) if config.has_average_pooling else nn.Identity()
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, config.fc_features, _FC6_KERNEL_SIZE, padding=rate, dilation=rate),
                nn.ReLU(inplace=True),
                nn.Dropout(config.dropout),
                nn.Conv2d(config.fc_features, config.fc_features, 1),
                nn.ReLU(inplace=True),
                nn.Dropout(config.dropout),
                _score(config.fc_features, problem.num_classes),
            )
            for rate in config.rates
        )
        for branch in self.branches:
            initialise_conv(branch[0])  # type: ignore[index]
            initialise_conv(branch[3])  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        for stage, pool in zip(self.stages, self.pools, strict=True):
            x = pool(stage(x))
        x = self.average(x)
        return torch.stack([branch(x) for branch in self.branches]).sum(0)


class _ResNetScores(nn.Module):
    """(B, C, X, Y) -> (B, K, X / 8, Y / 8): ResNet, then an atrous convolution for each rate; their sum."""

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        self.encoder = ResNet(
            problem.in_channels,
            config.num_blocks,
            config.base_features,
            output_stride=_STRIDE,
            strides_first_conv=True,
            pool_rounds_up=True,
        )
        self.branches = nn.ModuleList(
            _score(self.encoder.channels[-1], problem.num_classes, kernel_size=3, dilation=rate)
            for rate in config.rates
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x)[-1]
        return torch.stack([branch(x) for branch in self.branches]).sum(0)


def _score(channels: int, num_classes: int, kernel_size: int = 1, dilation: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(channels, num_classes, kernel_size, padding=dilation * (kernel_size // 2), dilation=dilation)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def spread(scores: Tensor, size: torch.Size) -> Tensor:
    """Scores of every eighth pixel, bilinearly between them: (B, K, X / 8, Y / 8) -> (B, K, *size)."""
    missing = [
        max(0, math.ceil((side - 1) / _STRIDE) + 1 - num) for side, num in zip(size, scores.shape[2:], strict=True)
    ]
    if any(missing):
        scores = functional.pad(scores, (0, missing[1], 0, missing[0]), mode="replicate")
    sides = [(num - 1) * _STRIDE + 1 for num in scores.shape[2:]]
    return functional.interpolate(scores, size=sides, mode="bilinear", align_corners=True)[..., : size[0], : size[1]]


class DeepLab(nn.Module):
    """Scores at an eighth, of one or several sizes of the image, at the image's size.

    Args:
        config: size and form.
        problem: two dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        self.config = config
        self.scores: nn.Module = {"vgg16": _VGGScores, "resnet": _ResNetScores}[config.backbone](config, problem)
        bilateral_weight, gaussian_weight = config.crf_weights
        bilateral_std, gaussian_std = config.crf_stds_pixels
        self.crf = DenseCRF(
            bilateral_weight,
            bilateral_std,
            config.crf_intensity_std,
            gaussian_weight,
            gaussian_std,
            config.num_crf_iterations,
        )

    def forward(self, x: Tensor) -> Tensor | SupervisedLogits:
        """Logits.

        Args:
            x: (B, C, X, Y).

        Returns:
            (B, K, X, Y); log-probabilities where there is a CRF. In training mode with `input_scales` those of the
            fusion, of the image and of each smaller one.

        Raises:
            IllegalSizeError: a side is under 9, or, with `input_scales`, under 9 divided by the smallest of them.
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        size = x.shape[2:]
        scores = [self.scores(x)]
        for scale in self.config.input_scales:
            smaller_size = [math.ceil(side * scale) for side in size]
            smaller = functional.interpolate(x, size=smaller_size, mode="bilinear", align_corners=False)
            # At the size of the first, as the reference code fuses them.
            scores.append(
                functional.interpolate(
                    self.scores(smaller), size=scores[0].shape[2:], mode="bilinear", align_corners=False
                )
            )
        fused = scores[0] if len(scores) == 1 else torch.stack(scores).amax(0)
        logits = spread(fused, size)
        if self.training:
            if len(scores) == 1:
                return logits
            return SupervisedLogits([logits, *(spread(each, size) for each in scores)], (1.0,) * (len(scores) + 1))
        return self.crf(logits, x) if self.config.num_crf_iterations else logits


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: the problem is not 2D, the backbone is none there is, no rate, or a scale that is not below 1.
    """
    if problem.spatial_dims != 2:
        raise ValueError(f"spatial_dims={problem.spatial_dims}: DeepLab serves 2; take `configuration: 2d`")
    if config.backbone not in ("resnet", "vgg16"):
        raise ValueError(f"backbone={config.backbone!r}: must be 'resnet' or 'vgg16'")
    if not config.rates or min(config.rates) < 1:
        raise ValueError(f"rates={config.rates}: give one rate or more, each 1 or more")
    if any(not 0 < scale < 1 for scale in config.input_scales):
        raise ValueError(
            f"input_scales={config.input_scales}: must lie between 0 and 1; the image itself is always taken"
        )
    return DeepLab(config, problem)
