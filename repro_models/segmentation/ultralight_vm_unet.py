"""UltraLight VM-UNet (Wu et al., 2024, arXiv 2403.20035; Patterns, 2025).

Three stages of convolution, then three of parallel vision Mamba (PVM layers): channels are parted in four groups before
they are mixed, because a Mamba's parameters grow with the square of its channels. A bridge of spatial and channel
attention weighs the skip connections.

The published 0.060 GFLOPs are multiply-accumulates of convolutions and linear layers outside Mamba, whose weights the
authors' code hands to its kernels without calling a layer; with those inside there are 0.066 G of them.

Differs:
    - Logits; the authors' code ends in a sigmoid, which is the loss's here.
    - Layers within Mamba start as Mamba's paper starts them. The authors' code draws them anew with all others, which
      sets the biases of the step sizes to 0: `redraws_mamba`.
    - The bridge takes stages 1 to 5, as in the authors' code; `bridges_stage_6` takes the sixth too.
    - All groups of channels pass the shared Mamba at once, as samples of one batch.
    - Any number of stages, of convolutions among them and of groups.
Shapes:
    B batch, C channels, X Y pixels, L = X Y tokens in raster order, K classes, G groups, F_i features of stage i.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repro_models.blocks.attention_bridge import AttentionBridge
from repro_models.blocks.bridged_unet import BridgedUNet, check_features, start_weights
from repro_models.blocks.mamba_mixer import StateSpace, mamba
from repro_models.contract import Constraints, Paper, Problem, Variant

PAPER = Paper(
    title="UltraLight VM-UNet: Parallel Vision Mamba Significantly Reduces Parameters for Skin Lesion Segmentation",
    year=2024,
    address="https://arxiv.org/abs/2403.20035",
    reference_code="https://github.com/wurenkai/UltraLight-VM-UNet",
)

_BRIDGES = ("none", "fc", "conv")


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are the paper's.

    Attributes:
        features: F_i, of every stage; all but the last multiples of 4.
        num_conv_stages: how many stages, from the first on, are convolutions; the others are PVM layers.
        num_groups: G, in which a PVM layer parts its channels; 1, 2 and 4 in the paper's ablation.
        is_mamba_shared: one Mamba mixes all groups of a layer; else each group has its own.
        num_states: of a channel, in Mamba.
        bridge: "none", or with linear layers ("fc") or convolutions of side 1 ("conv") for channel attention, which
            differ in their start alone.
        bridges_stage_6: the bridge takes the last stage too, the sixth of the paper.
        redraws_mamba: layers within Mamba start like all others.
    """

    features: tuple[int, ...] = (8, 16, 24, 32, 48, 64)
    num_conv_stages: int = 3
    num_groups: int = 4
    is_mamba_shared: bool = True
    num_states: int = 16
    bridge: str = "fc"
    bridges_stage_6: bool = False
    redraws_mamba: bool = False


_MEASURED = "counted in the authors' code"
_SKIN = Problem(spatial_dims=2, in_channels=3, num_classes=1)
VARIANTS = {
    "paper": Variant(Config(), _SKIN, 49_457, f"{_MEASURED}; 0.049M in its README", (256, 256), 65_995_776),
    "double_parallel": Variant(Config(num_groups=2), _SKIN, 69_589, f"{_MEASURED}; 0.070M in its README"),
    "no_parallel": Variant(Config(num_groups=1), _SKIN, 136_269, f"{_MEASURED}; 0.136M in its README"),
    "no_bridge": Variant(Config(bridge="none"), _SKIN, 32_843, _MEASURED),
    "conv_bridge": Variant(Config(bridge="conv"), _SKIN, 49_457, _MEASURED),
    "reference_small": Variant(
        Config(features=(8, 12, 16, 20, 24, 32)), Problem(2, 5, 4), 21_176, f"{_MEASURED}, given these widths"
    ),
    "small": Variant(Config(), Problem(2, 1, 2), None, "ours"),
    "tiny": Variant(
        Config(features=(8, 8, 8), num_conv_stages=1, num_groups=2, num_states=2), Problem(2, 1, 3), None, "ours"
    ),
}


def _divisor(config: Config) -> int:
    """A pooling after every stage but the last."""
    return 2 ** (len(config.features) - 1)


CONSTRAINTS = Constraints(spatial_dims=(2,), divisor=_divisor, smallest_side=_divisor)


class PvmLayer(nn.Module):
    """Mix the tokens of each group of channels by Mamba: (B, C, X, Y) -> (B, out_channels, X, Y).

    Args:
        channels: C.
        out_channels: behind the last linear layer.
        num_groups: G, divides C.
        is_shared: one Mamba for all groups, else one each.
        num_states: of a channel.
    """

    def __init__(self, channels: int, out_channels: int, num_groups: int, is_shared: bool, num_states: int) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.norm = nn.LayerNorm(channels)
        self.mixers = nn.ModuleList(
            mamba(channels // num_groups, num_states) for _ in range(1 if is_shared else num_groups)
        )
        self.skip_scale = nn.Parameter(torch.ones(1))
        self.projection = nn.Linear(channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """The residual adds the normalised tokens, and one norm serves before and after the mixing."""
        tokens = self.norm(x.flatten(2).transpose(1, 2))  # (B, L, C)
        mixed = self.norm(self._mixed(tokens) + self.skip_scale * tokens)
        return self.projection(mixed).transpose(1, 2).unflatten(2, x.shape[2:])

    def _mixed(self, tokens: Tensor) -> Tensor:
        """(B, L, C) -> the same shape."""
        if len(self.mixers) > 1:
            groups = tokens.chunk(self.num_groups, dim=2)
            return torch.cat([mixer(group) for mixer, group in zip(self.mixers, groups, strict=True)], dim=2)
        groups_as_samples = tokens.unflatten(2, (self.num_groups, -1)).transpose(1, 2)  # (B, G, L, C / G)
        mixed = self.mixers[0](groups_as_samples.flatten(0, 1)).unflatten(0, (-1, self.num_groups))
        return mixed.transpose(1, 2).flatten(2)


def _step(config: Config, channels: int, out_channels: int, is_convolution: bool) -> nn.Module:
    """A stage, or a step of the decoder: (B, channels, X, Y) -> (B, out_channels, X, Y)."""
    if is_convolution:
        return nn.Conv2d(channels, out_channels, 3, padding=1)
    return PvmLayer(channels, out_channels, config.num_groups, config.is_mamba_shared, config.num_states)


class UltraLightVmUnet(nn.Module):
    """The frame, filled with convolutions and PVM layers.

    Args:
        config: size and form.
        problem: two dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        self.config = config
        features, num_convolutions = config.features, config.num_conv_stages
        widths = list(zip((problem.in_channels, *features), features, strict=False))
        bridged = features if config.bridges_stage_6 else features[:-1]
        self.frame = BridgedUNet(
            features,
            [_step(config, *width, stage < num_convolutions) for stage, width in enumerate(widths)],
            # A step of the decoder is what the stage is that it undoes.
            [_step(config, *width[::-1], stage < num_convolutions) for stage, width in enumerate(widths) if stage],
            None if config.bridge == "none" else AttentionBridge(bridged, is_convolution=config.bridge == "conv"),
            config.bridges_stage_6,
            problem.num_classes,
        )
        start_weights(self, kept=() if config.redraws_mamba else (StateSpace,))

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, C, X, Y).

        Returns:
            (B, K, X, Y).

        Raises:
            IllegalSizeError: a side is no multiple of 2^(number of stages - 1).
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        return self.frame(x)


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: the problem is not 2D, features that cannot be normalised or parted in groups, more convolutions
            than stages or none, or an unknown bridge.
    """
    if problem.spatial_dims != 2:
        raise ValueError(
            f"spatial_dims={problem.spatial_dims}: UltraLight VM-UNet serves 2; take segmentation/segmamba or "
            "segmentation/lightm_unet for 3D"
        )
    check_features(config.features)
    if not 1 <= config.num_conv_stages <= len(config.features):
        raise ValueError(
            f"num_conv_stages={config.num_conv_stages}: must be 1 to {len(config.features)}, the number of stages"
        )
    parted = config.features[config.num_conv_stages - 1 :]
    if config.num_groups < 1 or any(channels % config.num_groups for channels in parted):
        raise ValueError(
            f"num_groups={config.num_groups}: must divide the features {parted} of all PVM layers; change it or "
            f"features={config.features}"
        )
    if config.bridge not in _BRIDGES:
        raise ValueError(f"bridge={config.bridge!r}: must be one of {', '.join(map(repr, _BRIDGES))}")
    return UltraLightVmUnet(config, problem)
