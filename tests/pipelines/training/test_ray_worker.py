"""Work on a Ray cluster of this machine: the same results as without."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines.ray_session.map_cases import map_cases
from pipelines.ray_session.session import local_head, num_gpus
from pipelines.tracking.events import read_events
from pipelines.training.folds import train_all
from pipelines.training.single import run_training
from tests.pipelines.ray_session.slow_items import refuse_three, threads_and_folder
from tests.tiny_plan import TinyStudy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with local_head(num_cpus=2) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", address)
        yield


@pytest.mark.usefixtures("cluster")
def test_cases_are_mapped_in_order_and_where_the_study_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert map_cases(functools.partial(operator.mul, 3), range(5), "multiply") == [0, 3, 6, 9, 12]
    assert map_cases(threads_and_folder, range(2), "look") == [("1", str(tmp_path))] * 2
    assert num_gpus() == int(torch.cuda.is_available())


@pytest.mark.usefixtures("cluster")
def test_an_error_of_a_case_comes_out_as_it_is() -> None:
    with pytest.raises(ValueError, match="case 3: damaged; repair it") as error:
        map_cases(refuse_three, range(5), "refuse")
    assert type(error.value) is ValueError


@pytest.mark.usefixtures("cluster")
def test_trainings_side_by_side_end_with_the_weights_of_one_after_the_other(
    tiny_study: TinyStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = (tiny_study.requests(tmp_path / name) for name in ("here", "there"))
    train_all(there, workers=1)
    bars = capsys.readouterr().err
    for alone, request in zip(here, there, strict=True):
        run_training(alone, num_threads=1, shows_progress=False)
        weights = load_file(alone.weights_path), load_file(request.weights_path)
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        assert [event["kind"] for event in read_events(request.events_path)] == [
            "run_start",
            "epoch",
            "epoch",
            "run_end",
        ]
        assert f"{request.name}: 100%" in bars


@pytest.mark.usefixtures("cluster")
def test_what_a_training_refuses_comes_out_as_it_is(tiny_study: TinyStudy, tmp_path: Path) -> None:
    plan = tiny_study.plan()
    optimizer = plan.optimizer | {"learning_rate": 1e30}
    requests = tiny_study.requests(tmp_path, optimizer=optimizer, clip_norm=1e30)
    with pytest.raises(ValueError, match=r"nnunet_tiny fold \d seed 0: .*lower the learning rate"):
        train_all(requests, workers=1)
