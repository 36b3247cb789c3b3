"""3D U-Net (Cicek et al., 2016, arXiv 1606.06650).

Figure 2: four resolutions; channels double before a max-pooling, not after it; batch normalisation before every ReLU.

Differs:
    - Padded convolutions, so that logits have the size of the image; `Config(is_padded=False)` restores the paper,
      whose output is 88 voxels shorter on every axis.
    - In evaluation mode batch normalisation takes its running statistics. The paper trains with one tile a batch and
      prefers the current statistics at test time; that is `Config(norm="instance")`.
    - The paper does not say how weights start; here as in the 2D U-Net: Kaiming normal, biases 0.
Shapes:
    B batch, C channels, X Y Z voxels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repro_models.blocks.pointwise_conv import PointwiseConv3d
from repro_models.blocks.two_convs import NORM, TwoConvs
from repro_models.blocks.valid_convolutions import PaddedOrValidSides, centre, smallest_valid_side
from repro_models.contract import Choice, Paper, Problem, Variant

PAPER = Paper(
    title="3D U-Net: Learning Dense Volumetric Segmentation from Sparse Annotation",
    year=2016,
    address="https://arxiv.org/abs/1606.06650",
)

_NUM_LEVELS = 4
_DIVISOR = 2 ** (_NUM_LEVELS - 1)
_SMALLEST_SIDE_PADDED = 2 * _DIVISOR


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are the paper's but for the padding.

    Attributes:
        base_features: channels of the first convolution; the last level has 16 times as many.
        is_padded: the output has the size of the input; False: unpadded convolutions as in the paper.
        norm: "batch" or "instance".
    """

    base_features: int = 32
    is_padded: bool = True
    norm: str = "batch"


VARIANTS = {
    "paper": Variant(
        Config(is_padded=False),
        Problem(spatial_dims=3, in_channels=3, num_classes=3),
        19_074_627,
        "the paper's 19,069,955 and the scales and shifts of batch normalisation, which it does not count",
        size=(116, 132, 132),
        num_macs=266_731_018_496,
    ),
    "padded": Variant(Config(), Problem(3, 1, 2), 19_072_834, "counted in a transcription of the paper"),
    "small": Variant(Config(base_features=8), Problem(3, 1, 2), None, "ours"),
    "tiny": Variant(Config(base_features=4), Problem(3, 1, 2), 298_890, "counted in a transcription of the paper"),
}

SEARCH_SPACE = {"norm": Choice(("batch", "instance"))}

CONSTRAINTS = PaddedOrValidSides(
    spatial_dims=(3,),
    divisor=lambda config: _DIVISOR,
    smallest_side=lambda config: _SMALLEST_SIDE_PADDED if config.is_padded else smallest_valid_side(_NUM_LEVELS),
)


class UNet3D(nn.Module):
    """Analysis path of four levels and synthesis path of three.

    Args:
        config: size and form.
        problem: three dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        widths = [config.base_features * 2**level for level in range(_NUM_LEVELS)]
        self.config = config
        self.analysis = nn.ModuleList(
            TwoConvs(3, (in_channels, width, 2 * width), config.norm, config.is_padded)
            for in_channels, width in zip([problem.in_channels, *widths[1:]], widths, strict=True)
        )
        self.pool = nn.MaxPool3d(2)
        # Both lists of the synthesis path run from the coarsest level to the finest.
        synthesis_widths = [2 * width for width in widths[-2::-1]]
        self.upsampling = nn.ModuleList(
            nn.ConvTranspose3d(2 * width, 2 * width, kernel_size=2, stride=2, bias=False) for width in synthesis_widths
        )
        self.synthesis = nn.ModuleList(
            TwoConvs(3, (3 * width, width, width), config.norm, config.is_padded) for width in synthesis_widths
        )
        self.head = PointwiseConv3d(synthesis_widths[-1], problem.num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, C, X, Y, Z).

        Returns:
            (B, K, X, Y, Z); without padding (B, K, X - 88, Y - 88, Z - 88), the logits of the centre.

        Raises:
            IllegalSizeError: padded, a side is no multiple of 8 or under 16; else, it is none of 92, 100, 108, ...
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        skips: list[Tensor] = []
        for level in self.analysis:
            x = level(x if not skips else self.pool(x))
            skips.append(x)
        skips.pop()
        for upsample, level in zip(self.upsampling, self.synthesis, strict=True):
            x = upsample(x)
            x = level(torch.cat([centre(skips.pop(), x.shape[2:]), x], dim=1))
        return self.head(x)


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: the problem is not 3D, or `config.norm` is unknown.
    """
    if problem.spatial_dims != 3:
        raise ValueError(f"spatial_dims={problem.spatial_dims}: the 3D U-Net serves 3; take segmentation/nnunet for 2D")
    if config.norm not in NORM:
        raise ValueError(f"norm={config.norm!r}: must be one of {', '.join(NORM)}")
    return UNet3D(config, problem)
