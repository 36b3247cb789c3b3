"""How a semantic segmentation network is trained: batches, loss, validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.augmentation.patches import PatchSampler
from pipelines.augmentation.pipeline import box, training_augmentation
from pipelines.planning.network import build_network
from pipelines.planning.plan import Plan
from pipelines.preprocessing.shards import open_case
from pipelines.tasks.segmentation import SCORE
from pipelines.tasks.segmentation_loss import BORDER_WEIGHTED, SegmentationLoss, segmentation_loss_terms


class SegmentationTraining:
    """One training: its batches, its loss, its validation.

    A sample is a pure function of (seed, step, index), so a resumed training sees what an uninterrupted one sees, and
    two workers see what one sees.

    Args:
        plan: the resolved configuration.
        cases: entries of the prepared index (`file`, `fold`, `split`, ...).
        fold: the fold that validates; the other folds train.
        seed: of weights, patches and augmentation.
        folder: what the files of `cases` are relative to.
    """

    score_name = SCORE

    def __init__(self, plan: Plan, cases: Sequence[dict[str, Any]], fold: int, seed: int, folder: Path) -> None:
        self.plan = plan
        self.batch_size = plan.batch_size
        labelled = [case for case in cases if case["split"] == "train"]
        training = [open_case(folder / case["file"]) for case in labelled if case["fold"] != fold]
        validation = [open_case(folder / case["file"]) for case in labelled if case["fold"] == fold]
        assert training, f"fold {fold} leaves no case to train on"
        assert validation, f"fold {fold} has no case to validate on"
        self._sampler = PatchSampler(
            training,
            patch_size=plan.patch_size,
            initial_patch_size=plan.initial_patch_size,
            batch_size=plan.batch_size,
            foreground_fraction=plan.foreground_fraction,
            seed=seed,
        )
        self._validation_sampler = PatchSampler(
            validation,
            patch_size=plan.patch_size,
            initial_patch_size=plan.patch_size,
            batch_size=plan.batch_size,
            foreground_fraction=plan.foreground_fraction,
            seed=seed,
        )
        self._augmentation = training_augmentation(
            spatial_dims=plan.problem["spatial_dims"],
            patch_size=plan.patch_size,
            mirror_axes=plan.mirror_axes,
            is_dummy_2d=plan.is_dummy_2d,
            uses_nonzero_mask=plan.preprocessing.uses_nonzero_mask,
            elastic_probability=plan.elastic_probability,
        )
        self._class_names = {value: name for name, value in plan.labels.items() if value and value != plan.ignore_label}

    def build_network(self) -> nn.Module:
        """The network, weights drawn from torch's random state."""
        return build_network(self.plan)

    def batch(self, step: int, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        """Augmented samples `indices` of the global batch of `step`.

        Returns:
            `image` (B, C, *spatial) float32, `target` (B, *spatial) int64 and, where the loss reads it, `border`
            (B, *spatial) float32, on `device`.
        """
        images, targets = [], []
        for index in indices:
            place = self._sampler.place(step, index)
            drawn = self._augmentation.draw(place.rng)
            # Two samples of three are neither turned nor scaled, and then the final patch is all that is read.
            image, target = place.cut(box(drawn, place.size))
            image, target = self._augmentation.apply(
                drawn, image.to(device, non_blocking=True), target.to(device, non_blocking=True)
            )
            images.append(image)
            targets.append(target)
        return {"image": torch.stack(images), **self._with_border(torch.stack(targets).long())}

    def _with_border(self, target: Tensor) -> dict[str, Tensor]:
        """`target`, and `border` where the loss reads it: weights of the gaps between cells.

        Cells are what hangs together of a class in the patch.
        """
        if self.plan.loss != BORDER_WEIGHTED:
            return {"target": target}
        from pipelines.preprocessing.border import border_weights, instances_of

        labels = target.cpu().numpy()
        weights = np.stack([border_weights(instances_of(sample, self.plan.ignore_label)) for sample in labels])
        return {"target": target, "border": torch.from_numpy(weights).to(target.device)}

    def loss_terms(
        self, network: nn.Module, batch: dict[str, Tensor], sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Losses of a batch, deep supervision included.

        Returns:
            The part that is a mean over this rank's samples, and the part that already covers all ranks (the loss by
            overlap where that is taken over the whole batch); float32 scalars.
        """
        plan = self.plan
        return segmentation_loss_terms(
            network, batch, plan.is_batch_dice, plan.ignore_label, sum_over_ranks, loss=plan.loss
        )

    def validate(self, network: nn.Module, epoch: int, device: torch.device) -> dict[str, float]:
        """Loss and pseudo Dice over random patches of the validation cases.

        The pseudo Dice sums true and false voxels over all patches of the epoch (nnU-Net's measure), so it is no score
        of cases; a class that neither occurs nor is predicted is left out of the mean.

        Returns:
            `loss`, `pseudo_dice`, and `dice_<class>` per foreground class.
        """
        values = list(self._class_names)
        counts = torch.zeros(len(values), 3, dtype=torch.float64)
        losses = []
        loss = SegmentationLoss(self.plan.loss, self.plan.is_batch_dice, self.plan.ignore_label)
        for number in range(self.plan.budget["validation_steps"]):
            step = epoch * self.plan.budget["validation_steps"] + number
            samples = [self._validation_sampler.sample(step, index) for index in range(self.batch_size)]
            image = torch.stack([sample[0] for sample in samples]).to(device)
            target = torch.stack([sample[1] for sample in samples]).to(device).clamp_min(0).long()
            logits = network(image).float()
            losses.append(loss(logits, **self._with_border(target)).item())
            predicted = logits.argmax(1)
            if self.plan.ignore_label is not None:
                predicted = predicted.masked_fill(target == self.plan.ignore_label, 0)
            for row, value in enumerate(values):
                is_predicted, is_true = predicted == value, target == value
                both = (is_predicted & is_true).sum()
                counts[row] += torch.stack([both, is_predicted.sum() - both, is_true.sum() - both]).cpu()
        hits, false_positives, misses = counts.unbind(1)
        dice = 2 * hits / (2 * hits + false_positives + misses)
        scores = {f"dice_{self._class_names[value]}": score.item() for value, score in zip(values, dice, strict=True)}
        return {"loss": sum(losses) / len(losses), SCORE: dice.nanmean().item(), **scores}
