from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.params import ParamsError, read_params
from repro_models.contract import Choice, Range
from tests.tiny_plan import PARAMS

ROOT = Path(__file__).parents[2]


def write(folder: Path, **changes: Any) -> Path:
    """Write the tiny study; `changes` replace values, `__` goes one section down, `...` removes a key."""
    values = copy.deepcopy(PARAMS)
    for name, value in changes.items():
        *sections, key = name.split("__")
        section = values
        for part in sections:
            section = section[part]
        if value is ...:
            del section[key]
        else:
            section[key] = value
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def message(path: Path) -> str:
    with pytest.raises(ParamsError) as error:
        read_params(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    "path", sorted([ROOT / "params.yaml", *(ROOT / "studies").glob("*.yaml")]), ids=lambda p: p.name
)
def test_a_study_of_this_repository_is_read(path: Path) -> None:
    study = read_params(path)
    assert study.architectures
    assert study.entry(study.architectures[0]).architecture.startswith(f"{study.family}/")


def test_left_out_keys_have_the_defaults(tmp_path: Path) -> None:
    study = read_params(write(tmp_path, tracking=...))
    assert (study.ray.workers, study.tracking.uri) == (1, None)
    assert (study.training.optimizer.name, study.training.optimizer.learning_rate) == ("sgd", 0.01)
    assert study.budget.seeds == [0]


def test_the_entries_to_search_for_get_all_trials_and_the_others_none(tmp_path: Path) -> None:
    tuning = read_params(write(tmp_path, tuning={"trials": 6, "entries": ["nnunet_tiny"]})).tuning
    assert (tuning.trials_for("nnunet_tiny"), tuning.trials_for("unet_3d_tiny")) == (6, 0)
    assert read_params(write(tmp_path, tuning={"trials": 6})).tuning.trials_for("unet_3d_tiny") == 6


def test_what_to_vary_is_a_list_or_a_range(tmp_path: Path) -> None:
    space = {"optimizer": ["sgd", "adamw"], "learning_rate": {"low": 1e-4, "high": 0.1, "log": True}}
    domains = read_params(write(tmp_path, tuning={"space": space})).tuning.domains()
    assert domains == {"optimizer": Choice(("sgd", "adamw")), "learning_rate": Range(1e-4, 0.1, is_log=True)}
    assert read_params(write(tmp_path)).tuning.domains() is None


def test_a_whole_number_serves_where_a_number_is_asked_for(tmp_path: Path) -> None:
    minutes = read_params(write(tmp_path, budget__minutes=3)).budget.minutes
    assert (minutes, type(minutes)) == (3.0, float)


def test_an_entry_is_an_alias_or_the_architecture_itself(tmp_path: Path) -> None:
    study = read_params(write(tmp_path, entries={"slim": {"architecture": "nnunet", "variant": "tiny"}}))
    assert (study.entry("slim").architecture, study.entry("slim").variant) == ("segmentation/nnunet", "tiny")
    assert (study.entry("unet_3d").architecture, study.entry("unet_3d").variant) == ("segmentation/unet_3d", None)


def test_folds_are_all_of_the_split_unless_named(tmp_path: Path) -> None:
    assert read_params(write(tmp_path, split__num_folds=3)).folds() == [0, 1, 2]
    assert read_params(write(tmp_path, split__num_folds=3, budget__folds=[2])).folds() == [2]


UNKNOWN = [
    ({"budgets": {}}, "unknown key budgets; did you mean budget?", "family, datasets, architectures"),
    ({"budget__step": 5}, "unknown key budget.step; did you mean budget.steps?", "kind, steps, minutes"),
    ({"training__optimizer": {"lerning_rate": 1}}, "did you mean training.optimizer.learning_rate?", "name, learning_"),
    ({"entries": {"a": {"varaint": "x"}}}, "unknown key entries.a.varaint; did you mean entries.a.variant?", "overr"),
    (
        {"datasets": {"d": {"path": "x", "source": "y"}}},
        "unknown key datasets.d.path Valid keys here: source",
        "source",
    ),
    ({"tuning__zzz": 1}, "unknown key tuning.zzz Valid", "trials"),
]


@pytest.mark.parametrize(("changes", "near", "valid"), UNKNOWN, ids=[next(iter(case[0])) for case in UNKNOWN])
def test_an_unknown_key_is_told_with_the_near_and_the_valid_ones(
    tmp_path: Path, changes: dict[str, Any], near: str, valid: str
) -> None:
    text = message(write(tmp_path, **changes))
    assert near in text
    assert valid in text.split("Valid keys here: ")[1]


WRONG = [
    ({"budget__steps": "many"}, "budget.steps is 'many'; it must be a whole number"),
    ({"budget__steps": 2.5}, "budget.steps is 2.5; it must be a whole number"),
    ({"budget__steps": True}, "budget.steps is True; it must be a whole number"),
    ({"budget__minutes": "1h"}, "budget.minutes is '1h'; it must be a number"),
    ({"budget__kind": "epochs"}, "budget.kind is 'epochs'; it must be one of steps, minutes"),
    ({"budget__seeds": 0}, "budget.seeds is 0; it must be a list"),
    ({"budget__seeds": ["0"]}, "budget.seeds[0] is '0'; it must be a whole number"),
    ({"inference__is_mirrored": 1}, "inference.is_mirrored is 1; it must be true or false"),
    ({"architectures": "nnunet"}, "architectures is 'nnunet'; it must be a list"),
    ({"architectures": [2024]}, "architectures[0] is 2024; it must be text"),
    ({"datasets": ["a"]}, "datasets is ['a']; it must be a mapping"),
    ({"datasets": {"d": "folder"}}, "datasets.d is 'folder'; it must be a mapping of keys to values"),
    ({"datasets": {2024: {"source": "x"}}}, "datasets has the key 2024; it must be text"),
    (
        {"training__loss": "dise"},
        "training.loss is 'dise'; it must be one of dice_cross_entropy, dice, vnet_dice, iou,",
    ),
    ({"training__mirror_axes": 1.5}, "training.mirror_axes is 1.5; it must be text or a list"),
    ({"split": None}, "split is None; it must be a mapping of keys to values"),
]


@pytest.mark.parametrize(("changes", "text"), WRONG, ids=[case[1].split(";")[0] for case in WRONG])
def test_a_value_of_another_kind_is_told(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    assert text in message(write(tmp_path, **changes))


IMPOSSIBLE = [
    ({"datasets": {}}, "datasets is empty; name at least one"),
    ({"architectures": []}, "architectures is empty; name at least one"),
    ({"architectures": ["a b"]}, "architectures has 'a b'; it becomes a file and stage name"),
    ({"datasets": {"x/y": {"source": "s"}}}, "datasets has 'x/y'; it becomes a file and stage name"),
    ({"architectures": ["nnunet", "nnunet"]}, "architectures names an entry twice: nnunet, nnunet"),
    ({"split__num_folds": 0}, "split.num_folds is 0; it must be 1 or more"),
    ({"budget__steps": 0}, "budget.steps is 0; it must be 1 or more"),
    ({"budget__steps_per_epoch": 0}, "budget.steps_per_epoch is 0; it must be 1 or more"),
    ({"budget__validation_steps": 0}, "budget.validation_steps is 0; it must be 1 or more"),
    ({"budget__early_stop_epochs": -1}, "budget.early_stop_epochs is -1; it must be 0 or more"),
    ({"budget__memory_gib": 0}, "budget.memory_gib is 0.0; it must be above 0"),
    ({"budget__minutes": float("nan")}, "budget.minutes is nan; it must be above 0"),
    ({"budget__folds": [0, 2]}, "budget.folds has 2; folds are 0 to 1"),
    ({"budget__folds": [-1]}, "budget.folds has -1; folds are 0 to 1"),
    ({"budget__folds": []}, "budget.seeds and budget.folds need at least one number each"),
    ({"budget__seeds": []}, "budget.seeds and budget.folds need at least one number each"),
    ({"budget__folds": [0, 0]}, "budget.folds has 0 twice"),
    ({"budget__seeds": [3, 1, 3]}, "budget.seeds has 3 twice"),
    ({"budget__seeds": [-1]}, "budget.seeds has -1; a seed is 0 or more"),
    ({"training__max_batch_size": 0}, "training.max_batch_size is 0; it must be 1 or more, or null"),
    ({"training__foreground_fraction": 1.5}, "training.foreground_fraction is 1.5; it must be in [0, 1]"),
    ({"training__elastic_probability": -0.1}, "training.elastic_probability is -0.1; it must be in [0, 1]"),
    ({"training__clip_norm": 0}, "training.clip_norm is 0.0; it must be above 0, or null"),
    ({"training__optimizer": {"learning_rate": 0}}, "training.optimizer.learning_rate is 0.0; it must be above 0"),
    ({"training__optimizer": {"momentum": 1}}, "training.optimizer.momentum is 1.0; it must be in [0, 1)"),
    ({"training__optimizer": {"weight_decay": -1}}, "training.optimizer.weight_decay is -1.0; it must be 0 or more"),
    ({"training__schedule": {"warmup_fraction": 1}}, "training.schedule.warmup_fraction is 1.0; it must be in [0, 1)"),
    ({"inference__overlap": 1}, "inference.overlap is 1.0; it must be in [0, 1)"),
    ({"evaluation__tolerance_mm": 0}, "evaluation.tolerance_mm is 0.0; it must be above 0"),
    ({"evaluation__num_bootstrap": 0}, "evaluation.num_bootstrap is 0; it must be 1 or more"),
    ({"tuning__trials": -1}, "tuning.trials is -1; it must be 0 or more"),
    ({"tuning__trials": 1}, "tuning.trials is 1, but each of the 2 folds has a search of its own; set it to 2 or more"),
    ({"tuning__steps": 0}, "tuning.steps is 0; it must be 1 or more, or null"),
    ({"tuning__minutes": 0}, "tuning.minutes is 0.0; it must be above 0, or null"),
    ({"tuning__grace_epochs": 0}, "tuning.grace_epochs is 0; it must be 1 or more"),
    ({"tuning__reduction_factor": 1}, "tuning.reduction_factor is 1.0; it must be above 1"),
    ({"tuning__seed": -1}, "tuning.seed is -1; it must be 0 or more"),
    ({"tuning__entries": ["nnunnet"]}, "tuning.entries has 'nnunnet'; entries are nnunet_tiny, unet_3d_tiny"),
    ({"tuning__space": {"momentum": [0.9]}}, "tuning.space.momentum is [0.9]; it must be a list of two values or more"),
    ({"tuning__space": {"a": {"low": 2, "high": 1}}}, "tuning.space.a is {'high': 1, 'low': 2}; it must be"),
    ({"tuning__space": {"b": {"low": 0, "high": 1, "log": True}}}, "and low > 0 where log is true"),
    ({"tuning__space": {"c": {"low": 0, "high": 1, "base": 2}}}, "or {low: , high: , log: }"),
    ({"tuning__space": {"d": 0.1}}, "tuning.space.d is 0.1; it must be"),
    ({"ray": {"workers": 0}}, "ray.workers is 0; it must be 1 or more"),
]


@pytest.mark.parametrize(("changes", "text"), IMPOSSIBLE, ids=[case[1].split(";")[0] for case in IMPOSSIBLE])
def test_an_impossible_value_is_told(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    assert text in message(write(tmp_path, **changes))


@pytest.mark.parametrize(
    ("section", "how"),
    [
        ("family", ""),
        ("datasets", ""),
        ("architectures", ""),
        ("split", ", `split: {}` for the defaults"),
        ("preprocessing", ", `preprocessing: {}` for the defaults"),
        ("budget", ", `budget: {}` for the defaults"),
        ("tuning", ", `tuning: {}` for the defaults"),
    ],
)
def test_a_missing_section_is_told_with_what_to_add(tmp_path: Path, section: str, how: str) -> None:
    text = message(write(tmp_path, **{section: ...}))
    assert text.startswith(f"{section} is missing; add it{how} (keys here: family, datasets, ")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "the file is None; it must be a mapping"),
        (b"- a\n", "the file is ['a']; it must be a mapping"),
        (b"a: [1\n", "not YAML: "),
        (b"a: \xff\n", "not YAML: "),
    ],
)
def test_a_file_that_is_no_mapping_is_told(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    told = message(path)
    assert text in told
    assert "\n" not in told


def test_a_missing_file_is_told_with_where_to_get_one(tmp_path: Path) -> None:
    assert "no such file; copy one of studies/*.yaml" in message(tmp_path / "params.yaml")


def test_a_network_from_elsewhere_is_told_by_its_target(tmp_path: Path) -> None:
    entry = {"target": "monai.networks.nets.SegResNet", "arguments": {"init_filters": 8}}
    study = read_params(write(tmp_path, entries={"segresnet": entry}))
    assert study.entry("segresnet").architecture == "monai.networks.nets.SegResNet"
    assert study.entry("segresnet").arguments == {"init_filters": 8}


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"arguments": {"width": 2}}, "entries.a.arguments are those of a target, which is missing; set target"),
        ({"target": "SegResNet"}, "entries.a.target is 'SegResNet'; it must be the dotted path of a class or function"),
        ({"target": "a.B", "architecture": "unet_3d"}, "entries.a has target and architecture (unet_3d); "),
        ({"target": "a.B", "variant": "tiny"}, "so leave variant out"),
    ],
)
def test_a_target_beside_what_it_excludes_is_told(tmp_path: Path, entry: dict[str, Any], text: str) -> None:
    assert text in message(write(tmp_path, entries={"a": entry}))
