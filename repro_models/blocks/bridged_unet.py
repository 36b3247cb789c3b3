"""U-Net with a bridge over its skip connections, the frame of UltraLight VM-UNet and H-vmunet.

Each fills it with its own stages (Wu et al., 2024, arXiv 2403.20035 and arXiv 2403.13642).

Shapes:
    B batch, C channels, X Y pixels, K classes, S stages, F_i features of stage i, 0 the first. The map of stage i has
    sides of 1 / 2^(i + 1), that of the last stage those of the one before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

_GROUPS = 4


class BridgedUNet(nn.Module):
    """Encoder of S stages, decoder of S - 1, and a head at half the image's sides.

    Args:
        features: F_i; all but the last one multiples of 4.
        stages: S of them, stage i from F_(i - 1) channels, or those of the image, to F_i, at the same pixels.
        decoder: S - 1 of them, the finest first, step i from F_(i + 1) channels to F_i, at the same pixels.
        bridge: maps of all stages but the last, or of all, finest first -> the same shapes; None for plain skips.
        bridges_last_stage: whether the bridge takes the last stage's map too.
        num_classes: K.
    """

    def __init__(
        self,
        features: Sequence[int],
        stages: Sequence[nn.Module],
        decoder: Sequence[nn.Module],
        bridge: nn.Module | None,
        bridges_last_stage: bool,
        num_classes: int,
    ) -> None:
        super().__init__()
        assert len(features) == len(stages) == len(decoder) + 1
        self.stages = nn.ModuleList(stages)
        self.stage_norms = nn.ModuleList(nn.GroupNorm(_GROUPS, channels) for channels in features[:-1])
        self.bridge = bridge
        self.bridges_last_stage = bridges_last_stage
        self.decoder = nn.ModuleList(decoder)
        self.decoder_norms = nn.ModuleList(nn.GroupNorm(_GROUPS, channels) for channels in features[:-1])
        self.head = nn.Conv2d(features[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y), sides multiples of 2^(S - 1) -> logits (B, K, X, Y)."""
        maps = []
        for stage, norm in zip(self.stages, self.stage_norms, strict=False):
            x = functional.gelu(functional.max_pool2d(norm(stage(x)), 2))
            maps.append(x)
        x = functional.gelu(self.stages[-1](x))  # from the map before the bridge
        if self.bridge is not None and self.bridges_last_stage:
            *maps, x = self.bridge([*maps, x])
        elif self.bridge is not None:
            maps = self.bridge(maps)
        is_at_its_pixels = True
        for step, norm, skip in zip(reversed(self.decoder), reversed(self.decoder_norms), reversed(maps), strict=True):
            x = norm(step(x))
            x = functional.gelu(x if is_at_its_pixels else _doubled(x)) + skip
            is_at_its_pixels = False
        return _doubled(self.head(x))


def _doubled(x: Tensor) -> Tensor:
    """(B, C, X, Y) -> (B, C, 2 X, 2 Y)."""
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def check_features(features: Sequence[int]) -> None:
    """Raise `ValueError` unless a `BridgedUNet` can be made of `features`."""
    if len(features) < 2:
        raise ValueError(f"features={tuple(features)}: give one number for each of two stages or more")
    if any(channels < 1 or channels % _GROUPS for channels in features[:-1]):
        raise ValueError(
            f"features={tuple(features)}: all but the last must be multiples of {_GROUPS}, the groups in which they "
            "are normalised"
        )


def start_weights(network: nn.Module, kept: tuple[type[nn.Module], ...] = ()) -> None:
    """Draw linear layers and convolutions as both papers' code does.

    Linear layers come from a normal of deviation 0.02, convolutions from one of variance 2 over the values that an
    input reaches; biases are 0, but for those of convolutions along one axis.

    Args:
        network: changed in place.
        kept: kinds of parts that keep the start they have.
    """
    if isinstance(network, kept):
        return
    if isinstance(network, nn.Linear):
        nn.init.normal_(network.weight, std=0.02)  # cut at 100 deviations in the authors' code
        if network.bias is not None:
            nn.init.zeros_(network.bias)
    elif isinstance(network, nn.Conv1d):
        # Groups are not divided out, in the authors' code.
        nn.init.normal_(network.weight, std=math.sqrt(2 / (network.kernel_size[0] * network.out_channels)))
    elif isinstance(network, nn.Conv2d):
        reached = math.prod(network.kernel_size) * network.out_channels // network.groups
        nn.init.normal_(network.weight, std=math.sqrt(2 / reached))
        if network.bias is not None:
            nn.init.zeros_(network.bias)
    for part in network.children():
        start_weights(part, kept)
