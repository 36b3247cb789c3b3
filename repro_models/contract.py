"""What an architecture file exports.

An architecture is one file in a family folder. It exports

    PAPER        where it was published
    Config       frozen dataclass; its defaults are the paper's main setting
    VARIANTS     published sizes, plus `tiny` for tests
    CONSTRAINTS  spatial dimensions it serves, and the sides it accepts
    build        `build(config, problem) -> torch.nn.Module`

and, where it has a use for them,

    with_topology    `with_topology(config, strides, kernel_sizes) -> Config`: planning chooses its depth by the patch
    with_patch_size  `with_patch_size(config, patch_size) -> Config`: its weights are made for one size of image, and
                     planning tells it the patch, after the topology where it chooses that too; without this, it takes
                     every size that `CONSTRAINTS` allows
    RECIPE           how the paper trains it
    EXPORT_REFUSAL   a sentence why `torch.export.export` cannot take the network in evaluation mode; without it, it can
    SEARCH_SPACE     fields of its `Config` that a search may vary: name -> `Range` or `Choice`; only such that leave
                     the memory of a training step about what it was, because the patch is planned before
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # stages read this file and start without torch
    from torch import Tensor


@dataclass(frozen=True)
class Paper:
    """Publication behind an architecture."""

    title: str
    year: int
    address: str
    reference_code: str | None = None


@dataclass(frozen=True)
class Problem:
    """What a data set asks of a network.

    Attributes:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        num_classes: output channels, background included.
    """

    spatial_dims: int
    in_channels: int
    num_classes: int


@dataclass(frozen=True)
class GraphProblem:
    """What a graph asks of a network that gives each node a class.

    Attributes:
        num_features: features of a node.
        num_classes: output channels.
    """

    num_features: int
    num_classes: int


@dataclass(frozen=True)
class SequenceProblem:
    """What sequences ask of a network that says of every token what comes next.

    Attributes:
        vocabulary_size: how many tokens there are.
    """

    vocabulary_size: int


@dataclass(frozen=True)
class Variant:
    """A size of an architecture.

    Attributes:
        config: the architecture's `Config`.
        problem: the problem at which `num_parameters` was counted.
        num_parameters: exact parameter count, or None where none is published or measured.
        source: where the count comes from.
        size: sides of the image at which `num_macs` was counted.
        num_macs: multiply-accumulate operations of one image in evaluation mode, by `torch.utils.flop_counter` halved
            (convolutions, matrix products and attention only), or None where nobody stated them.
    """

    config: Any
    problem: Problem | GraphProblem | SequenceProblem
    num_parameters: int | None
    source: str
    size: tuple[int, ...] | None = None
    num_macs: int | None = None


class SupervisedLogits(NamedTuple):
    """What a network returns in training mode where it has several outputs and weighs them by a rule of its own.

    A network may return a plain list of logits instead, finest first, and nnU-Net's weights are taken
    (`repro_models/losses/deep_supervision.py`).

    Attributes:
        logits: each (B, K, *s); the first has the size of the image and is what evaluation mode returns or refines.
        weights: of their losses, one each.
        presence: (B, 2) logits of "no foreground in this image" and "some", whose cross entropy joins the loss; None
            for networks that do not guess it.
    """

    logits: list[Tensor]
    weights: tuple[float, ...]
    presence: Tensor | None = None


@dataclass(frozen=True)
class Range:
    """Numbers a search may draw from, both ends included; whole numbers where both ends are.

    Attributes:
        low: the smallest.
        high: the largest.
        is_log: drawn evenly on a logarithmic scale.
    """

    low: float
    high: float
    is_log: bool = False


@dataclass(frozen=True)
class Choice:
    """Values a search may choose from: numbers, text, True, False or None."""

    values: tuple[float | str | bool | None, ...]


@dataclass(frozen=True)
class Recipe:
    """How a paper trains its network on the whole data set at once, an epoch a step.

    Attributes:
        optimizer: its name, as in params.yaml.
        learning_rate: constant.
        weight_decay: of the parameters in `decayed`.
        decayed: patterns of their names.
        steps: at most.
        early_stop_epochs: how many epochs the rule looks back.
        early_stop_rule: `score`, `score_and_loss` or `mean_loss`, see `pipelines/training/early_stop.py`.
        keeps_best: the weights of the best epoch count, not the last ones.
    """

    optimizer: str
    learning_rate: float
    weight_decay: float
    decayed: tuple[str, ...]
    steps: int
    early_stop_epochs: int
    early_stop_rule: str
    keeps_best: bool


class IllegalSizeError(ValueError):
    """An image side, or a shape, that an architecture cannot take."""


@dataclass(frozen=True)
class Constraints:
    """Sides an architecture accepts.

    Attributes:
        spatial_dims: the spatial dimensions it serves.
        divisor: `divisor(config) -> per-axis divisor` of a legal side (one int serves all axes).
        smallest_side: `smallest_side(config) -> per-axis smallest legal side` (one int serves all axes).
    """

    spatial_dims: tuple[int, ...]
    divisor: Any
    smallest_side: Any

    def per_axis(self, config: Any, spatial_dims: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Divisors and smallest sides, one per axis."""

        def spread(value: int | Sequence[int]) -> tuple[int, ...]:
            return (value,) * spatial_dims if isinstance(value, int) else tuple(value)

        return spread(self.divisor(config)), spread(self.smallest_side(config))

    def check_size(self, config: Any, size: Sequence[int]) -> None:
        """Raise `IllegalSizeError` unless every side of `size` is legal."""
        divisors, smallest = self.per_axis(config, len(size))
        for axis, (side, divisor, least) in enumerate(zip(size, divisors, smallest, strict=True)):
            if side % divisor or side < least:
                raise IllegalSizeError(
                    f"image size {tuple(size)}: side {side} of axis {axis} must be a multiple of {divisor} "
                    f"and at least {least}; pad the image to {max(least, -(-side // divisor) * divisor)}"
                )


# Of networks whose input is no grid of pixels or voxels: nodes of a graph, or tokens of a sequence.
NO_GRID = Constraints(spatial_dims=(), divisor=lambda config: 1, smallest_side=lambda config: 1)
