from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipelines.inference.overlap_tile import predict_overlap_tiles
from repro_models.contract import Problem
from repro_models.segmentation import unet


class _Centre(nn.Module):
    """Gives back the centre of what it sees, without `margin` pixels on every side."""

    def __init__(self, margin: int) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x, [-self.margin] * (2 * (x.ndim - 2)))


class _Seen(_Centre):
    """Gives the corner pixel that it sees, everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., :1, :1].expand_as(super().forward(x))


@pytest.mark.parametrize("size", [(23, 40), (7, 3), (1, 16), (8, 8)])
def test_every_pixel_is_given_once_and_in_its_place(size: tuple[int, int]) -> None:
    image = torch.arange(float(2 * size[0] * size[1])).view(2, *size)
    result = predict_overlap_tiles(_Centre(5), image, (18, 18), (8, 8), 4)
    assert torch.equal(result, image)


def test_a_volume_is_tiled_along_three_axes() -> None:
    image = torch.randn(1, 9, 12, 5)
    assert torch.equal(predict_overlap_tiles(_Centre(2), image, (12, 8, 8), (8, 4, 4), 4), image)


def test_what_lies_outside_is_the_image_mirrored_at_its_border() -> None:
    image = torch.arange(12.0).view(1, 3, 4)
    # Four pixels left of and above the first pixel, with a period of 6 columns and 4 rows: row 0, column 2.
    assert (predict_overlap_tiles(_Seen(4), image, (16, 16), (8, 8), 8) == image[0, 0, 2]).all()


def test_tiles_of_an_unpadded_u_net_give_what_one_pass_over_the_mirrored_image_gives() -> None:
    torch.manual_seed(0)
    config = unet.Config(features=(2, 4, 4), is_padded=False)
    network: Any = unet.build(config, Problem(2, 1, 2)).double().eval()
    image = torch.randn(1, 33, 41, dtype=torch.float64)
    tile, lost = 52, 40  # the smallest legal side of three levels is 44, of which 4 come out
    tiled = predict_overlap_tiles(network, image, (tile, tile), (tile - lost, tile - lost), 4)
    # Padded on the far side to the next legal size.
    whole = functional.pad(image, [20, 23, 20, 23], mode="reflect")[None]
    assert whole.shape[2:] == (76, 84)
    torch.testing.assert_close(tiled, network(whole)[0, :, :33, :41], rtol=1e-12, atol=1e-12)


def test_a_tile_that_would_leave_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"give \(4, 4\) pixels; each side must be 8 or more"):
        predict_overlap_tiles(_Centre(4), torch.zeros(1, 8, 8), (12, 12), (4, 4), 8)
