from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipelines.planning.shapes import shapes_only


class Joined(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x[:, :1], x], dim=1)


class Summed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1 + (x + x[:1, :1]) + x + 2


class Chosen(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[:, :1] >= x[:, 1:2], torch.logaddexp(x, x[:, :1]), -1.0)


class Statistics(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(x, dim=(1, -1), keepdim=True, correction=0)
        both = torch.stack([(1 - x).abs() / torch.sqrt(variance + 1), (x - mean).relu()], dim=-1)
        return both.mean(-1) + x.mean((1, 2), keepdim=True) + torch.eye(2, 3).mean()


class StepSizes(nn.Module):
    """What a selective state space is made of, but for its scan."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(11)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = functional.softplus(self.norm(x)).clamp(min=1e-4)
        return functional.silu((-torch.expm1(-steps)).log() + steps.exp()).clamp(0, 1)


class Attention(nn.Module):
    """What transformers are made of, on ten tokens of eleven channels."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(11, 33)
        self.table = nn.Parameter(torch.zeros(7, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        queries, keys, values = self.linear(functional.gelu(x)).chunk(3, dim=-1)
        token = torch.arange(10, device=x.device)
        offset = token.reshape(-1, 1) - token
        bias = functional.embedding((offset * 0) + 3, self.table).permute(2, 0, 1).unsqueeze(1)
        bias = bias.masked_fill(~(offset >= 0), -1.0).masked_fill(offset == 2, 0.0)
        weights = (queries @ keys.transpose(-2, -1) * 0.5 + bias).softmax(-1)
        both = torch.roll(weights @ values, [1], [2]) + functional.scaled_dot_product_attention(queries, keys, values)
        return functional.pad(both, (0, 1)).narrow(-1, 1, 11)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv3d(4, 6, 3),
        lambda: nn.Conv3d(4, 6, (1, 3, 5), stride=(1, 2, 2), padding=(0, 1, 2), dilation=(1, 2, 1), groups=2),
        lambda: nn.Conv3d(4, 4, 3, padding="same", dilation=2),
        lambda: nn.ConvTranspose3d(4, 6, (1, 2, 2), stride=(1, 2, 2)),
        lambda: nn.ConvTranspose3d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=2),
        lambda: nn.MaxPool3d(2),
        lambda: nn.MaxPool3d((1, 3, 2), stride=2, padding=(0, 1, 1)),
        lambda: nn.MaxPool3d(2, ceil_mode=True),
        lambda: nn.AvgPool3d(2),
        lambda: nn.AvgPool3d((1, 3, 2), stride=2, padding=(0, 1, 1), count_include_pad=False),
        lambda: nn.AvgPool3d(2, ceil_mode=True),
        lambda: nn.Sequential(nn.InstanceNorm3d(4, affine=True), nn.LeakyReLU(inplace=True), nn.GroupNorm(2, 4)),
        lambda: nn.Upsample(scale_factor=2, mode="trilinear"),
        lambda: nn.Upsample(scale_factor=1.5, mode="trilinear"),
        lambda: nn.Upsample(size=(3, 4, 5)),
        lambda: nn.Upsample(size=7),
        lambda: nn.AdaptiveMaxPool3d((1, 2, 3)),
        lambda: nn.Sequential(nn.PReLU(4), nn.ELU(), nn.Dropout3d(), nn.LogSoftmax(dim=1)),
        Joined,
        Statistics,
        lambda: nn.Upsample(scale_factor=1.5),
        Summed,
        Chosen,
        Attention,
        StepSizes,
    ],
)
def test_shapes_are_those_of_a_real_run(make: Callable[[], nn.Module]) -> None:
    expected = make()(torch.zeros(2, 4, 9, 10, 11)).shape
    with shapes_only():
        result = make()(torch.empty(2, 4, 9, 10, 11))
    assert result.shape == expected
    assert result.device.type == "meta"


def test_wrong_skip_connection_is_noticed() -> None:
    with shapes_only(), pytest.raises(AssertionError):
        torch.cat([torch.empty(1, 2, 4, 4), torch.empty(1, 2, 4, 5)], dim=1)


@pytest.mark.slow
def test_no_architecture_loads_the_compiler() -> None:
    script = """
import sys
import torch
from pipelines.planning.shapes import shapes_only
from repro_models import registry
from repro_models.contract import Problem
for name in registry.names():
    architecture = registry.load(name)
    config = architecture.VARIANTS["tiny"].config
    for dims in {2, 3}.intersection(architecture.CONSTRAINTS.spatial_dims):
        _, size = architecture.CONSTRAINTS.per_axis(config, dims)
        if hasattr(architecture, "with_patch_size"):
            config = architecture.with_patch_size(config, size)
        with shapes_only():
            architecture.build(config, Problem(dims, 1, 2)).eval()(torch.empty(1, 1, *size))
        if "torch._dynamo" in sys.modules:
            sys.exit(f"{name} in {dims}D loads torch's compiler")
"""
    root = Path(__file__).parents[3]
    ended = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
