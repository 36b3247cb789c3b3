"""SegNet (Badrinarayanan et al., 2015, arXiv 1511.00561).

Figure 2: the convolutions of VGG-16 with batch normalisation; the decoder mirrors them and takes from the encoder only
where each maximum of a pooling was. Section 3.1: SegNet-Basic, four stages of a single 7x7 convolution, and a decoder
without ReLU.

Differs:
    - Weights start fresh: the paper's encoder has seen ImageNet. Kaiming normal, which the paper takes for the decoder.
    - Statistics of batch normalisation run along with the training; the authors compute them anew after it.
    - Sides of any length: poolings round up, as Caffe's do, and unpooling returns to the side before.
Shapes:
    B batch, C channels, X Y pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repro_models.blocks.vgg import NUM_CONVS, vgg_convs, vgg_stages, vgg_widths
from repro_models.contract import Constraints, Paper, Problem, Variant

PAPER = Paper(
    title="SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation",
    year=2015,
    address="https://arxiv.org/abs/1511.00561",
    reference_code="https://github.com/alexgkendall/SegNet-Tutorial",
)

_NUM_BASIC_STAGES = 4
_BASIC_KERNEL_SIZE = 7
# Of the local response normalisation in front of SegNet-Basic.
_NEIGHBOURS, _ALPHA, _BETA = 5, 1e-4, 0.75


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are the paper's.

    Attributes:
        base_features: channels of the first stage.
        is_basic: SegNet-Basic, all of whose stages have `base_features` channels.
    """

    base_features: int = 64
    is_basic: bool = False


_PROTOTXT = "counted in a transcription of the authors' prototxt"
VARIANTS = {
    "paper": Variant(
        Config(),
        Problem(spatial_dims=2, in_channels=3, num_classes=11),
        29_449_355,
        f"{_PROTOTXT}; the paper gives 29.45 million",
        size=(360, 480),
        num_macs=106_712_432_640,
    ),
    "basic": Variant(Config(is_basic=True), Problem(2, 3, 11), 1_416_587, _PROTOTXT),
    "small": Variant(Config(base_features=12), Problem(2, 1, 5), None, "ours"),
    "basic_small": Variant(Config(base_features=16, is_basic=True), Problem(2, 1, 5), None, "ours"),
    "tiny": Variant(Config(base_features=4), Problem(2, 1, 3), None, "ours"),
}


def _num_stages(config: Config) -> int:
    return _NUM_BASIC_STAGES if config.is_basic else len(NUM_CONVS)


# Below it the coarsest map that is normalised has a single pixel.
CONSTRAINTS = Constraints(
    spatial_dims=(2,), divisor=lambda config: 1, smallest_side=lambda config: 2 ** (_num_stages(config) - 1) + 1
)


def _unpool(x: Tensor, positions: Tensor, size: torch.Size) -> Tensor:
    """Each value back to where its maximum was: (B, C, X / 2, Y / 2) -> (B, C, *size), zero elsewhere.

    No position comes twice, so scattering is deterministic everywhere; torch's own unpooling is not on a GPU.
    """
    empty = x.new_zeros(x.shape[0], x.shape[1], size[0] * size[1])
    return empty.scatter(2, positions.flatten(2), x.flatten(2)).unflatten(2, size)


class SegNet(nn.Module):
    """Encoder that remembers its maxima, decoder that puts values back there.

    Args:
        config: size and form.
        problem: two dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        self.config = config
        if config.is_basic:
            widths = [config.base_features] * _NUM_BASIC_STAGES
            inputs = [problem.in_channels, *widths[1:]]
            self.input_norm: nn.Module = nn.LocalResponseNorm(_NEIGHBOURS, _ALPHA, _BETA)
            self.encoder = nn.ModuleList(
                vgg_convs(pair, _BASIC_KERNEL_SIZE, has_norm=True) for pair in zip(inputs, widths, strict=True)
            )
            decoder = [vgg_convs((width, width), _BASIC_KERNEL_SIZE, has_norm=True, has_relu=False) for width in widths]
            self.classifier = nn.Conv2d(widths[0], problem.num_classes, 1)
        else:
            widths = vgg_widths(config.base_features)
            self.input_norm = nn.Identity()
            self.encoder = vgg_stages(problem.in_channels, config.base_features, has_norm=True)
            # The last convolution of a stage changes the channels; the very last one is the classifier.
            decoder = [vgg_convs([widths[0]] * NUM_CONVS[0], has_norm=True)]
            for finer, width, num_convs in zip(widths, widths[1:], NUM_CONVS[1:], strict=False):
                decoder.append(vgg_convs([*[width] * num_convs, finer], has_norm=True))
            self.classifier = nn.Conv2d(widths[0], problem.num_classes, 3, padding=1)
        self.decoder = nn.ModuleList(reversed(decoder))
        self.pool = nn.MaxPool2d(2, ceil_mode=True, return_indices=True)
        nn.init.kaiming_normal_(self.classifier.weight, nonlinearity="linear")
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, C, X, Y).

        Returns:
            (B, K, X, Y).

        Raises:
            IllegalSizeError: a side is under 17 (SegNet-Basic: 9).
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        x = self.input_norm(x)
        poolings: list[tuple[Tensor, torch.Size]] = []
        for stage in self.encoder:
            x = stage(x)
            size = x.shape[2:]
            x, positions = self.pool(x)
            poolings.append((positions, size))
        for stage in self.decoder:
            x = stage(_unpool(x, *poolings.pop()))
        return self.classifier(x)


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: the problem is not 2D.
    """
    if problem.spatial_dims != 2:
        raise ValueError(f"spatial_dims={problem.spatial_dims}: SegNet serves 2; take `configuration: 2d`")
    return SegNet(config, problem)
