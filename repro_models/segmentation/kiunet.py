"""KiU-Net, Res-, Dense- and 3D KiU-Net (Valanarasu et al., 2020, arXiv 2006.04878 and 2010.01663).

Figure 4 of the first: beside a U-Net a branch that goes the other way, up to eight times the image's sides and back, so
that small structures stay visible. After five of six steps the branches exchange residuals (CRFB).

Differs:
    - Logits as they are. The authors' code puts a ReLU on them, so that a class can be stuck at 0;
      `Config(has_relu_on_logits=True)` restores it.
    - In Res-KiU-Net every step has its shortcut. The authors' code computes that of the other branch's first step and
      throws it away; `Config(has_first_ki_shortcut=False)` gives the same outputs.
    - The layers of a dense block have normalisations of their own; the authors' code has two for four layers each, with
      one running average for all; `Config(has_shared_dense_norms=True)` restores it.
    - Convolutions that nothing reads do not exist: the authors' code has two more of 64 channels in 2D (74,112
      parameters with their normalisations), and two more in 3D (54 n^2 + 2 n parameters).
    - The authors' 3D code for n features adds n channels to 2 n, which only works for n = 1: the variant `paper_3d`.
    - Weights start by torch's default, as in the authors' 2D code; their 3D code draws convolutions by Kaiming's rule.
Shapes:
    B batch, C channels, X Y (Z) voxels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.contract import Constraints, Paper, Problem, Variant

PAPER = Paper(
    title="KiU-Net: Overcomplete Convolutional Architectures for Biomedical Image and Volumetric Segmentation",
    year=2020,
    address="https://arxiv.org/abs/2010.01663",
    reference_code="https://github.com/jeya-maria-jose/KiU-Net-pytorch",
)

_NUM_LEVELS = 3
_DIVISOR = 2**_NUM_LEVELS
_BLOCKS = ("plain", "residual", "dense")
_CONV: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_BATCH_NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_MAX_POOL: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_LINEAR_INTERPOLATION = {2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are the paper's in 2D.

    Attributes:
        u_features: channels after each of the six steps of the U-Net branch: three down, three up.
        ki_features: the same of the other branch, three up, three down. In both, the fourth and fifth numbers are the
            second and the first, to which they are added (or those are 1 and are added to all channels); the sixth is
            the same in both branches.
        block: of a step: "plain", one convolution; "residual", with a convolution of side 1 beside it (Res-KiU-Net);
            "dense", with a dense block behind it (Dense-KiU-Net).
        has_norm: batch normalisation.
        has_bias: of the steps' convolutions and of the last one.
        has_relu_on_logits: as the authors' code.
        has_first_ki_shortcut: False as the authors' code; block "residual" only.
        has_shared_dense_norms: as the authors' code; block "dense" only.
    """

    u_features: tuple[int, ...] = (16, 32, 64, 32, 16, 8)
    ki_features: tuple[int, ...] = (16, 32, 64, 32, 16, 8)
    block: str = "plain"
    has_norm: bool = True
    has_bias: bool = True
    has_relu_on_logits: bool = False
    has_first_ki_shortcut: bool = True
    has_shared_dense_norms: bool = False


_SIZE = (128, 128)
VARIANTS = {
    "paper": Variant(
        Config(),
        Problem(spatial_dims=2, in_channels=1, num_classes=2),
        216_546,
        "the authors' code counts 290,658 (the paper 0.29 million), of which nothing reads 74,112",
        _SIZE,
        69_637_242_880,
    ),
    "residual": Variant(
        Config(block="residual"),
        Problem(2, 3, 2),
        228_050,
        "the authors' code counts 302,162, of which nothing reads 74,112",
        _SIZE,
        72_514_535_424,
    ),
    "dense": Variant(
        Config(block="dense"),
        Problem(2, 3, 2),
        417_042,
        "the authors' code counts 488,634, of which nothing reads 74,112; 2,520 for normalisations that are not shared",
        _SIZE,
        103_046_840_320,
    ),
    "paper_3d": Variant(
        Config(u_features=(1, 2, 4, 2, 2, 4), ki_features=(1, 2, 2, 2, 2, 4), has_norm=False, has_bias=False),
        Problem(3, 4, 5),
        2_794,
        "the authors' code counts 2,850, of which nothing reads 56",
    ),
    "small": Variant(
        Config(u_features=(8, 16, 16, 16, 8, 8), ki_features=(4, 8, 4, 8, 4, 8)), Problem(2, 1, 2), None, "ours"
    ),
    "small_3d": Variant(
        Config(u_features=(8, 16, 8, 16, 8, 4), ki_features=(2, 2, 1, 2, 2, 4)), Problem(3, 1, 5), None, "ours"
    ),
    # Without normalisation, because images of 8 voxels a side are legal then.
    "tiny": Variant(
        Config(u_features=(4, 4, 4, 4, 4, 2), ki_features=(2, 2, 1, 2, 2, 2), has_norm=False),
        Problem(2, 1, 3),
        None,
        "ours",
    ),
}

CONSTRAINTS = Constraints(
    spatial_dims=(2, 3),
    divisor=lambda config: _DIVISOR,
    # Batch normalisation cannot train on one voxel.
    smallest_side=lambda config: _DIVISOR * (2 if config.has_norm else 1),
)


def _norm(spatial_dims: int, channels: int, has_norm: bool) -> nn.Module:
    return _BATCH_NORM[spatial_dims](channels) if has_norm else nn.Identity()


class _ResidualConv(nn.Module):
    """Convolutions of sides 3 and 1 side by side: (B, in_channels, *s) -> (B, out_channels, *s)."""

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, has_bias: bool) -> None:
        super().__init__()
        conv = _CONV[spatial_dims]
        self.conv = conv(in_channels, out_channels, 3, padding=1, bias=has_bias)
        self.shortcut = conv(in_channels, out_channels, 1, bias=has_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.shortcut(x)


class _DenseBlock(nn.Module):
    """Four layers of a quarter of the channels, each of which sees all before it; their outputs are added to the input.

    (B, C, *s) -> (B, C, *s). A layer is a convolution of side 1 to C channels and one of side 3 to C / 4, each with
    normalisation and ReLU.
    """

    def __init__(self, spatial_dims: int, channels: int, config: Config) -> None:
        super().__init__()
        conv, growth = _CONV[spatial_dims], channels // 4
        self.bottlenecks = nn.ModuleList(conv(channels + layer * growth, channels, 1) for layer in range(4))
        self.convs = nn.ModuleList(conv(channels, growth, 3, padding=1) for _ in range(4))
        num_norms = 1 if config.has_shared_dense_norms else 4
        self.bottleneck_norms = nn.ModuleList(_norm(spatial_dims, channels, config.has_norm) for _ in range(num_norms))
        self.norms = nn.ModuleList(_norm(spatial_dims, growth, config.has_norm) for _ in range(num_norms))

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for layer, (bottleneck, conv) in enumerate(zip(self.bottlenecks, self.convs, strict=True)):
            which = layer % len(self.norms)
            y = functional.relu(self.bottleneck_norms[which](bottleneck(torch.cat(seen, dim=1))))
            seen.append(functional.relu(self.norms[which](conv(y))))
        return x + torch.cat(seen[1:], dim=1)


class _Doubling(nn.Module):
    """(B, C, *s) -> (B, C, *2 s), by linear interpolation."""

    def forward(self, x: Tensor) -> Tensor:
        return _resized(x, [2 * side for side in x.shape[2:]])


def _resized(x: Tensor, size: list[int] | torch.Size) -> Tensor:
    """(B, C, *s) -> (B, C, *size), by linear interpolation between voxel centres."""
    return functional.interpolate(x, size=list(size), mode=_LINEAR_INTERPOLATION[x.ndim - 2], align_corners=False)


def _step(
    spatial_dims: int, in_channels: int, out_channels: int, doubles: bool, config: Config, has_shortcut: bool = True
) -> nn.Sequential:
    """A step of a branch: convolve, then resize, normalise, ReLU."""
    if config.block == "residual" and has_shortcut:
        convs: list[nn.Module] = [_ResidualConv(spatial_dims, in_channels, out_channels, config.has_bias)]
    else:
        convs = [_CONV[spatial_dims](in_channels, out_channels, 3, padding=1, bias=config.has_bias)]
    if config.block == "dense":
        convs.append(_DenseBlock(spatial_dims, out_channels, config))
    resize = _Doubling() if doubles else _MAX_POOL[spatial_dims](2)
    return nn.Sequential(*convs, resize, _norm(spatial_dims, out_channels, config.has_norm), nn.ReLU(inplace=True))


class _CrossResidualFusion(nn.Module):
    """CRFB: each branch gets a convolution of the other, resized, as a residual.

    (B, u_channels, *s) and (B, ki_channels, *t) -> the same shapes.
    """

    def __init__(self, spatial_dims: int, u_channels: int, ki_channels: int, has_norm: bool) -> None:
        super().__init__()
        self.from_ki, self.from_u = (
            nn.Sequential(
                _CONV[spatial_dims](source, target, 3, padding=1),
                _norm(spatial_dims, target, has_norm),
                nn.ReLU(inplace=True),
            )
            for source, target in ((ki_channels, u_channels), (u_channels, ki_channels))
        )

    def forward(self, u: Tensor, ki: Tensor) -> tuple[Tensor, Tensor]:
        return u + _resized(self.from_ki(ki), u.shape[2:]), ki + _resized(self.from_u(u), ki.shape[2:])


class KiUNet(nn.Module):
    """Two branches of six steps, and a convolution of side 1 of their sum.

    Args:
        config: size and form.
        problem: dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        dims = problem.spatial_dims
        self.config = config
        self.u_steps, self.ki_steps = (
            nn.ModuleList(
                _step(
                    dims,
                    in_channels,
                    out_channels,
                    doubles=(number >= _NUM_LEVELS) == is_u,
                    config=config,
                    has_shortcut=is_u or number > 0 or config.has_first_ki_shortcut,
                )
                for number, (in_channels, out_channels) in enumerate(
                    zip((problem.in_channels, *features), features, strict=False)
                )
            )
            for is_u, features in ((True, config.u_features), (False, config.ki_features))
        )
        # After every step but the last.
        self.fusions = nn.ModuleList(
            _CrossResidualFusion(dims, u_channels, ki_channels, config.has_norm)
            for u_channels, ki_channels in list(zip(config.u_features, config.ki_features, strict=True))[:-1]
        )
        self.head = _CONV[dims](config.u_features[-1], problem.num_classes, 1, bias=config.has_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, C, *spatial).

        Returns:
            (B, K, *spatial).

        Raises:
            IllegalSizeError: a side is no multiple of 8, or is 8 where there is normalisation.
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        u = ki = x
        skips = []
        for number, (u_step, ki_step) in enumerate(zip(self.u_steps, self.ki_steps, strict=True)):
            u, ki = u_step(u), ki_step(ki)
            if number < len(self.fusions):
                u, ki = self.fusions[number](u, ki)
            if number < _NUM_LEVELS - 1:
                skips.append((u, ki))
            elif number >= _NUM_LEVELS and skips:
                u_skip, ki_skip = skips.pop()
                u, ki = u + u_skip, ki + ki_skip
        logits = self.head(u + ki)
        return functional.relu(logits) if self.config.has_relu_on_logits else logits


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: an unknown block, features that are not six or cannot be added, or no multiples of 4 for dense
            blocks.
    """
    if config.block not in _BLOCKS:
        raise ValueError(f"block={config.block!r}: must be one of {', '.join(_BLOCKS)}")
    for name in ("u_features", "ki_features"):
        features = getattr(config, name)
        if len(features) != 2 * _NUM_LEVELS:
            raise ValueError(f"{name}={features}: give {2 * _NUM_LEVELS} numbers, one per step")
        for late, early in ((3, 1), (4, 0)):
            if features[early] not in (1, features[late]):
                raise ValueError(
                    f"{name}={features}: the {features[early]} channels after step {early + 1} are added to the "
                    f"{features[late]} after step {late + 1}; make them equal"
                )
        if config.block == "dense" and any(number % 4 for number in features):
            raise ValueError(f"{name}={features}: must be multiples of 4, which the layers of a dense block share")
    if config.u_features[-1] != config.ki_features[-1]:
        raise ValueError(
            f"u_features={config.u_features} and ki_features={config.ki_features}: the last numbers must be equal, "
            "the branches are added"
        )
    return KiUNet(config, problem)
