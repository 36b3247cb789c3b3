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
from pipelines.inference.placement import Placement
from pipelines.inference.predictor import first_placement, load_network, predict_case
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
    network = load_network(model_dir / weights_name(fold, 0))
    image = torch.from_numpy(np.array(case.image))
    return predict_logits([network], image, plan.patch_size, 2, **arguments)


def test_a_network_is_loaded_once_and_does_not_train(model_dir: Path) -> None:
    path = model_dir / weights_name(0, 0)
    network = load_network(path)
    assert network is load_network(path)
    assert not network.training
    torch.manual_seed(0)
    expected = build_network(read_model_plan(model_dir)).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())


def test_a_loaded_network_lies_channels_last(model_dir: Path) -> None:
    weights = [weight for weight in load_network(model_dir / weights_name(0, 0)).parameters() if weight.ndim == 5]
    assert weights
    for weight in weights:
        assert weight.stride() == torch.empty_like(weight, memory_format=torch.channels_last_3d).stride()


def test_other_weights_at_the_same_path_are_loaded_anew(model_dir: Path) -> None:
    path = model_dir / weights_name(0, 0)
    before = load_network(path)
    (model_dir / weights_name(1, 0)).replace(path)
    after = load_network(path)
    assert any(not torch.equal(old, new) for old, new in zip(before.parameters(), after.parameters(), strict=True))


@pytest.mark.parametrize("folds", [(0,), (1,), (0, 1)])
def test_networks_vote_by_the_mean_of_their_logits(
    tiny_study: TinyStudy, model_dir: Path, folds: tuple[int, ...]
) -> None:
    case = tiny_study.prepared_cases()[0]
    prediction = predict_case(Path(case["file"]), [model_dir / weights_name(fold, 0) for fold in folds], "cpu")
    label = prediction.label
    mean = sum(logits_of(tiny_study, model_dir, fold) for fold in folds) / len(folds)
    np.testing.assert_array_equal(label, to_scan_grid([mean], open_case(case["file"]).properties))
    assert prediction.fallbacks == ()
    assert (label.shape, label.dtype) == ((16, 16, 16), np.uint8)
    assert set(np.unique(label)) == {0, 1}


def test_the_plan_says_how_tiles_overlap_and_whether_they_are_mirrored(
    tiny_study: TinyStudy, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def remember(networks: object, image: torch.Tensor, **how: object) -> list[torch.Tensor]:
        asked.append(how)
        return [torch.zeros(2, *image.shape[1:])]

    monkeypatch.setattr("pipelines.inference.predictor.predict_blocks", remember)
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
    networks = [load_network(model_dir / weights_name(fold, 0)) for fold in (0, 1)]
    slopes = [
        {part.negative_slope for part in network.modules() if isinstance(part, torch.nn.LeakyReLU)}
        for network in networks
    ]
    assert slopes == [{0.01}, {0.7}]


class _OutOfMemoryAtFirst(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.has_failed = False
        self.eval()

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        if not self.has_failed:
            self.has_failed = True
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return torch.cat([-tiles, tiles], dim=1)


def test_a_prediction_says_what_it_gave_up_for_want_of_memory(
    tiny_study: TinyStudy, model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = _OutOfMemoryAtFirst()
    monkeypatch.setattr("pipelines.inference.predictor.load_network", lambda path: network)
    monkeypatch.setattr("pipelines.inference.predictor.first_placement", lambda *_: Placement(batch_size=2))
    case = tiny_study.prepared_cases()[0]
    prediction = predict_case(Path(case["file"]), [model_dir / weights_name(0, 0)], "cpu")
    assert prediction.fallbacks == ("out of memory on cpu with 2 patches at once: goes on with 1",)
    assert prediction.label.any()


def test_a_way_back_to_the_scan_that_does_not_fit_is_gone_on_the_cpu(
    tiny_study: TinyStudy, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [torch.OutOfMemoryError("CUDA out of memory.")]

    def export(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return to_scan_grid(*arguments)

    # An index makes the CPU a device of another name.
    elsewhere = Placement(sums_device=torch.device("cpu", 0))
    monkeypatch.setattr("pipelines.inference.predictor.to_scan_grid", export)
    monkeypatch.setattr("pipelines.inference.predictor.first_placement", lambda *_: elsewhere)
    path, weights = Path(tiny_study.prepared_cases()[0]["file"]), [model_dir / weights_name(0, 0)]
    prediction = predict_case(path, weights, "cpu")
    assert prediction.fallbacks == (
        "out of memory on cpu:0 on the way back to the scan: goes on with the logits on the CPU",
    )
    assert (prediction.label == predict_case(path, weights, "cpu").label).all()
    failures.append(torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(torch.OutOfMemoryError):
        predict_case(path, weights, "cpu")


@pytest.mark.parametrize(("planned", "expected"), [(2, 2), (366, 16)])
def test_a_gpu_begins_with_the_batch_of_training(tiny_study: TinyStudy, planned: int, expected: int) -> None:
    plan = dataclasses.replace(tiny_study.plan(), batch_size=planned)
    placement = first_placement("cuda", plan, "b0")
    assert (placement.device.type, placement.sums_device.type, placement.batch_size) == ("cuda", "cuda", expected)
    assert first_placement("cpu", plan, "b0").batch_size == min(planned, 2)
