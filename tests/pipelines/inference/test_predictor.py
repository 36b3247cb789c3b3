from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipelines.inference.export import to_scan_grid
from pipelines.inference.model_files import PER_FOLD, read_model_plan, weights_name
from pipelines.inference.predictor import load_network, predict_case
from pipelines.inference.sliding_window import predict_logits
from pipelines.planning.network import build_network
from pipelines.planning.plan import Plan
from pipelines.preprocessing.shards import open_case
from tests.tiny_plan import TinyStudy


def write_model(folder: Path, plan: Plan, **of_fold_1: Any) -> None:
    """`model.json` of two trainings by `plan`, but for what the second has of its own."""
    values = dataclasses.asdict(plan)
    settings = {name: values[name] for name in PER_FOLD}
    trainings = [
        {"weights": weights_name(0, 0), **settings},
        {"weights": weights_name(1, 0), **settings, **of_fold_1},
    ]
    (folder / "model.json").write_text(json.dumps({"plan": values, "trainings": trainings}), encoding="utf-8")


@pytest.fixture
def model_dir(tiny_study: TinyStudy, tmp_path: Path) -> Path:
    """Two untrained networks."""
    plan = tiny_study.plan()
    write_model(tmp_path, plan)
    for fold in (0, 1):
        torch.manual_seed(fold)
        save_file(build_network(plan).state_dict(), tmp_path / weights_name(fold, 0))
    return tmp_path


def logits_of(tiny_study: TinyStudy, model_dir: Path, fold: int, **inference: object) -> torch.Tensor:
    plan = read_model_plan(model_dir)
    case = open_case(tiny_study.prepared_cases()[0]["file"])
    arguments = {"overlap": 0.5, "mirror_axes": ()} | inference
    network = load_network(model_dir / weights_name(fold, 0), "cpu")
    image = torch.from_numpy(np.array(case.image, np.float32))
    return predict_logits(network, image, plan.patch_size, 2, **arguments)


def test_a_network_is_loaded_once_and_does_not_train(model_dir: Path) -> None:
    path = model_dir / weights_name(0, 0)
    network = load_network(path, "cpu")
    assert network is load_network(path, "cpu")
    assert not network.training
    torch.manual_seed(0)
    expected = build_network(read_model_plan(model_dir)).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())


def test_other_weights_at_the_same_path_are_loaded_anew(model_dir: Path) -> None:
    path = model_dir / weights_name(0, 0)
    before = load_network(path, "cpu")
    (model_dir / weights_name(1, 0)).replace(path)
    after = load_network(path, "cpu")
    assert any(not torch.equal(old, new) for old, new in zip(before.parameters(), after.parameters(), strict=True))


@pytest.mark.parametrize("folds", [(0,), (1,), (0, 1)])
def test_networks_vote_by_the_mean_of_their_logits(
    tiny_study: TinyStudy, model_dir: Path, folds: tuple[int, ...]
) -> None:
    case = tiny_study.prepared_cases()[0]
    label = predict_case(Path(case["file"]), [model_dir / weights_name(fold, 0) for fold in folds], "cpu")
    mean = sum(logits_of(tiny_study, model_dir, fold) for fold in folds) / len(folds)
    np.testing.assert_array_equal(label, to_scan_grid(mean.numpy(), open_case(case["file"]).properties))
    assert (label.shape, label.dtype) == ((16, 16, 16), np.uint8)
    assert set(np.unique(label)) == {0, 1}


def test_the_plan_says_how_tiles_overlap_and_whether_they_are_mirrored(
    tiny_study: TinyStudy, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def remember(network: object, image: torch.Tensor, **how: object) -> torch.Tensor:
        asked.append(how)
        return torch.zeros(2, *image.shape[1:])

    monkeypatch.setattr("pipelines.inference.predictor.predict_logits", remember)
    for is_mirrored in (False, True):
        plan = dataclasses.replace(tiny_study.plan(), inference={"overlap": 0.25, "is_mirrored": is_mirrored})
        write_model(model_dir, plan)
        predict_case(Path(tiny_study.prepared_cases()[0]["file"]), [model_dir / weights_name(0, 0)], "cpu")
    assert [how["mirror_axes"] for how in asked] == [(), (0, 1, 2)]
    assert {(how["overlap"], how["patch_size"], how["num_classes"]) for how in asked} == {(0.25, (16, 16, 16), 2)}


def test_mirroring_changes_what_an_untrained_network_says(tiny_study: TinyStudy, model_dir: Path) -> None:
    plain, mirrored = (logits_of(tiny_study, model_dir, 0, mirror_axes=axes) for axes in ((), (0, 1, 2)))
    assert not torch.allclose(plain, mirrored)


def test_reading_the_plan_of_a_model_does_not_load_torch() -> None:
    import subprocess
    import sys

    script = "import sys, pipelines.inference.model_files; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", script], cwd=root, check=False).returncode == 0


def test_a_fold_with_a_network_of_its_own_is_loaded_as_it_was_trained(model_dir: Path, tiny_study: TinyStudy) -> None:
    plan = tiny_study.plan()
    write_model(model_dir, plan, network=plan.network | {"negative_slope": 0.7})
    networks = [load_network(model_dir / weights_name(fold, 0), "cpu") for fold in (0, 1)]
    slopes = [
        {part.negative_slope for part in network.modules() if isinstance(part, torch.nn.LeakyReLU)}
        for network in networks
    ]
    assert slopes == [{0.01}, {0.7}]
