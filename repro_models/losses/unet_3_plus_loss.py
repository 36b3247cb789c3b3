"""Hybrid loss of UNet 3+ (Huang et al., 2020, arXiv 2004.08790): focal, MS-SSIM and IoU, for voxel, patch and map.

The sum of the three, of every side output; how outputs are weighed is the network's to say.

Differs:
    - The published code has no focal loss; here the softmax form with gamma 2 (`repro_models/losses/focal.py`).
    - MS-SSIM in Wang's form; what the paper prints, and what its code does, are other values of `ms_ssim_form`.
Shapes:
    B batch, K classes (background is 0), H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from repro_models.losses.focal import FocalLoss
from repro_models.losses.iou import IoULoss
from repro_models.losses.ms_ssim import MSSSIMLoss


class UNet3PlusLoss(nn.Module):
    """Focal plus MS-SSIM plus IoU loss, in two dimensions.

    Args:
        is_batch: take the sums of the IoU over the whole batch, not per sample.
        ms_ssim_form: one of `repro_models.losses.ms_ssim.FORMS`.
        ignore_label: label of voxels that nobody annotated.
        reduce_sums: adds a tensor up over the ranks of a distributed training, differentiably.
    """

    def __init__(
        self,
        is_batch: bool = False,
        ms_ssim_form: str = "wang",
        ignore_label: int | None = None,
        reduce_sums: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.focal = FocalLoss(ignore_label=ignore_label)
        self.ms_ssim = MSSSIMLoss(ms_ssim_form, ignore_label=ignore_label)
        self.iou = IoULoss(is_batch, ignore_label=ignore_label, reduce_sums=reduce_sums)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss, a scalar.

        Args:
            logits: (B, K, H, W).
            target: (B, H, W) int64, labels 0 to K - 1 or the ignore label.
        """
        sample_mean, region = self.terms(logits, target)
        return sample_mean + region

    def terms(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Focal and MS-SSIM, and the IoU, apart. Shapes as in `forward`."""
        return self.focal(logits, target) + self.ms_ssim(logits, target), self.iou(logits, target)
