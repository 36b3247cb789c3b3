"""Fully connected conditional random field by exact mean field (Krahenbuhl and Koltun, 2011, arXiv 1210.5644).

Energy as in DeepLab V2 (Chen et al., 2016, arXiv 1606.00915, section 3.3): the unary term is -log P of a pixel, the
pairwise one of pixels with different labels (Potts) is

    w_b exp(-|p - p'|^2 / 2 s_a^2 - |I - I'|^2 / 2 s_b^2) + w_g exp(-|p - p'|^2 / 2 s_g^2),

of places p in pixels and intensities I. A step takes Q of all other pixels at once:
Q_i(k) ~ P_i(k) exp(sum over j != i of kernel(i, j) Q_j(k)).

Differs:
    - Every pair of pixels is summed up, in time that grows with the square of their number. The published code filters
      on a permutohedral lattice, which is an approximation: its probabilities differ from these by up to 0.45.
    - The kernel is taken as it stands; the published code can divide it by its row sums.
Shapes:
    B batch, C image channels, K classes, *s pixels, N their number, R rows of pairs held at once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_PAIRS_AT_ONCE = 2**22


class DenseCRF(nn.Module):
    """Refine logits by the image; it has no parameters, and gradients go through it.

    Args:
        bilateral_weight: w_b.
        bilateral_std_pixels: s_a.
        bilateral_std_intensity: s_b, in units of the image.
        gaussian_weight: w_g.
        gaussian_std_pixels: s_g.
        num_iterations: mean-field steps.
    """

    def __init__(
        self,
        bilateral_weight: float = 4.0,
        bilateral_std_pixels: float = 67.0,
        bilateral_std_intensity: float = 3.0,
        gaussian_weight: float = 3.0,
        gaussian_std_pixels: float = 1.0,
        num_iterations: int = 10,
    ) -> None:
        super().__init__()
        stds = (bilateral_std_pixels, bilateral_std_intensity, gaussian_std_pixels)
        if min(stds) <= 0:
            raise ValueError(f"standard deviations {stds}: must be above 0")
        if num_iterations < 0:
            raise ValueError(f"num_iterations={num_iterations}: must be 0 or more")
        self.bilateral_weight = bilateral_weight
        self.bilateral_std_pixels = bilateral_std_pixels
        self.bilateral_std_intensity = bilateral_std_intensity
        self.gaussian_weight = gaussian_weight
        self.gaussian_std_pixels = gaussian_std_pixels
        self.num_iterations = num_iterations

    def forward(self, logits: Tensor, image: Tensor) -> Tensor:
        """Logarithms of the mean-field probabilities.

        Args:
            logits: (B, K, *s), or log-probabilities.
            image: (B, C, *s).

        Returns:
            (B, K, *s); their exponentials add up to 1 over K.
        """
        size = logits.shape[2:]
        axes = [torch.arange(side, dtype=image.dtype, device=image.device) for side in size]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1).expand(len(image), -1, -1)
        bilateral = torch.cat(
            [places / self.bilateral_std_pixels, image.flatten(2) / self.bilateral_std_intensity], dim=1
        ).transpose(1, 2)
        gaussian = (places / self.gaussian_std_pixels).transpose(1, 2)
        unary = logits.flatten(2).log_softmax(1).transpose(1, 2)
        refined = unary
        for _ in range(self.num_iterations):
            refined = (unary + self._messages(refined.exp(), bilateral, gaussian)).log_softmax(2)
        return refined.transpose(1, 2).unflatten(2, size)

    def _messages(self, probabilities: Tensor, bilateral: Tensor, gaussian: Tensor) -> Tensor:
        """Kernel times probabilities of all other pixels: (B, N, K) -> (B, N, K), few rows of pairs at once."""
        num_rows = max(1, _PAIRS_AT_ONCE // probabilities.shape[1])
        rows = zip(bilateral.split(num_rows, 1), gaussian.split(num_rows, 1), strict=True)
        of_all = [
            (
                self.bilateral_weight * _gaussian_kernel(some_bilateral, bilateral)
                + self.gaussian_weight * _gaussian_kernel(some_gaussian, gaussian)
            )
            @ probabilities
            for some_bilateral, some_gaussian in rows
        ]
        # A pixel is at no distance from itself, where both exponentials are 1.
        return torch.cat(of_all, dim=1) - (self.bilateral_weight + self.gaussian_weight) * probabilities


def _gaussian_kernel(some: Tensor, all_features: Tensor) -> Tensor:
    """exp(-distance^2 / 2): (B, R, F) and (B, N, F) -> (B, R, N)."""
    squared = torch.zeros((), dtype=some.dtype, device=some.device)
    # Feature by feature: differences stay exact where they are small, and R N numbers are held and not R N F.
    for feature in range(some.shape[2]):
        squared = squared + (some[:, :, None, feature] - all_features[:, None, :, feature]).square()
    return (-squared / 2).exp()
