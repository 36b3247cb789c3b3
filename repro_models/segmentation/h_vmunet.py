"""H-vmunet, high-order vision Mamba U-Net (Wu et al., 2024, arXiv 2403.13642).

Two stages of convolution, then four of high-order visual state space (H-VSS) blocks: as in HorNet's recursive gated
convolution, a map passes gates of growing width one after the other, but each is followed by scans in four directions,
and the gates come from a local scan. Frame and bridge are those of UltraLight VM-UNet.

Differs:
    - Logits; the authors' code ends in a sigmoid, which is the loss's here.
    - The authors' code carries weights of a Fourier filter that nothing reads: of its 8,972,623 parameters, 403,392.
      Here there are none; `has_unused_weights` brings them back. They get no gradient, which data-parallel training
      does not take.
    - Any depths and orders; the authors' code, by its indices of drop path, takes depths (2, 2, 2, 2) alone.
    - Blocks of the decoder are left out of a sample as often as the encoder's at their level; in the authors' code its
      coarsest blocks have all one probability. The paper leaves none out.
Shapes:
    B batch, C channels, X Y pixels, K classes, S stages, F_i features of stage i; n order of a block, w_j =
    C / 2^(n - 1 - j) width of its gate j. Within a block, maps are (B, X, Y, C).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repro_models.blocks.attention_bridge import AttentionBridge
from repro_models.blocks.bridged_unet import BridgedUNet, check_features, start_weights
from repro_models.blocks.cross_scan import cross_scan_mixer
from repro_models.blocks.drop_path import DropPath, rising_probabilities
from repro_models.blocks.pointwise_conv import PointwiseConv2d
from repro_models.contract import Constraints, Paper, Problem, Range, Variant

PAPER = Paper(
    title="H-vmunet: High-order Vision Mamba UNet for Medical Image Segmentation",
    year=2024,
    address="https://arxiv.org/abs/2403.13642",
    reference_code="https://github.com/wurenkai/H-vmunet",
)

_NUM_CONV_STAGES = 2
_GATE_SCALE = 1 / 3
_EPSILON = 1e-6
# Sides of the filters that nothing reads, by order: HorNet's for maps of its sides.
_UNUSED_SIDES = {4: (24, 13), 5: (12, 7)}
_USUAL_UNUSED_SIDES = (14, 8)


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are the paper's.

    Attributes:
        features: F_i, of every stage; all but the last multiples of 4.
        depths: H-VSS blocks of each stage from the third on, and of the step of the decoder that undoes it.
        orders: n, of the blocks of these stages; 2^n divides the width they work at, that of the stage before, and in
            the decoder of the stage itself.
        num_states: of a channel, in the scans.
        has_bridge: spatial and channel attention over the skip connections.
        layer_scale: factors of both branches of a block begin at this.
        drop_path_probability: that the encoder's last block is left out of a sample in training; it rises evenly from 0
            for the first block, and the decoder's blocks have that of the encoder's at their level.
        has_unused_weights: the weights of the authors' code that nothing reads.
    """

    features: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    orders: tuple[int, ...] = (2, 3, 4, 5)
    num_states: int = 16
    has_bridge: bool = True
    layer_scale: float = 1e-6
    drop_path_probability: float = 0.0
    has_unused_weights: bool = False


_SKIN = Problem(spatial_dims=2, in_channels=3, num_classes=1)
VARIANTS = {
    "paper": Variant(Config(), _SKIN, 8_569_231, "ours: 8,972,623 less the 403,392 that nothing reads"),
    "published_count": Variant(Config(has_unused_weights=True), _SKIN, 8_972_623, "counted in the authors' code"),
    "small": Variant(
        Config(features=(8, 8, 16, 32), depths=(1, 1), orders=(2, 3), num_states=8), Problem(2, 1, 2), None, "ours"
    ),
    "tiny": Variant(Config(features=(8, 8, 8), depths=(1,), orders=(2,), num_states=2), Problem(2, 1, 3), None, "ours"),
}

SEARCH_SPACE = {"drop_path_probability": Range(0.0, 0.3)}


def _divisor(config: Config) -> int:
    """A pooling after every stage but the last."""
    return 2 ** (len(config.features) - 1)


CONSTRAINTS = Constraints(spatial_dims=(2,), divisor=_divisor, smallest_side=_divisor)


def _on_last_axis(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer for (B, C, X, Y) on a map (B, X, Y, C)."""
    return layer(x.movedim(-1, 1)).movedim(1, -1)


class LocalScan(nn.Module):
    """Convolve one half of the channels and scan the other (Local-SS2D): (B, X, Y, C) -> the same shape.

    Args:
        channels: C, even.
        num_states: of a channel, in the scan.
        unused_sides: of the filter that nothing reads, None for none.
    """

    def __init__(self, channels: int, num_states: int, unused_sides: tuple[int, int] | None) -> None:
        super().__init__()
        half = channels // 2
        self.norm = nn.LayerNorm(channels, eps=_EPSILON)
        self.conv = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.scan = cross_scan_mixer(half, num_states)
        self.last_norm = nn.LayerNorm(channels, eps=_EPSILON)
        if unused_sides is not None:
            self.unused = nn.Parameter(0.02 * torch.randn(half, *unused_sides, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Channels of the two halves alternate in the result."""
        convolved, scanned = self.norm(x).chunk(2, dim=-1)
        halves = torch.stack([_on_last_axis(self.conv, convolved), self.scan(scanned)], dim=-1)
        return self.last_norm(halves.flatten(-2))


class HighOrderScan(nn.Module):
    """Gates of widths w_0 to w_(n - 1) = C, a scan behind each (H-SS2D): (B, X, Y, C) -> the same shape.

    Args:
        channels: C, a multiple of 2^n.
        order: n.
        num_states: of a channel, in the scans.
        has_unused_weights: see `Config`.
    """

    def __init__(self, channels: int, order: int, num_states: int, has_unused_weights: bool) -> None:
        super().__init__()
        self.widths = [channels // 2 ** (order - 1 - step) for step in range(order)]
        unused_sides = _UNUSED_SIDES.get(order, _USUAL_UNUSED_SIDES) if has_unused_weights else None
        self.in_projection = PointwiseConv2d(channels, self.widths[0] + sum(self.widths))  # 2 C
        self.gates = LocalScan(sum(self.widths), num_states, unused_sides)
        self.widenings = nn.ModuleList(PointwiseConv2d(*pair) for pair in itertools.pairwise(self.widths))
        self.scans = nn.ModuleList(cross_scan_mixer(width, num_states) for width in self.widths)
        self.out_projection = PointwiseConv2d(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Gate, scan, and widen to the next gate."""
        x, rest = _on_last_axis(self.in_projection, x).split([self.widths[0], sum(self.widths)], dim=-1)
        first, *others = (self.gates(rest) * _GATE_SCALE).split(self.widths, dim=-1)
        x = self.scans[0](x * first)
        for widening, gate, scan in zip(self.widenings, others, self.scans[1:], strict=True):
            x = scan(_on_last_axis(widening, x) * gate)
        return _on_last_axis(self.out_projection, x)


class HVssBlock(nn.Module):
    """High-order scan and a two-layer perceptron, each normalised before and scaled: (B, X, Y, C) -> the same shape.

    Args:
        channels: C.
        scan: (B, X, Y, C) -> the same shape.
        layer_scale: factors of both begin at this.
        drop_path_probability: that a sample goes around either in training.
    """

    def __init__(self, channels: int, scan: nn.Module, layer_scale: float, drop_path_probability: float) -> None:
        super().__init__()
        self.scan_norm = nn.LayerNorm(channels, eps=_EPSILON)
        self.scan = scan
        self.scan_scale = nn.Parameter(torch.full((channels,), layer_scale))
        self.mlp_norm = nn.LayerNorm(channels, eps=_EPSILON)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.mlp_scale = nn.Parameter(torch.full((channels,), layer_scale))
        self.drop_path = DropPath(drop_path_probability)

    def forward(self, x: Tensor) -> Tensor:
        """Both are added to their input."""
        x = x + self.drop_path(self.scan_scale * self.scan(self.scan_norm(x)))
        return x + self.drop_path(self.mlp_scale * self.mlp(self.mlp_norm(x)))


class _BlocksThenConv(nn.Module):
    """Blocks at the width of the input, then a convolution: (B, channels, X, Y) -> (B, out_channels, X, Y).

    Args:
        channels: of the input.
        out_channels: behind the convolution.
        blocks: each (B, X, Y, channels) -> the same shape.
    """

    def __init__(self, channels: int, out_channels: int, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Blocks have their channels last."""
        return self.conv(self.blocks(x.movedim(1, -1)).movedim(-1, 1))


def _step(config: Config, channels: int, out_channels: int, stage: int) -> nn.Module:
    """A stage, or the step of the decoder that undoes it: (B, channels, X, Y) -> (B, out_channels, X, Y)."""
    if stage < _NUM_CONV_STAGES:
        return nn.Conv2d(channels, out_channels, 3, padding=1)
    number = stage - _NUM_CONV_STAGES
    first = sum(config.depths[:number])
    probabilities = rising_probabilities(config.drop_path_probability, sum(config.depths))
    blocks = [
        HVssBlock(
            channels,
            HighOrderScan(channels, config.orders[number], config.num_states, config.has_unused_weights),
            config.layer_scale,
            probability,
        )
        for probability in probabilities[first : first + config.depths[number]]
    ]
    return _BlocksThenConv(channels, out_channels, blocks)


class HVmunet(nn.Module):
    """The frame, filled with convolutions and H-VSS blocks.

    Args:
        config: size and form.
        problem: two dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        self.config = config
        widths = list(zip((problem.in_channels, *config.features), config.features, strict=False))
        self.frame = BridgedUNet(
            config.features,
            [_step(config, *width, stage) for stage, width in enumerate(widths)],
            [_step(config, *width[::-1], stage) for stage, width in enumerate(widths) if stage],
            AttentionBridge(config.features[:-1]) if config.has_bridge else None,
            False,
            problem.num_classes,
        )
        start_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, C, X, Y).

        Returns:
            (B, K, X, Y).

        Raises:
            IllegalSizeError: a side is no multiple of 2^(S - 1).
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        return self.frame(x)


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: the problem is not 2D, features that cannot be normalised or that an order does not divide, stages
            without depth or order, or a probability that is none.
    """
    if problem.spatial_dims != 2:
        raise ValueError(
            f"spatial_dims={problem.spatial_dims}: H-vmunet serves 2; take segmentation/segmamba or "
            "segmentation/lightm_unet for 3D"
        )
    check_features(config.features)
    num_stages = len(config.features) - _NUM_CONV_STAGES
    if num_stages < 1:
        raise ValueError(
            f"features={config.features}: give three or more, as the first {_NUM_CONV_STAGES} are convolutions"
        )
    if len(config.depths) != num_stages or len(config.orders) != num_stages or min(config.depths) < 1:
        raise ValueError(
            f"depths={config.depths} and orders={config.orders}: give one of each, 1 or more, for each of the "
            f"{num_stages} stages from the third on that features={config.features} make"
        )
    for stage, order in enumerate(config.orders, _NUM_CONV_STAGES):
        for channels in config.features[stage - 1 : stage + 1]:
            if order < 1 or channels % 2**order:
                raise ValueError(
                    f"orders={config.orders}: order {order} must be at least 1 and 2^{order} divide the {channels} "
                    f"channels of its blocks; change it or features={config.features}"
                )
    if not 0 <= config.drop_path_probability < 1:
        raise ValueError(f"drop_path_probability={config.drop_path_probability}: must be from 0 to less than 1")
    return HVmunet(config, problem)
