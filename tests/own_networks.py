"""A package of networks as a user outside of this repository has it, for tests of entries with a `target`."""

from __future__ import annotations

from pathlib import Path

PACKAGE = "own_networks_of_a_test"

_INIT = '''
"""Networks of a user."""
'''
_BLOCKS = """
from torch import nn

def block(spatial_dims, inputs, outputs, stride):
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
    norm = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[spatial_dims]
    return nn.Sequential(conv(inputs, outputs, 3, stride, 1), norm(outputs, affine=True), nn.ReLU())
"""
_NETS = '''
import torch
from torch import nn
from torch.nn import functional

from .blocks import block


class Hourglass(nn.Module):
    """Down by 4 and up again; what it returns in training mode is for its `supervision` to say."""

    def __init__(self, spatial_dims, in_channels, num_classes, width=4, supervision="none"):
        super().__init__()
        transposed = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[spatial_dims]
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
        self.supervision = supervision
        self.first = block(spatial_dims, in_channels, width, 1)
        self.down = block(spatial_dims, width, 2 * width, 4)
        self.up = transposed(2 * width, width, 4, 4)
        self.head = conv(2 * width, num_classes, 1)
        self.coarse_head = conv(2 * width, num_classes, 1) if supervision != "none" else None

    def forward(self, x):
        fine = self.first(x)
        coarse = self.down(fine)
        logits = self.head(torch.cat([fine, self.up(coarse)], dim=1))
        if self.supervision in ("none", "forgotten") or not self.training:
            return logits
        second = self.coarse_head(coarse)
        if self.supervision == "list":
            return [logits, second]
        if self.supervision == "coarse_first":
            return second, logits
        if self.supervision == "stacked":
            return torch.stack([logits, functional.interpolate(second, logits.shape[2:])], dim=1)
        return {"out": logits, "aux": second}


class FlatNet(nn.Module):
    """Images of two dimensions, three classes, whatever is asked for."""

    def __init__(self, in_channels=1, width=4):
        super().__init__()
        self.rates = [float(rate) for rate in torch.linspace(0, 0.1, 3)]  # needs values, so not on shapes alone
        self.body = nn.Sequential(block(2, in_channels, width, 1), nn.Conv2d(width, 3, 1))

    def forward(self, x):
        return self.body(x)


class Positions(nn.Module):
    """A learned position for each pixel, so made for one size."""

    def __init__(self, in_channels, n_classes, img_size):
        super().__init__()
        self.body = {2: nn.Conv2d, 3: nn.Conv3d}[len(img_size)](in_channels, n_classes, 3, padding=1)
        self.positions = nn.Parameter(torch.zeros(1, 1, *img_size))

    def forward(self, x):
        return self.body(x + self.positions)


class Shrinking(nn.Conv3d):
    def __init__(self, in_channels, out_channels):
        super().__init__(in_channels, out_channels, 3)


def small(**arguments):
    return Hourglass(width=2, **arguments)


def number():
    return 5
'''


def write_package(folder: Path) -> Path:
    """Write the package below `folder`, which belongs on the path; give the file with its networks."""
    package = folder / PACKAGE
    package.mkdir(parents=True)
    for name, text in (("__init__", _INIT), ("blocks", _BLOCKS), ("nets", _NETS)):
        (package / f"{name}.py").write_text(text.lstrip(), encoding="utf-8")
    (package / "broken.py").write_text("import a_package_that_nobody_has\n", encoding="utf-8")
    return package / "nets.py"
