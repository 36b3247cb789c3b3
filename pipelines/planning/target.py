"""A network that is not ours as an architecture: any importable class or function that gives a `torch.nn.Module`.

An entry names it by `target`, a dotted path, with `arguments`. `TargetArchitecture` has what an architecture's file
exports, so planning, training, search and prediction go one way for both. What sides it takes is found by running it
under fake tensors. Its outputs are brought to the contract by a hook on its forward pass: the names of its weights stay
as they are.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import json
import logging
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.planning.legal_sides import LegalSides, base_size, legal_sides
from pipelines.planning.plan import as_tuples
from repro_models.contract import Constraints, Problem

_CHANNELS, _CLASSES, _DIMS, _PATCH = "$channels", "$classes", "$dims", "$patch"
PLACEHOLDERS = {
    _CHANNELS: "channels of the image",
    _CLASSES: "classes, background included",
    _DIMS: "spatial dimensions of the configuration",
    _PATCH: "sides of the planned patch",
}
# Names of parameters that say what the data decide, by likelihood.
_WELL_KNOWN = {
    _DIMS: ("spatial_dims",),
    _CHANNELS: ("in_channels", "in_chans", "n_channels"),
    _CLASSES: ("num_classes", "n_classes", "classes", "out_channels"),
    _PATCH: ("img_size", "image_size"),
}
_PAGE = "docs/how-to/bring-your-own-network.md"


def import_target(target: str) -> Callable[..., Any]:
    """The class or function at a dotted path.

    Raises:
        ValueError: nothing is there (the message has near names), importing fails, or it cannot be called.
    """
    parts = target.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ValueError(f"target {target!r}: give the path of a class or function, as package.module.Class")
    found: Any = None
    for position, part in enumerate(parts):
        name = ".".join(parts[: position + 1])
        has_part = found is not None and hasattr(found, part)
        if has_part and name == target:
            found = getattr(found, part)
        elif (found is None or hasattr(found, "__path__")) and importlib.util.find_spec(name) is not None:
            found = _imported(name, target)
        elif has_part:
            found = getattr(found, part)
        else:
            raise ValueError(_nothing_there(target, found, part))
    if not callable(found):
        raise ValueError(f"target {target}: it is a {type(found).__name__}; give the class or function of the network")
    called: Callable[..., Any] = found
    return called


def _imported(name: str, target: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ValueError(
            f"target {target}: importing {name} fails with {type(error).__name__}: {error}; mend that, or install what "
            "it needs"
        ) from error


def _nothing_there(target: str, owner: Any, part: str) -> str:
    if owner is None:
        return (
            f"target {target}: there is no package {part}; install it into this environment, or put the folder it lies "
            "in on PYTHONPATH"
        )
    names = {name for name in dir(owner) if not name.startswith("_")}
    names |= {module.name for module in pkgutil.iter_modules(getattr(owner, "__path__", []))}
    # Whoever misspells a class seldom has its case right; of names that differ in case alone, take the class's.
    by_case = {name.lower(): name for name in sorted(names, reverse=True)}
    near = [by_case[name] for name in difflib.get_close_matches(part.lower(), by_case, n=3, cutoff=0.5)]
    path = owner.__name__
    hint = f"did you mean {' or '.join(f'{path}.{name}' for name in near)}?" if near else f"see dir({path}) for what is"
    return f"target {target}: {path} has no {part}; {hint}"


def filled_arguments(target: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The arguments of an entry with those that parameters of well-known names ask for.

    Args:
        target: dotted path.
        arguments: as the user gave them.

    Returns:
        The arguments, and a reason for each that was filled in.

    Raises:
        ValueError: a wrong target, an argument it does not have, one that is missing, or an unknown placeholder.
    """
    _check_placeholders(target, arguments)
    parameters = _parameters(import_target(target))
    if parameters is None:
        return dict(arguments), []
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for name in arguments:
            if name not in named:
                near = difflib.get_close_matches(name, named, n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise ValueError(f"target {target} has no argument {name!r}; {hint}It takes {', '.join(named)}")
    filled, reasons = dict(arguments), []
    for placeholder, known in _WELL_KNOWN.items():
        candidates = [name for name in known if name in named]
        if candidates and not set(candidates) & set(arguments):
            filled[candidates[0]] = placeholder
            reasons.append(f"argument {candidates[0]}: {placeholder} ({PLACEHOLDERS[placeholder]}), by its name")
    missing = [p.name for p in parameters if p.name in named and p.default is p.empty and p.name not in filled]
    if missing:
        raise ValueError(
            f"target {target} needs the argument {', '.join(missing)}; give it under `arguments` of the entry "
            f"(values that the data decide are {', '.join(PLACEHOLDERS)})"
        )
    return filled, reasons


def _check_placeholders(target: str, arguments: Mapping[str, Any]) -> None:
    for value in _leaves(dict(arguments)):
        if isinstance(value, str) and value.startswith("$") and value not in PLACEHOLDERS:
            raise ValueError(f"target {target}: {value!r} stands for nothing; valid are {', '.join(PLACEHOLDERS)}")


def _parameters(called: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """Parameters of a function, or of the constructor of a class; None where Python cannot tell."""
    try:
        # Not of the class itself, which a `__new__` that passes everything on would hide.
        function = called.__init__ if inspect.isclass(called) else called
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    return parameters[1:] if inspect.isclass(called) else parameters


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _substituted(value: Any, values: Mapping[str, Any]) -> Any:
    """`value` with its placeholders replaced, at every depth; sequences become lists, as YAML has them."""
    if isinstance(value, Mapping):
        return {key: _substituted(item, values) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_substituted(item, values) for item in value]
    return values.get(value, value) if isinstance(value, str) else value


class TargetArchitecture(ModuleType):
    """What an architecture's file exports, for a network from elsewhere.

    `Config` has a field for each argument; what the data decide stands there as a placeholder until `build`, and the
    patch until `with_patch_size`, which exists where an argument asks for it.

    Args:
        target: dotted path.
        arguments: all that it is called with.
        in_channels: channels of the image on which it is tried; only `CONSTRAINTS` asks.
        num_classes: likewise.
    """

    def __init__(self, target: str, arguments: Mapping[str, Any], in_channels: int = 1, num_classes: int = 2) -> None:
        super().__init__(target)
        self.VARIANTS: dict[str, Any] = {}
        self.Config = _config_class(arguments)
        self._image = (in_channels, num_classes)
        if _PATCH in _leaves(dict(arguments)):
            self.with_patch_size = _with_patch_size

    @cached_property
    def CONSTRAINTS(self) -> ProbedConstraints:  # noqa: N802 - the name of the contract
        """What it takes, found by trying."""
        return ProbedConstraints(self, *self._image)

    def build(self, config: Any, problem: Problem) -> nn.Module:
        """The network with fresh weights, its outputs brought to the contract.

        Raises:
            ValueError: it cannot be built with these arguments.
        """
        values = {
            _CHANNELS: problem.in_channels,
            _CLASSES: problem.num_classes,
            _DIMS: problem.spatial_dims,
        }
        arguments = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        network = self._built(_substituted(arguments, values))
        if not isinstance(network, nn.Module):
            raise ValueError(
                f"target {self.__name__} gives a {type(network).__name__} and no torch.nn.Module; give the class of a "
                "network, or a function that returns one"
            )
        network.register_forward_hook(partial(_bring_to_contract, self.__name__, problem))
        return network

    def _built(self, arguments: dict[str, Any]) -> Any:
        from torch._guards import active_fake_mode
        from torch._subclasses.fake_tensor import FakeCopyMode, unset_fake_temporarily

        called, mode = import_target(self.__name__), active_fake_mode()
        try:
            try:
                return called(**arguments)
            except Exception:
                if mode is None:
                    raise
            # Some constructors read numbers out of tensors, which have none here.
            with unset_fake_temporarily():
                network = called(**arguments)
                with FakeCopyMode(mode):
                    return copy.deepcopy(network)
        except Exception as error:
            given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
            raise ValueError(
                f"target {self.__name__} cannot be built: with {given} it raises {type(error).__name__}: {error}; "
                "correct `arguments` of the entry"
            ) from error


def _config_class(arguments: Mapping[str, Any]) -> type:
    fields = [
        (name, Any, dataclasses.field(default_factory=partial(copy.deepcopy, as_tuples(value))))
        for name, value in arguments.items()
    ]
    # Mappings among the values have no hash of their own.
    return dataclasses.make_dataclass("Config", fields, frozen=True, namespace={"__hash__": _hash})


def _hash(config: Any) -> int:
    return hash(json.dumps(dataclasses.asdict(config), sort_keys=True, default=str))


def _with_patch_size(config: Any, patch_size: Sequence[int]) -> Any:
    """`config` for images of `patch_size` voxels."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **as_tuples(_substituted(values, {_PATCH: list(patch_size)})))


class ProbedConstraints(Constraints):
    """What a network takes, found by running it under fake tensors on images of many sizes.

    Args:
        architecture: whose network.
        in_channels: image channels.
        num_classes: output channels.
    """

    _architecture: TargetArchitecture
    _image: tuple[int, int]
    _trials: dict[tuple[Any, int], _Trial]
    _sides: dict[tuple[Any, int], LegalSides]

    def __init__(self, architecture: TargetArchitecture, in_channels: int, num_classes: int) -> None:
        # Frozen, as all constraints are.
        values = {"_architecture": architecture, "_image": (in_channels, num_classes), "_trials": {}, "_sides": {}}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def spatial_dims(self) -> tuple[int, ...]:
        """Those in which it takes any size at all."""
        return tuple(dims for dims in (2, 3) if self._base(dims)[0] is not None)

    def refusal(self, spatial_dims: int) -> str:
        """Why it does not take images of so many dimensions; empty where it does."""
        return self._base(spatial_dims)[1]

    def per_axis(self, config: Any, spatial_dims: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Divisors and smallest sides, one per axis.

        Raises:
            ValueError: it takes no size, or a single one.
        """
        sides = self._legal_sides(config, spatial_dims)
        return sides.divisor, sides.smallest

    def num_unused_parameters(self, config: Any, spatial_dims: int) -> int:
        """Parameters that a training step gives no gradient though they are to be trained."""
        smallest = self._legal_sides(config, spatial_dims).smallest
        return self._trial(config, spatial_dims).num_unused_parameters(smallest)

    def _base(self, dims: int) -> tuple[tuple[int, ...] | None, str]:
        trial = self._trial(self._architecture.Config(), dims)
        if trial.base is None:
            trial.base = base_size(trial.refusal, dims, trial.own_sides)
        return trial.base

    def _legal_sides(self, config: Any, dims: int) -> LegalSides:
        known = self._sides
        if (config, dims) not in known:
            trial = self._trial(config, dims)
            size, why_not = base_size(trial.refusal, dims, trial.own_sides) if trial.base is None else trial.base
            name = self._architecture.__name__
            if size is None:
                raise ValueError(f"no {dims}D image that was tried fits: {why_not}")
            try:
                known[config, dims] = legal_sides(trial.refusal, size)
            except ValueError as error:
                raise ValueError(f"target {name} {error}") from error
        return known[config, dims]

    def _trial(self, config: Any, dims: int) -> _Trial:
        if (config, dims) not in self._trials:
            self._trials[config, dims] = _Trial(self._architecture, config, Problem(dims, *self._image))
        return self._trials[config, dims]


@contextmanager
def _without_logging() -> Iterator[None]:
    """Keep torch from printing the traceback of every size that is refused."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Trial:
    """Runs a network for its shapes, on one image in evaluation mode or two in training mode."""

    def __init__(self, architecture: TargetArchitecture, config: Any, problem: Problem) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode

        self.base: tuple[tuple[int, ...] | None, str] | None = None
        self._architecture, self._config, self._problem = architecture, config, problem
        self._mode = FakeTensorMode()
        self._network: nn.Module | None = None

    @property
    def own_sides(self) -> list[int]:
        """Sides of an image that the arguments may speak of."""
        named = [getattr(self._config, name, None) for name in _WELL_KNOWN[_PATCH]]
        return [side for side in _leaves(named) if isinstance(side, int)]

    def refusal(self, size: Sequence[int], is_training: bool) -> str | None:
        """Why the network does not take images of this size; None where it does."""
        try:
            with _without_logging(), self._mode, torch.no_grad():
                network = self._made_for(size).train(is_training)
                network(torch.empty(1 + is_training, self._problem.in_channels, *size))
        except Exception as error:
            told, name = " ".join(str(error).split()), self._architecture.__name__
            if isinstance(error, ValueError) and told.startswith(f"target {name}"):
                return told
            kind = "two images" if is_training else "an image"
            return f"target {name} fails on {kind} of {'x'.join(map(str, size))}: {type(error).__name__}: {told}"
        return None

    def num_unused_parameters(self, size: Sequence[int]) -> int:
        """How many parameters two images of this size give no gradient."""
        with self._mode:
            network = self._made_for(size).train()
            outputs = network(torch.empty(2, self._problem.in_channels, *size))
            heads = [outputs] if isinstance(outputs, Tensor) else outputs
            torch.stack([head.mean() for head in heads]).sum().backward()
            return sum(p.numel() for p in network.parameters() if p.requires_grad and p.grad is None)

    def _made_for(self, size: Sequence[int]) -> nn.Module:
        if hasattr(self._architecture, "with_patch_size"):
            return self._architecture.build(self._architecture.with_patch_size(self._config, size), self._problem)
        if self._network is None:
            self._network = self._architecture.build(self._config, self._problem)
        return self._network


def _bring_to_contract(
    target: str, problem: Problem, network: nn.Module, images: tuple[Tensor, ...], output: Any
) -> Tensor | list[Tensor]:
    """Logits of an output: one tensor in evaluation mode, in training mode one or several, the finest first.

    Several are a list or tuple of (B, K, *spatial), or stacked along axis 1 as MONAI's DynUNet does.

    Raises:
        ValueError: the output is something else, or of another shape.
    """
    dims, shape = problem.spatial_dims, tuple(images[0].shape)
    if isinstance(output, Tensor):
        outputs = list(output.unbind(1)) if output.ndim == dims + 3 else [output]
    elif isinstance(output, (list, tuple)) and output and all(isinstance(each, Tensor) for each in output):
        # A stable order: heads that were brought to one size stay as they are.
        outputs = sorted(output, key=lambda each: -each[0, 0].numel() if each.ndim > 2 else 0)
    else:
        keys = f" with keys {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
        raise ValueError(
            f"target {target} returns a {type(output).__name__}{keys}; it must return logits (B, K, sides), or a list "
            f"of them in training mode. Choose so by its arguments, or wrap it as {_PAGE} shows"
        )
    for each in outputs if network.training else outputs[:1]:
        got, wanted = tuple(each.shape), (shape[0], problem.num_classes, *shape[2:])
        if each.ndim != dims + 2 or got[:2] != wanted[:2] or (each is outputs[0] and got != wanted):
            raise ValueError(_wrong_shape(target, got, wanted, dims))
    return outputs if network.training and len(outputs) > 1 else outputs[0]


def _wrong_shape(target: str, got: tuple[int, ...], wanted: tuple[int, ...], dims: int) -> str:
    if len(got) == dims + 2 and got[0] != wanted[0]:
        fix = f"it is no network of {dims}D images; set the entry's configuration to what it is made for"
    elif len(got) == dims + 2 and got[1] != wanted[1]:
        fix = "give the argument that says how many channels it returns as `$classes`"
    elif len(got) == dims + 2:
        fix = f"logits must have the size of the image: pad its convolutions, or resize them as {_PAGE} shows"
    else:
        fix = f"switch off by an argument what is no logits, or wrap it as {_PAGE} shows"
    return f"target {target} returns {got} where {wanted} is needed; {fix}"
