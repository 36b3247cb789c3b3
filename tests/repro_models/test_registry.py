from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from repro_models import registry

ROOT = Path(__file__).parents[2]
HEAVY = ("ray", "mlflow", "dvc", "monai", "pandas", "pyarrow", "nibabel", "matplotlib", "yaml", "scipy", "pipelines")


def test_names_are_the_files_of_the_families() -> None:
    names = registry.names()
    assert names == sorted(names)
    assert {"segmentation/nnunet", "segmentation/unet_3d"} <= set(names)
    for name in names:
        assert (ROOT / "repro_models" / f"{name}.py").is_file()
        assert not name.startswith(("losses/", "blocks/"))
        assert not name.endswith("__init__")


@pytest.mark.parametrize("name", registry.names())
def test_a_name_loads_its_file(name: str) -> None:
    module = registry.load(name)
    assert Path(str(module.__file__)) == ROOT / "repro_models" / f"{name}.py"
    assert module.VARIANTS["tiny"].config


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("segmentation/nnunett", "segmentation/nnunet"),
        ("segmentation/unet3d", "segmentation/unet_3d"),
        ("segmentaton/nnunet", "segmentation/nnunet"),
        ("nnunet", "segmentation/nnunet"),
        ("qqq", ", ".join(registry.names())),
        ("segmentation/__init__", "segmentation/"),
        ("losses/dice_cross_entropy", "segmentation/nnunet"),
    ],
)
def test_an_unknown_name_is_told_with_the_near_ones(name: str, near: str) -> None:
    with pytest.raises(registry.UnknownArchitectureError) as error:
        registry.load(name)
    told, rest = str(error.value).split("did you mean ")
    assert told.startswith(f"unknown architecture {name!r}: an architecture is a file repro_models/<family>/<name>.py")
    assert near in rest
    assert rest.endswith("? `repro models` lists all")


@pytest.mark.parametrize("name", ["segmentation/mamba", "segmentation/sequence/mamba", "graph/mamba"])
def test_a_network_of_another_family_is_told_as_such(name: str) -> None:
    family = name.split("/")[0]
    told = (
        f"unknown architecture '{name}': sequence/mamba is of another family, .*`repro models` lists those of {family}$"
    )
    with pytest.raises(registry.UnknownArchitectureError, match=told):
        registry.load(name)


def test_a_name_with_its_own_family_twice_is_told_with_the_near_ones() -> None:
    with pytest.raises(registry.UnknownArchitectureError, match="did you mean segmentation/unet"):
        registry.load("segmentation/segmentation/unet")


def test_families_are_the_folders_of_architectures() -> None:
    assert registry.families() == sorted(registry.families())
    assert {"classification", "graph", "segmentation", "sequence"} <= set(registry.families())
    assert not {"blocks", "losses"} & set(registry.families())


@pytest.mark.parametrize("module", ["repro_models", "repro_models.contract", "repro_models.registry"])
def test_the_import_is_light(module: str) -> None:
    script = f"import sys, {module}; sys.exit(', '.join(n for n in {('torch', *HEAVY)!r} if n in sys.modules) or 0)"
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.slow
def test_all_architectures_load_no_more_than_torch() -> None:
    script = f"""
import sys
import torch
before = set(sys.modules)
from repro_models import registry
for name in registry.names():
    registry.load(name)
added = {{name.split(".")[0] for name in set(sys.modules) - before}}
sys.exit(", ".join(added & set({HEAVY!r})) or 0)
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_name_without_family_gets_it() -> None:
    assert registry.full_name("unet_3d") == "segmentation/unet_3d"
    assert registry.full_name("segmentation/unet_3d") == "segmentation/unet_3d"


def test_a_name_in_two_families_asks_for_the_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "names", lambda: ["classification/a", "segmentation/a"])
    with pytest.raises(ValueError, match="there are classification/a and segmentation/a; give the family too"):
        registry.full_name("a")
