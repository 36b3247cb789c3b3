from __future__ import annotations

import pytest
import torch

from repro_models.contract import IllegalSizeError, Problem
from repro_models.segmentation import unet_3d

PROBLEM = Problem(spatial_dims=3, in_channels=1, num_classes=2)


@pytest.mark.parametrize(("size", "expected"), [((132, 132, 116), (44, 44, 28)), ((92, 100, 92), (4, 12, 4))])
def test_unpadded_output_loses_88_voxels_an_axis(size: tuple[int, ...], expected: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = unet_3d.build(unet_3d.Config(is_padded=False), PROBLEM)
        assert network(torch.empty(1, 1, *size)).shape == (1, 2, *expected)


@pytest.mark.parametrize(
    ("side", "fix"), [(84, 92), (91, 92), (93, 100), (96, 100), (128, 132), (16, 92)], ids=lambda value: str(value)
)
def test_illegal_unpadded_side_is_refused_with_the_next_legal_one(side: int, fix: int) -> None:
    config = unet_3d.Config(base_features=1, is_padded=False)
    network = unet_3d.build(config, PROBLEM)
    with pytest.raises(IllegalSizeError, match=f"side {side} of axis 1 .* pad the image to {fix},"):
        network(torch.zeros(1, 1, 92, side, 92))
    unet_3d.CONSTRAINTS.check_size(config, (92, fix, 92))


@pytest.mark.parametrize(("side", "fix"), [(8, 16), (20, 24), (92, 96)])
def test_illegal_padded_side_is_refused_with_the_next_legal_one(side: int, fix: int) -> None:
    with pytest.raises(IllegalSizeError, match=f"pad the image to {fix}$"):
        unet_3d.CONSTRAINTS.check_size(unet_3d.Config(), (16, side, 16))
    unet_3d.CONSTRAINTS.check_size(unet_3d.Config(), (16, fix, 16))


def test_unpadded_tiles_fit_together() -> None:
    torch.manual_seed(0)
    network = unet_3d.build(unet_3d.Config(base_features=1, is_padded=False), PROBLEM).eval()
    x = torch.randn(1, 1, 100, 92, 92)
    with torch.no_grad():
        whole, tile = network(x), network(x[:, :, 8:])
    torch.testing.assert_close(tile, whole[:, :, 8:])


def test_instance_norm_is_batch_norm_with_the_statistics_of_one_tile() -> None:
    networks = []
    for norm in ("batch", "instance"):
        torch.manual_seed(0)
        networks.append(unet_3d.build(unet_3d.Config(base_features=2, norm=norm), PROBLEM).train())
    x = torch.randn(2, 1, 16, 16, 24)
    batch, instance = networks
    tiles = torch.cat([batch(x[:1]), batch(x[1:])])
    torch.testing.assert_close(instance.eval()(x), tiles, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(batch(x), tiles, rtol=1e-2)


@pytest.mark.parametrize(
    ("config", "spatial_dims", "message"),
    [(unet_3d.Config(), 2, "spatial_dims=2"), (unet_3d.Config(norm="group"), 3, "norm='group': must be one of batch")],
)
def test_unserved_setting_is_refused(config: unet_3d.Config, spatial_dims: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unet_3d.build(config, Problem(spatial_dims, 1, 2))
