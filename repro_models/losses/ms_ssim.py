"""MS-SSIM loss: 1 minus the structural similarity, at several scales, of probability maps and reference maps.

Source: Wang et al., 2003 (Asilomar, "Multi-scale structural similarity for image quality assessment"); as a loss of
segmentation, UNet 3+ (Huang et al., 2020, arXiv 2004.08790). A Gaussian window of 11 pixels (sigma 1.5, no padding)
gives means, variances and the covariance around every pixel, and with c1 = 0.01^2 and c2 = 0.03^2

    l  = (2 mean_p mean_y + c1) / (mean_p^2 + mean_y^2 + c1)        luminance
    cs = (2 cov_py + c2) / (var_p + var_y + c2)                     contrast and structure

Both are averaged over the image; between scales it is halved by averaging. With weights w of S scales

    wang         product of cs_j^w_j over j < S, times mean(l cs)_S^w_S
    every_scale  product of l_j^w_j cs_j^w_j over all j; UNet 3+ prints this
    repository   product over j < S of cs_j^w_j mean(l cs)_S^w_S: UNet 3+'s published code, in which the last factor is
                 there S - 1 times

Differs:
    - `wang` is the default, not what UNet 3+ prints or does; the others are options.
    - The published code's class maps both kinds of factors from -1..1 to 0..1 first (`is_normalised`) and returns the
      similarity, which falls as the loss should rise.
    - Negative factors, which have no such power, are raised to 1e-6.
    - An image too small for five scales gets as many as fit, their weights scaled to a sum of 1, unless a number is
      given; five want 176 pixels. Below 11 pixels, where coarse outputs of deep supervision are, the window is as large
      as the image. The published code shrinks the window before it leaves a scale out.
    - Of several classes: mean over the foreground's.
Shapes:
    B batch, K classes (background is 0), H W pixels, N maps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.losses.region_sums import in_float, one_against_the_rest

FORMS = ("wang", "every_scale", "repository")
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW = 11
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2
_SMALLEST = 1e-6


def ms_ssim(
    prediction: Tensor,
    reference: Tensor,
    form: str = "wang",
    num_scales: int | None = None,
    is_normalised: bool = False,
) -> Tensor:
    """Similarity of maps, 1 where they are equal.

    Args:
        prediction: (N, H, W) in 0..1.
        reference: (N, H, W) in 0..1, of the same type.
        form: one of `FORMS`.
        num_scales: 1 to 5; None for as many as fit.
        is_normalised: map every factor from -1..1 to 0..1.

    Returns:
        (N,).

    Raises:
        ValueError: unknown form, or more scales than the image has room for.
    """
    if form not in FORMS:
        raise ValueError(f"form={form!r}: must be one of {', '.join(FORMS)}")
    side = min(prediction.shape[1:])
    num_scales, length = _checked_scales(num_scales, side), min(_WINDOW, side)
    positions = torch.arange(length, device=prediction.device, dtype=prediction.dtype) - (length - 1) / 2
    window = torch.exp(positions.square() / (-2 * _SIGMA**2))
    window = window / window.sum()
    maps = torch.stack([prediction, reference], dim=1)
    luminances, structures, similarities = [], [], []
    for scale in range(num_scales):
        maps = functional.avg_pool2d(maps, 2) if scale else maps
        luminance, structure = _factors(maps, window)
        luminances.append(luminance.mean(dim=(1, 2)))
        structures.append(structure.mean(dim=(1, 2)))
        similarities.append((luminance * structure).mean(dim=(1, 2)))
    # All five are taken as published; their sum is 1.0001.
    total = 1.0 if num_scales == len(_WEIGHTS) else sum(_WEIGHTS[:num_scales])
    weights = [weight / total for weight in _WEIGHTS[:num_scales]]

    def power(factor: Tensor, weight: float) -> Tensor:
        return ((factor + 1) / 2 if is_normalised else factor).clamp(min=_SMALLEST) ** weight

    if form == "every_scale":
        factors = [
            power(luminance, weight) * power(structure, weight)
            for luminance, structure, weight in zip(luminances, structures, weights, strict=True)
        ]
        return torch.stack(factors).prod(dim=0)
    last = power(similarities[-1], weights[-1])
    finer = [power(structure, weight) for structure, weight in zip(structures[:-1], weights, strict=False)]
    product = torch.stack([torch.ones_like(last), *finer]).prod(dim=0)
    return product * last ** (max(len(finer), 1) if form == "repository" else 1)


def _checked_scales(num_scales: int | None, side: int) -> int:
    fitting = min(int(math.log2(max(side // _WINDOW, 1))) + 1, len(_WEIGHTS))
    if num_scales is None:
        return fitting
    if not 1 <= num_scales <= len(_WEIGHTS):
        raise ValueError(f"num_scales={num_scales}: must be from 1 to {len(_WEIGHTS)}")
    if num_scales > fitting:
        raise ValueError(
            f"num_scales={num_scales}: images with a side of {side} have {fitting}, because the window of {_WINDOW} "
            f"pixels wants {_WINDOW * 2 ** (num_scales - 1)}; take larger patches or fewer scales"
        )
    return num_scales


def _factors(maps: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast and structure, (N, h, w) each, of pairs of maps (N, 2, H, W)."""
    first, second = maps.unbind(dim=1)
    moments = torch.stack([first, second, first * first, second * second, first * second], dim=1).flatten(0, 1)
    # Autocast would average in half precision.
    with torch.autocast(maps.device.type, enabled=False):
        blurred = functional.conv2d(moments.unsqueeze(1), window.view(1, 1, -1, 1))
        blurred = functional.conv2d(blurred, window.view(1, 1, 1, -1))
    means, others, squares, other_squares, products = blurred.view(-1, 5, *blurred.shape[2:]).unbind(dim=1)
    luminance = (2 * means * others + _C1) / (means.square() + others.square() + _C1)
    variances = squares - means.square() + other_squares - others.square()
    return luminance, (2 * (products - means * others) + _C2) / (variances + _C2)


class MSSSIMLoss(nn.Module):
    """1 minus the mean similarity of the foreground classes' maps, in two dimensions.

    Args:
        form: one of `FORMS`.
        num_scales: 1 to 5; None for as many as fit.
        ignore_label: label of voxels that nobody annotated; there both maps are 0.
    """

    def __init__(self, form: str = "wang", num_scales: int | None = None, ignore_label: int | None = None) -> None:
        super().__init__()
        self.form = form
        self.num_scales = num_scales
        self.ignore_label = ignore_label

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss, a scalar.

        Args:
            logits: (B, K, H, W).
            target: (B, H, W) int64, labels 0 to K - 1 or the ignore label.

        Raises:
            ValueError: the images are not 2D, or too small for the scales asked for.
        """
        if logits.ndim != 4:
            raise ValueError(
                f"MS-SSIM of images of {logits.ndim - 2} dimensions: it serves 2; set the entry's configuration to 2d, "
                "or take another loss"
            )
        probabilities = in_float(logits).softmax(dim=1)[:, 1:]
        reference = one_against_the_rest(target, logits.shape[1])[:, 1:].to(probabilities)
        if self.ignore_label is not None:
            probabilities = probabilities * (target != self.ignore_label).unsqueeze(1)
        return 1 - ms_ssim(probabilities.flatten(0, 1), reference.flatten(0, 1), self.form, self.num_scales).mean()

    def terms(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and nothing that runs over the batch. Shapes as in `forward`."""
        return self(logits, target), torch.zeros((), device=logits.device)
