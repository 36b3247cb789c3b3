"""Parameters, multiply-accumulate operations and output shapes of a network, counted without weights or arithmetic.

Operations are those that `torch.utils.flop_counter` counts, halved: convolutions, matrix products and attention of one
image, or of one sequence of tokens, in evaluation mode. Networks are built and run under fake tensors, so one of
hundreds of millions of parameters takes no more memory than a small one.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import yaml

from pipelines.planning.overrides import check_keys, is_of
from pipelines.planning.plan import as_tuples
from repro_models import registry
from repro_models.contract import GraphProblem, IllegalSizeError, Problem, SequenceProblem, SupervisedLogits, Variant

if typing.TYPE_CHECKING:
    from torch import Tensor, nn

# Sides of an image where neither the user nor the variant says them.
_USUAL_SIDE = {2: 256, 3: 96}
_LARGEST_SIDE = 1025
# Tokens of a sequence where the user does not say them.
_USUAL_LENGTH = 256
# One value per channel has no deviation: normalisations train on two images.
_TRAINING_BATCH = 2


@dataclass(frozen=True)
class Outputs:
    """What a network returns.

    Attributes:
        logits: shape of each, in the network's order, the batch first.
        weights: of their losses, where the network weighs them itself.
        presence: shape of the logits of "some foreground", of networks that guess it.
    """

    logits: tuple[tuple[int, ...], ...]
    weights: tuple[float, ...] | None = None
    presence: tuple[int, ...] | None = None

    def __str__(self) -> str:
        text = ", ".join("x".join(map(str, shape)) for shape in self.logits)
        if self.weights is not None:
            text += f", weighed {', '.join(f'{weight:g}' for weight in self.weights)}"
        return text + (f", presence {'x'.join(map(str, self.presence))}" if self.presence else "")


@dataclass(frozen=True)
class Count:
    """What is counted of a network.

    Attributes:
        architecture: `family/name`.
        variant: key of its `VARIANTS`, or None.
        network: fields of its `Config`.
        problem: fields of its problem.
        size: sides of the image, or the tokens of the sequence; None of networks of nodes, as `num_macs` and outputs.
        num_parameters: all of them.
        num_trainable_parameters: those that get a gradient.
        num_macs: of one image or sequence in evaluation mode.
        evaluation: outputs for one of them in evaluation mode.
        training: outputs for two of them in training mode.
    """

    architecture: str
    variant: str | None
    network: dict[str, Any]
    problem: dict[str, int]
    size: tuple[int, ...] | None
    num_parameters: int
    num_trainable_parameters: int
    num_macs: int | None
    evaluation: Outputs | None
    training: Outputs | None

    def lines(self) -> list[str]:
        """For people."""
        what = self.architecture + (f", variant {self.variant}" if self.variant else "")
        lines = [
            f"{what}: {', '.join(f'{key} {value}' for key, value in self.problem.items())}",
            f"  parameters: {self.num_parameters:,}, trainable {self.num_trainable_parameters:,}",
        ]
        if self.size is None:
            return [*lines, "  operations and shapes: not counted, because its input is a graph"]
        kind, unit = ("image", "") if "in_channels" in self.problem else ("sequence", " tokens")
        return [
            *lines,
            f"  multiply-accumulates: {self.num_macs:,} for one {kind} of {'x'.join(map(str, self.size))}{unit} "
            "(convolutions, matrix products, attention)",
            f"  output in evaluation mode, one {kind}: {self.evaluation}",
            f"  output in training mode, two {kind}s: {self.training}",
        ]


def count(
    name: str,
    *,
    variant: str | None = None,
    settings: Sequence[str] = (),
    in_channels: int | None = None,
    num_classes: int | None = None,
    spatial_dims: int | None = None,
    size: Sequence[int] | None = None,
) -> Count:
    """Count a network of an architecture.

    Args:
        name: `family/name`, or the name alone.
        variant: key of its `VARIANTS`; None for the defaults of its `Config`.
        settings: fields of its `Config` that replace those, each as `field=value`.
        in_channels: image channels, of a graph the features of a node; None as published.
        num_classes: of sequences the tokens of the vocabulary; None as published.
        spatial_dims: None for as many as `size` has sides, else as published.
        size: sides of the image; None as published, else the one it is made for, else as `usual_size` says. Of a
            sequence its tokens, one number; None for 256.

    Raises:
        ValueError: an unknown architecture, variant or field, a value of another kind than the field's, dimensions
            that the architecture does not serve, sides it cannot take, or what its input does not have.
    """
    name = registry.full_name(name)
    module = registry.load(name)
    if variant is not None:
        check_keys(f"variant of {name}", [variant], module.VARIANTS)
    published = module.VARIANTS[variant] if variant is not None else main_variant(module)
    config = replaced(module.Config() if variant is None else published.config, settings)
    if isinstance(published.problem, GraphProblem):
        if size is not None or spatial_dims is not None:
            raise ValueError(f"{name} takes the nodes of a graph, which have no sides; leave out --size and --dims")
        changes = {"num_features": in_channels, "num_classes": num_classes}
        graph = dataclasses.replace(published.problem, **_given(changes))
        return _counted(name, variant, module, config, graph, None)
    if isinstance(published.problem, SequenceProblem):
        _check_tokens(name, in_channels, spatial_dims, size)
        sequence = dataclasses.replace(published.problem, **_given({"vocabulary_size": num_classes}))
        return _counted(name, variant, module, config, sequence, tuple(size or (_USUAL_LENGTH,)))
    dims = spatial_dims or (published.problem.spatial_dims if size is None else len(size))
    _check_dims(name, module, dims, size)
    changes = {"spatial_dims": dims, "in_channels": in_channels, "num_classes": num_classes}
    problem = dataclasses.replace(published.problem, **_given(changes))
    if size is None and config == published.config and dims == published.problem.spatial_dims:
        size = published.size
    config, sides = fitted(module, config, size, dims)
    return _counted(name, variant, module, config, problem, sides)


def main_variant(module: ModuleType) -> Variant:
    """The variant that is the paper's main setting, else one that has its problem at least."""
    variants = list(module.VARIANTS.values())
    at_defaults = [variant for variant in variants if variant.config == module.Config()]
    return next(iter([variant for variant in at_defaults if variant.num_parameters] + at_defaults + variants))


def fitted(
    module: ModuleType, config: Any, size: Sequence[int] | None, spatial_dims: int
) -> tuple[Any, tuple[int, ...]]:
    """The network's configuration for images of `size`, and that size.

    Args:
        module: the architecture.
        config: its `Config`.
        size: None for the one that a network is made for, else as in `usual_size`.
        spatial_dims: of the image.
    """
    if size is None and hasattr(module, "with_patch_size"):
        size = _own_size(module, config, spatial_dims)
    return usual_size(module, config, spatial_dims) if size is None else (_made_for(module, config, size), tuple(size))


def usual_size(module: ModuleType, config: Any, spatial_dims: int) -> tuple[Any, tuple[int, ...]]:
    """The network's configuration for images of 256 (2D) or 96 (3D) a side, or the nearest side it takes; and the size.

    Args:
        module: the architecture.
        config: its `Config`.
        spatial_dims: of the image.
    """
    usual = _USUAL_SIDE[spatial_dims]
    for side in sorted(range(1, _LARGEST_SIDE), key=lambda each: abs(each - usual)):
        size = (side,) * spatial_dims
        try:
            fitting = _made_for(module, config, size)
            module.CONSTRAINTS.check_size(fitting, size)
        except IllegalSizeError:
            continue
        return fitting, size
    raise ValueError(f"{module.__name__} takes no image with equal sides below {_LARGEST_SIDE}; give --size")


def _made_for(module: ModuleType, config: Any, size: Sequence[int]) -> Any:
    if hasattr(module, "with_patch_size") and not _takes(module, config, size):
        return module.with_patch_size(config, tuple(size))
    return config


def num_parameters(module: ModuleType, config: Any, problem: Problem | GraphProblem | SequenceProblem) -> int:
    """Parameters of an architecture's network, trainable or not."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return sum(parameter.numel() for parameter in module.build(config, problem).parameters())


def count_operations(module: ModuleType, config: Any, problem: Problem | SequenceProblem, size: Sequence[int]) -> int:
    """`num_macs` of an architecture's network, without its weights."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return _evaluated(module.build(config, problem), problem, size)[1]


def num_macs(network: nn.Module, in_channels: int, size: Sequence[int]) -> int:
    """Multiply-accumulate operations of one image in evaluation mode; runs under the modes that are on."""
    return _evaluated(network, Problem(len(size), in_channels, 1), size)[1]


def replaced(config: Any, settings: Sequence[str]) -> Any:
    """`config` with fields set by texts `field=value`, read as YAML; lists may leave out their brackets.

    Raises:
        ValueError: no `=`, no such field, or a value of another kind than the field's.
    """
    hints = typing.get_type_hints(type(config))
    values = {}
    for setting in settings:
        field, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: it must be FIELD=VALUE, with a field of {', '.join(hints)}")
        check_keys("field", [field], hints)
        fitting = [value for value in _readings(text) if is_of(hints[field], value)]
        if not fitting:
            raise ValueError(
                f"--set {setting}: {text!r} is not of a kind with the default of {field}, "
                f"{getattr(type(config)(), field)!r}; write such a value"
            )
        values[field] = as_tuples(fitting[0])
    return dataclasses.replace(config, **values)


def _readings(text: str) -> Iterator[Any]:
    """What a text may mean: a value of YAML, a list without its brackets, or itself."""
    for spelled in (text, f"[{text}]"):
        try:
            yield yaml.safe_load(spelled)
        except yaml.YAMLError:
            continue
    yield text


def _given(values: dict[str, int | None]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _check_dims(name: str, module: ModuleType, dims: int, size: Sequence[int] | None) -> None:
    served = module.CONSTRAINTS.spatial_dims
    if dims not in served:
        asked = f", as --size {','.join(map(str, size))} has it" if size is not None else ""
        raise ValueError(
            f"{name} does not serve {dims}D{asked}; it serves {' and '.join(f'{each}D' for each in served)}"
        )
    if size is not None and len(size) != dims:
        raise ValueError(f"--size has {len(size)} sides, but --dims is {dims}; give {dims} sides")


def _check_tokens(name: str, in_channels: int | None, spatial_dims: int | None, size: Sequence[int] | None) -> None:
    if in_channels is not None or spatial_dims is not None:
        raise ValueError(
            f"{name} takes tokens, which have no channels and no dimensions; leave out --channels and --dims "
            "(--classes is the vocabulary, --size the length of a sequence)"
        )
    if size is not None and len(size) != 1:
        raise ValueError(f"--size has {len(size)} numbers, but {name} takes tokens in a row; give one, their number")


def _takes(module: ModuleType, config: Any, size: Sequence[int]) -> bool:
    try:
        module.CONSTRAINTS.check_size(config, size)
    except IllegalSizeError:
        return False
    return True


def _own_size(module: ModuleType, config: Any, spatial_dims: int) -> tuple[int, ...] | None:
    """The one size with equal sides that a network is made for; None where there is none."""
    cubes = [(side,) * spatial_dims for side in range(1, _LARGEST_SIDE)]
    taken = [cube for cube in cubes if _takes(module, config, cube)]
    return taken[0] if len(taken) == 1 else None


def _counted(
    name: str,
    variant: str | None,
    module: ModuleType,
    config: Any,
    problem: Problem | GraphProblem | SequenceProblem,
    size: tuple[int, ...] | None,
) -> Count:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        network = module.build(config, problem)
        parameters = list(network.parameters())
        evaluation = macs = training = None
        if size is not None and not isinstance(problem, GraphProblem):
            evaluation, macs = _evaluated(network, problem, size)
            training = _trained(network, problem, size)
    return Count(
        architecture=name,
        variant=variant,
        network=dataclasses.asdict(config),
        problem=dataclasses.asdict(problem),
        size=size,
        num_parameters=sum(parameter.numel() for parameter in parameters),
        num_trainable_parameters=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        num_macs=macs,
        evaluation=evaluation,
        training=training,
    )


def _evaluated(network: nn.Module, problem: Problem | SequenceProblem, size: Sequence[int]) -> tuple[Outputs, int]:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    device = next((parameter.device for parameter in network.parameters()), None)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), _written_out_attention(), counter:
        outputs = _outputs(network.eval()(_batch(problem, 1, size).to(device)))
    return outputs, counter.get_total_flops() // 2


def _trained(network: nn.Module, problem: Problem | SequenceProblem, size: Sequence[int]) -> Outputs:
    import torch

    with torch.no_grad():
        return _outputs(network.train()(_batch(problem, _TRAINING_BATCH, size)))


def _batch(problem: Problem | SequenceProblem, batch_size: int, size: Sequence[int]) -> Tensor:
    import torch

    if isinstance(problem, SequenceProblem):
        return torch.zeros(batch_size, *size, dtype=torch.int64)
    return torch.empty(batch_size, problem.in_channels, *size)


@contextmanager
def _written_out_attention() -> Iterator[None]:
    """Keep `nn.MultiheadAttention` from a kernel that the counter does not know."""
    import torch

    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


def _outputs(output: Any) -> Outputs:
    if isinstance(output, SupervisedLogits):
        presence = None if output.presence is None else tuple(output.presence.shape)
        return Outputs(_shapes(output.logits), tuple(output.weights), presence)
    return Outputs(_shapes(output if isinstance(output, (list, tuple)) else [output]))


def _shapes(tensors: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors)
