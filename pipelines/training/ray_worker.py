"""Trainings on Ray: a task per fold and seed, or a `TorchTrainer` where several processes share one training."""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.ray_session.session import attached, is_on_cluster, local_head
from pipelines.ray_session.tasks import run_tasks
from pipelines.training.fold_bars import fold_bars
from pipelines.training.folds import TrainingRequest

# A worker imports torch before it answers, and a busy machine needs more than Ray's 60 s for that.
_GROUP_START_SECONDS = "600"


def train_on_ray(requests: list[TrainingRequest], workers: int) -> None:
    """Run all trainings on the cluster of `RAY_ADDRESS`, or on one of this machine started for them.

    Args:
        requests: the trainings.
        workers: processes per training; their work adds up to the same global batch.
    """
    with attached() if is_on_cluster() else local_head(), fold_bars(requests):
        if workers > 1:
            for request in requests:
                _train_by_group(request, workers)
        else:
            _train_by_tasks(requests)


def _train_by_tasks(requests: list[TrainingRequest]) -> None:
    import ray

    resources = ray.cluster_resources()
    num_gpus = int(resources.get("GPU", 0) >= 1)
    slots = int(resources["GPU"]) if num_gpus else int(resources["CPU"])
    num_cpus = max(1, int(resources["CPU"]) // min(slots, len(requests)))
    # A task cannot span nodes, so it asks for no more than the smallest of them has.
    num_cpus = min([num_cpus, *(int(node["Resources"].get("CPU", num_cpus)) or num_cpus for node in ray.nodes())])
    for _ in run_tasks(partial(_run_here, num_cpus), requests, num_cpus=num_cpus, num_gpus=num_gpus):
        pass


def _run_here(num_threads: int, request: TrainingRequest) -> None:
    import torch

    from pipelines.training.single import run_training

    # The worker may go on to other tasks, which count on the number of threads they were given.
    num_threads_before = torch.get_num_threads()
    try:
        run_training(request, num_threads=num_threads, shows_progress=False)
    finally:
        torch.set_num_threads(num_threads_before)


def _train_by_group(request: TrainingRequest, workers: int) -> None:
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", _GROUP_START_SECONDS)
    import ray
    from ray.train import TrainingFailedError
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig

    resources = ray.cluster_resources()
    uses_gpu = resources.get("GPU", 0) >= 1
    kind, num_devices = ("GPUs", resources["GPU"]) if uses_gpu else ("processors", resources["CPU"])
    if num_devices < workers:
        raise ValueError(
            f"ray.workers is {workers}, but the cluster has {int(num_devices)} {kind}; lower ray.workers or add nodes"
        )
    batch_size = request.plan["batch_size"]
    if batch_size < workers:
        raise ValueError(
            f"ray.workers is {workers}, but {request.name} has a batch of {batch_size}, and each worker needs "
            f"a sample; use at most {batch_size} workers"
        )
    storage = Path(request.run_dir) / "ray"
    # Ray's stubs still name the classes of Train V1 here; V2's are what runs.
    run_config: Any = RunConfig(
        name=f"{request.plan['entry']}-fold{request.fold}-seed{request.seed}-{request.digest[:12]}",
        storage_path=str(storage),
        failure_config=FailureConfig(max_failures=2, controller_failure_limit=3),
    )
    trainer = TorchTrainer(
        _run_in_group,
        train_loop_config=dataclasses.asdict(request),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=uses_gpu,
            resources_per_worker={"GPU": 1, "CPU": 1} if uses_gpu else {"CPU": 1},
            placement_strategy="SPREAD",
        ),
        run_config=run_config,
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        # A user's mistake must reach the user as one line, not as the traceback of a worker.
        for failure in getattr(error, "worker_failures", {}).values():
            if isinstance(failure, ValueError):
                raise ValueError(str(getattr(failure, "cause", failure))) from None
        raise


def _run_in_group(config: dict[str, Any]) -> None:
    import ray.train
    import ray.train.torch

    from pipelines.training.single import run_training
    from pipelines.training.world import World

    context = ray.train.get_context()
    request = TrainingRequest(**config)
    os.chdir(request.folder)
    run_training(
        request,
        num_threads=1,
        shows_progress=False,
        world=World(rank=context.get_world_rank(), size=context.get_world_size()),
        device=ray.train.torch.get_device(),
        wrap=ray.train.torch.prepare_model,
    )
