from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from pipelines.tracking.foreign_code import target_sources
from pipelines.tracking.sources import training_sources
from tests.own_networks import PACKAGE, write_package


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = write_package(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return path


def test_a_user_s_files_count_with_what_they_import_and_none_is_run(nets: Path) -> None:
    files = target_sources(f"{PACKAGE}.nets.Hourglass")
    assert list(files) == [f"{PACKAGE}/__init__.py", f"{PACKAGE}/blocks.py", f"{PACKAGE}/nets.py"]
    assert PACKAGE not in sys.modules


@pytest.mark.parametrize("name", ["nets.py", "blocks.py"])
def test_an_edit_changes_the_digest_of_its_file_and_a_comment_does_not(nets: Path, name: str) -> None:
    before = target_sources(f"{PACKAGE}.nets.Hourglass")
    path = nets.with_name(name)
    path.write_text("# A remark.\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert target_sources(f"{PACKAGE}.nets.Hourglass") == before
    path.write_text(path.read_text(encoding="utf-8") + "\nSLOPE = 0.2\n", encoding="utf-8")
    after = target_sources(f"{PACKAGE}.nets.Hourglass")
    assert [key for key in before if before[key] != after[key]] == [f"{PACKAGE}/{name}"]


def test_packages_that_a_user_s_file_imports_count_too(nets: Path, tmp_path: Path) -> None:
    (tmp_path / "another_of_a_test.py").write_text("WIDTH = 3\n", encoding="utf-8")
    lines = "import another_of_a_test, monai, math, torch\nfrom repro_models.blocks import instance_norm\n"
    nets.with_name("blocks.py").write_text(lines, encoding="utf-8")
    files = target_sources(f"{PACKAGE}.nets.Hourglass")
    assert {"another_of_a_test.py", "distribution monai", "repro_models/blocks/instance_norm.py"} <= files.keys()
    assert not any("torch" in key or "math" in key for key in files)


def test_an_installed_network_counts_by_name_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert target_sources("monai.networks.nets.SegResNet") == {
        "distribution monai": importlib.metadata.version("monai")
    }


def test_a_package_that_is_not_there_is_told() -> None:
    with pytest.raises(ValueError, match="there is no package no_such_package; install it"):
        target_sources("no_such_package.Net")


def test_a_file_that_is_no_python_is_named(nets: Path) -> None:
    nets.write_text("class Net(\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"nets\.py, line 1: .*mend it"):
        target_sources(f"{PACKAGE}.nets.Hourglass")


def test_a_training_is_made_of_our_loop_and_the_user_s_network(nets: Path) -> None:
    files = training_sources("segmentation", f"{PACKAGE}.nets.Hourglass")
    assert {"pipelines/training/loop.py", "pipelines/planning/target.py", f"{PACKAGE}/nets.py"} <= files.keys()
    assert not [name for name in files if name.startswith("repro_models/segmentation/")]
