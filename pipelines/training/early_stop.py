"""When a training has nothing more to gain, and which epoch's weights were the best.

Rules, by the validation's score (higher is better) and loss:
    score: so many epochs in a row without a better score. The best epoch has the highest score.
    score_and_loss: so many epochs in a row in which neither score nor loss was as good as ever. The best epoch is the
        last in which both were (Velickovic et al., 2018, in their code).
    mean_loss: the loss is above its mean over so many epochs before (Kipf and Welling, 2017, in their code). The best
        epoch is that of `score`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

RULES = ("score", "score_and_loss", "mean_loss")


@dataclass
class BestSoFar:
    """What the epochs so far have reached; plain values, so that they can be saved.

    Attributes:
        score: highest.
        loss: lowest.
        num_epochs_since: epochs in a row that reached nothing.
        epoch: the best one, from 0; None before the first that counts.
    """

    score: float = -math.inf
    loss: float = math.inf
    num_epochs_since: int = 0
    epoch: int | None = None

    def end_epoch(self, rule: str, epoch: int, score: float, loss: float) -> None:
        """Take in an epoch; a score or loss that is NaN is never as good."""
        if rule == "score_and_loss":
            is_score_good, is_loss_good = score >= self.score, loss <= self.loss
            has_gained, is_best = is_score_good or is_loss_good, is_score_good and is_loss_good
        else:
            has_gained = is_best = score > self.score
        self.num_epochs_since = 0 if has_gained else self.num_epochs_since + 1
        self.epoch = epoch if is_best else self.epoch
        self.score = max(self.score, score)
        self.loss = min(self.loss, loss)


def is_over(rule: str, num_epochs: int, best: BestSoFar, losses: Sequence[float]) -> bool:
    """Whether to stop here.

    Args:
        rule: one of `RULES`.
        num_epochs: how many the rule looks back; 0 never stops.
        best: after the last epoch was taken in.
        losses: of the validation, an epoch each.
    """
    if num_epochs == 0:
        return False
    if rule != "mean_loss":
        return best.num_epochs_since >= num_epochs
    # As in the code: the first epoch that may be the last is the one after `num_epochs + 1` others.
    before = losses[-num_epochs - 1 : -1]
    return len(losses) > num_epochs + 1 and losses[-1] > math.fsum(before) / num_epochs
