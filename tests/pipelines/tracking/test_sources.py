from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.tracking.sources import training_sources
from repro_models import registry
from tests.tiny_plan import TinyStudy

ROOT = Path(__file__).parents[3]


def test_a_training_is_made_of_its_loop_its_task_and_its_architecture() -> None:
    files = training_sources("segmentation", "segmentation/nnunet")
    assert {
        "pipelines/training/folds.py",
        "pipelines/training/loop.py",
        "pipelines/training/ray_worker.py",
        "pipelines/training/single.py",
        "pipelines/tasks/lookup.py",
        "pipelines/tasks/segmentation.py",
        "pipelines/tasks/segmentation_training.py",
        "pipelines/augmentation/spatial.py",
        "pipelines/planning/network.py",
        "repro_models/registry.py",
        "repro_models/losses/dice_cross_entropy.py",
        "repro_models/segmentation/nnunet.py",
    } <= set(files)
    assert list(files) == sorted(files)


def test_other_architectures_and_other_stages_are_no_part_of_it() -> None:
    files = training_sources("segmentation", "segmentation/nnunet")
    assert [name for name in files if name.startswith("repro_models/segmentation/")] == [
        "repro_models/segmentation/__init__.py",
        "repro_models/segmentation/nnunet.py",
    ]
    others = ("stages/", "pipelines/reporting/", "pipelines/evaluation/", "pipelines/metrics/", "pipelines/inference/s")
    # A family's file names its measures; how they are computed is no part of a training.
    words = {"pipelines/evaluation/__init__.py", "pipelines/evaluation/measures.py"}
    assert {name for name in files if name.startswith(others)} <= words
    assert "pipelines/fingerprint/extract.py" not in files
    assert "pipelines/planning/planner.py" not in files
    assert "pipelines/preprocessing/prepare.py" not in files


def test_a_graph_s_training_is_made_of_its_own_files() -> None:
    files = training_sources("graph", "graph/gcn")
    assert {
        "pipelines/tasks/graph.py",
        "pipelines/tasks/graph_training.py",
        "pipelines/planning/graph_network.py",
        "pipelines/preprocessing/graph.py",
        "repro_models/blocks/neighbourhood.py",
        "repro_models/graph/gcn.py",
    } <= set(files)
    others = (
        "repro_models/segmentation/",
        "repro_models/graph/gat.py",
        "pipelines/augmentation/",
        "pipelines/metrics/",
    )
    assert [name for name in files if name.startswith(others)] == []
    assert "pipelines/planning/graph_planner.py" not in files
    assert "pipelines/fingerprint/graph.py" not in files
    assert "pipelines/evaluation/node_scores.py" not in files


def test_two_architectures_differ_by_their_files_and_the_blocks_of_one_alone() -> None:
    nnunet, unet = (training_sources("segmentation", f"segmentation/{name}") for name in ("nnunet", "unet_3d"))
    differing = {name for name in set(nnunet) ^ set(unet) if not name.startswith("repro_models/blocks/")}
    assert differing == {"repro_models/segmentation/nnunet.py", "repro_models/segmentation/unet_3d.py"}
    assert all(nnunet[name] == unet[name] for name in set(nnunet) & set(unet))


def test_an_unknown_architecture_is_told() -> None:
    with pytest.raises(registry.UnknownArchitectureError, match="did you mean segmentation/nnunet"):
        training_sources("segmentation", "segmentation/nnunet2")


@pytest.mark.slow
def test_all_modules_that_a_training_loads_are_in_the_closure(tiny_study: TinyStudy, tmp_path: Path) -> None:
    request = tiny_study.requests(tmp_path, budget=tiny_study.plan().budget | {"steps": 1})[0]
    arguments = {name: getattr(request, name) for name in request.__dataclass_fields__}
    (tmp_path / "request.json").write_text(json.dumps(arguments), encoding="utf-8")
    script = f"""
import json, sys
from pathlib import Path
from pipelines.training.folds import TrainingRequest, collect_models, train_all
request = TrainingRequest(**json.loads(Path({str(tmp_path / "request.json")!r}).read_text()))
train_all([request], workers=1)
collect_models([request], Path({str(tmp_path / "model")!r}))
ours = ("pipelines", "repro_models", "stages")
files = [module.__file__ for name, module in sorted(sys.modules.items()) if name.split(".")[0] in ours]
print(json.dumps([file for file in files if file]))
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    loaded = {Path(file).relative_to(ROOT).as_posix() for file in json.loads(ended.stdout.splitlines()[-1])}
    assert {"pipelines/training/loop.py", "repro_models/segmentation/nnunet.py"} <= loaded
    assert loaded <= set(training_sources("segmentation", "segmentation/nnunet"))
