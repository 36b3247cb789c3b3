from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipelines.params import Entry, Study, Training
from pipelines.planning.plan import Plan
from pipelines.preprocessing.locations import ANNOTATED
from pipelines.preprocessing.shards import open_case, write_case
from pipelines.tasks import segmentation
from pipelines.tasks.segmentation_loss import LOSSES
from pipelines.tasks.segmentation_training import SegmentationTraining
from pipelines.training.loop import train
from pipelines.training.world import World
from tests.tiny_plan import DATASET, TinyStudy

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def training(study: TinyStudy, fold: int = 0, seed: int = 0, **changes: Any) -> SegmentationTraining:
    plan = dataclasses.replace(study.plan(), **changes)
    return SegmentationTraining(plan, study.prepared_cases(), fold, seed, study.root)


def assert_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys() == {"image", "target"}
    for name in left:
        assert torch.equal(left[name], right[name]), name


def joined(*parts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def test_a_batch_has_the_shapes_and_types_of_the_plan(tiny_study: TinyStudy) -> None:
    batch = training(tiny_study).batch(0, range(2), CPU)
    assert (batch["image"].shape, batch["image"].dtype) == ((2, 1, 16, 16, 16), torch.float32)
    assert (batch["target"].shape, batch["target"].dtype) == ((2, 16, 16, 16), torch.int64)
    assert set(batch["target"].unique().tolist()) <= {0, 1}
    assert (batch["target"][1] == 1).any(), "the last sample is centred on foreground"


def test_a_batch_does_not_depend_on_what_was_asked_before(tiny_study: TinyStudy) -> None:
    first, second = training(tiny_study), training(tiny_study)
    in_order = [first.batch(step, range(2), CPU) for step in range(4)]
    for step in (3, 0, 2, 1, 0):
        assert_equal(second.batch(step, range(2), CPU), in_order[step])
    assert not torch.equal(in_order[0]["image"], in_order[1]["image"])


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_the_shares_of_all_ranks_are_the_batch_of_one(tiny_study: TinyStudy, num_ranks: int) -> None:
    tasks = [training(tiny_study, batch_size=5) for _ in range(num_ranks + 1)]
    shares = [World(rank, num_ranks).shares(5) for rank in range(num_ranks)]
    parts = [task.batch(7, share, CPU) for task, share in zip(tasks, shares, strict=False)]
    assert_equal(joined(*parts), tasks[-1].batch(7, range(5), CPU))


def test_another_seed_gives_other_batches_and_the_fold_decides_the_cases(tiny_study: TinyStudy) -> None:
    first = training(tiny_study, seed=0).batch(0, range(2), CPU)
    assert not torch.equal(first["image"], training(tiny_study, seed=1).batch(0, range(2), CPU)["image"])
    assert not torch.equal(first["image"], training(tiny_study, fold=1).batch(0, range(2), CPU)["image"])


@pytest.mark.parametrize("is_batch_dice", [False, True])
def test_the_losses_of_two_ranks_add_up_to_the_loss_of_the_whole_batch(
    tiny_study: TinyStudy, is_batch_dice: bool
) -> None:
    task = training(tiny_study, is_batch_dice=is_batch_dice, batch_size=3)
    torch.manual_seed(0)
    network = task.build_network()
    whole = task.batch(0, range(3), CPU)
    shares = [World(rank, 2).shares(3) for rank in range(2)]
    parts = [task.batch(0, share, CPU) for share in shares]
    told: list[list[Tensor]] = [[], []]

    def remember(rank: int, sums: Tensor) -> Tensor:
        told[rank].append(sums)
        return sums

    for rank in range(2):
        task.loss_terms(network, parts[rank], lambda sums, rank=rank: remember(rank, sums))
    totals = [a + b for a, b in zip(*told, strict=True)]
    assert bool(totals) == is_batch_dice
    terms = []
    for part in parts:
        remaining = iter(totals)
        terms.append(task.loss_terms(network, part, lambda _, remaining=remaining: next(remaining)))
    expected_mean, expected_global = task.loss_terms(network, whole, lambda sums: sums)
    mean = sum(terms[rank][0] * len(shares[rank]) for rank in range(2)) / 3
    torch.testing.assert_close(mean, expected_mean, rtol=1e-5, atol=1e-6)
    for _, rank_global in terms:
        torch.testing.assert_close(rank_global, expected_global, rtol=1e-5, atol=1e-6)
    assert (expected_global.item() != 0) == is_batch_dice


def test_every_parameter_of_the_network_gets_a_gradient(tiny_study: TinyStudy) -> None:
    task = training(tiny_study)
    network = task.build_network()
    sample_mean, whole_batch = task.loss_terms(network, task.batch(0, range(2), CPU), lambda sums: sums)
    (sample_mean + whole_batch).backward()
    assert all(parameter.grad is not None for parameter in network.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("is_batch_dice", [False, True])
def test_it_overfits_one_batch(tiny_study: TinyStudy, is_batch_dice: bool) -> None:
    task = training(tiny_study, is_batch_dice=is_batch_dice)
    torch.manual_seed(0)
    network = task.build_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9, nesterov=True)
    batch = task.batch(0, range(2), CPU)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = sum(task.loss_terms(network, batch, lambda sums: sums))
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()
        losses.append(loss.item())
    # Cross entropy minus Dice: about ln 2 without knowledge, -1 at best.
    assert losses[0] > 0.3
    assert losses[-1] < -0.7


@pytest.mark.parametrize(
    ("variant", "overrides"),
    [
        pytest.param("residual_tiny", {}, id="by-variant"),
        pytest.param("tiny", {"network": {"residual_blocks": [1, 2], "num_conv_per_stage": 1}}, id="by-override"),
    ],
)
def test_an_entry_with_a_residual_encoder_is_planned_and_learns(
    tiny_study: TinyStudy, tmp_path: Path, variant: str, overrides: dict[str, Any]
) -> None:
    params = tiny_study.params
    entries = {"residual": Entry(architecture="nnunet", variant=variant, overrides=overrides)}
    params = dataclasses.replace(params, entries=entries, architectures=["residual"])
    folders = (tiny_study.folder("cases"), tiny_study.folder("fingerprints"))
    plan = segmentation.plan(params, DATASET, "residual", *folders, {})
    assert plan.network["residual_blocks"] == (1, 2)
    task = SegmentationTraining(plan, tiny_study.prepared_cases(), 0, 0, tiny_study.root)
    result = train(
        task,
        run_dir=tmp_path,
        seed=0,
        optimizer=plan.optimizer | {"momentum": 0.9},
        schedule=plan.schedule,
        clip_norm=plan.clip_norm,
        budget=plan.budget | {"steps": 24, "steps_per_epoch": 12},
        device=CPU,
        description="residual",
        shows_progress=False,
    )
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


@pytest.mark.parametrize("architecture", ["unetr", "swin_unetr"])
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_a_transformer_is_planned_and_overfits_one_batch(
    tiny_study: TinyStudy, architecture: str, configuration: str
) -> None:
    params = tiny_study.params
    entries = {"transformer": Entry(architecture=architecture, variant="tiny", configuration=configuration)}
    params = dataclasses.replace(params, entries=entries, architectures=["transformer"])
    folders = (tiny_study.folder("cases"), tiny_study.folder("fingerprints"))
    plan = segmentation.plan(params, DATASET, "transformer", *folders, {})
    assert plan.patch_size == (16,) * plan.problem["spatial_dims"]
    task = SegmentationTraining(plan, tiny_study.prepared_cases(), 0, 0, tiny_study.root)
    torch.manual_seed(0)
    network = task.build_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.03)
    batch = task.batch(0, range(2), CPU)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = sum(task.loss_terms(network, batch, lambda sums: sums))
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.3
    assert losses[-1] < -0.7


@pytest.mark.parametrize(
    ("architecture", "configuration"),
    [*itertools.product(["unet", "vnet", "unet_plus_plus"], ["2d", "3d_fullres"]), ("unet_3_plus", "2d")],
)
def test_a_u_net_is_planned_and_learns_one_batch(tiny_study: TinyStudy, architecture: str, configuration: str) -> None:
    plan = planned(tiny_study, Entry(architecture=architecture, variant="tiny", configuration=configuration))
    losses = losses_of_one_batch(tiny_study, plan)
    assert losses[-1] < losses[0] - 0.4


@pytest.fixture(scope="module")
def plan_2d(tiny_study: TinyStudy) -> Plan:
    return planned(tiny_study, Entry(architecture="nnunet", variant="tiny", configuration="2d"))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_network_learns_one_batch_by_the_loss_of_its_plan_which_validation_takes_too(
    tiny_study: TinyStudy, plan_2d: Plan, loss: str
) -> None:
    plan = dataclasses.replace(plan_2d, loss=loss)
    losses = losses_of_one_batch(tiny_study, plan)
    assert losses[-1] < losses[0] - 0.1
    task = SegmentationTraining(plan, tiny_study.prepared_cases(), 0, 0, tiny_study.root)
    perfect, wrong = (task.validate(Threshold(sign * TRUTH).eval(), 0, CPU)["loss"] for sign in (1, -1))
    assert perfect == pytest.approx(-1 if loss == "dice_cross_entropy" else 0, abs=2e-3)
    assert wrong > perfect + 0.1


def test_the_loss_of_the_study_is_that_of_every_entry_unless_overridden(tiny_study: TinyStudy) -> None:
    params = dataclasses.replace(tiny_study.params, training=Training(loss="focal", max_batch_size=2))
    entry = Entry(architecture="nnunet", variant="tiny")
    usual, by_study = planned(tiny_study, entry), planned(tiny_study, entry, params)
    by_entry = planned(tiny_study, dataclasses.replace(entry, overrides={"loss": "iou"}), params)
    assert (usual.loss, by_study.loss, by_entry.loss) == ("dice_cross_entropy", "focal", "iou")
    assert not any(reason.startswith("loss:") for reason in usual.reasons)
    assert "loss: focal, as set" in by_study.reasons
    assert "loss: iou, as set" in by_entry.reasons


def test_batches_have_weights_of_gaps_where_the_loss_reads_them_alone(
    tiny_study: TinyStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = training(tiny_study).batch(0, range(2), CPU)
    # There is one cell in a case, and so no gap: its number stands for the weights.
    monkeypatch.setattr("pipelines.preprocessing.border.border_weights", lambda instances: instances.astype("f4"))
    weighted = training(tiny_study, loss="border_weighted_cross_entropy").batch(0, range(2), CPU)
    assert weighted.keys() == {"image", "target", "border"}
    assert torch.equal(weighted["image"], plain["image"])
    assert torch.equal(weighted["border"], plain["target"].float())
    assert weighted["border"].any()


def test_patches_are_deformed_where_the_plan_says_so(tiny_study: TinyStudy) -> None:
    plain = training(tiny_study).batch(0, range(2), CPU)["target"]
    deformed = training(tiny_study, elastic_probability=1.0).batch(0, range(2), CPU)["target"]
    assert not torch.equal(plain, deformed)


def planned(study: TinyStudy, entry: Entry, params: Study | None = None) -> Plan:
    params = dataclasses.replace(params or study.params, entries={"entry": entry}, architectures=["entry"])
    return segmentation.plan(params, DATASET, "entry", study.folder("cases"), study.folder("fingerprints"), {})


def losses_of_one_batch(study: TinyStudy, plan: Plan) -> list[float]:
    """Of 60 steps of AdamW on the batch of the first step."""
    task = SegmentationTraining(plan, study.prepared_cases(), 0, 0, study.root)
    torch.manual_seed(0)
    network = task.build_network().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    batch = task.batch(0, range(2), CPU)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = sum(task.loss_terms(network, batch, lambda sums: sums))
        loss.backward()  # type: ignore[union-attr]
        nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()
        losses.append(loss.item())  # type: ignore[union-attr]
    return losses


class Threshold(nn.Module):
    """Calls bright voxels class 1 of `num_classes`; in the tiny study they are the cube."""

    def __init__(self, threshold: float, num_classes: int = 2) -> None:
        super().__init__()
        self.threshold, self.num_classes = threshold, num_classes

    def forward(self, image: Tensor) -> Tensor:
        logits = torch.full((len(image), self.num_classes, *image.shape[2:]), -1e3)
        logits[:, 0] = 0
        logits[:, 1] = 100 * (image[:, 0] - self.threshold)
        return logits


# Image: mean 102.6 and deviation 12.2 of N(100, 5) with a cube of N(150, 5); 125 lies at 1.8 deviations.
TRUTH = 1.8


@pytest.mark.parametrize(
    ("threshold", "dice"),
    [(TRUTH, 1.0), (1e3, 0.0), (-1e3, 2 * 216 / (216 + 16**3))],
    ids=["truth", "nothing", "everything"],
)
def test_the_pseudo_dice_is_that_of_the_voxels(tiny_study: TinyStudy, threshold: float, dice: float) -> None:
    scores = training(tiny_study).validate(Threshold(threshold), 0, CPU)
    assert set(scores) == {"loss", "pseudo_dice", "dice_cube"}
    assert scores["pseudo_dice"] == scores["dice_cube"] == pytest.approx(dice, abs=1e-6)


def test_the_loss_of_the_truth_is_the_best_there_is(tiny_study: TinyStudy) -> None:
    task = training(tiny_study)
    assert task.validate(Threshold(TRUTH), 0, CPU)["loss"] == pytest.approx(-1, abs=0.01)
    assert task.validate(Threshold(1e3), 0, CPU)["loss"] > 1


def test_a_class_that_never_occurs_is_left_out_of_the_mean(tiny_study: TinyStudy) -> None:
    task = training(tiny_study, labels={"background": 0, "cube": 1, "rare": 2})
    scores = task.validate(Threshold(TRUTH, num_classes=3), 0, CPU)
    assert math.isnan(scores["dice_rare"])
    assert scores["pseudo_dice"] == 1


def test_voxels_without_annotation_do_not_count(tiny_study: TinyStudy, tmp_path: Path) -> None:
    label = np.zeros((16, 16, 16), np.int16)
    label[:8, :4] = 1
    label[8:] = 2  # nobody annotated these
    image = (label == 1).astype(np.float32)[None]
    voxels = {1: np.argwhere(label == 1).astype(np.int32), ANNOTATED: np.argwhere(label < 2).astype(np.int32)}
    write_case(tmp_path / "a.arrow", image, label, voxels, {})
    cases = [{"file": "a.arrow", "split": "train", "fold": fold} for fold in (0, 1)]
    plan = dataclasses.replace(tiny_study.plan(), ignore_label=2)
    task = SegmentationTraining(plan, cases, 0, 0, tmp_path)
    # 512 voxels of the class among 2048 annotated ones.
    assert task.validate(Threshold(-1e3), 0, CPU)["pseudo_dice"] == pytest.approx(2 * 512 / (512 + 2048))
    assert task.validate(Threshold(0.5), 0, CPU)["pseudo_dice"] == 1
    assert set(task.validate(Threshold(0.5), 0, CPU)) == {"loss", "pseudo_dice", "dice_cube"}


def test_validation_patches_change_from_epoch_to_epoch_and_repeat_in_a_repeated_one(tiny_study: TinyStudy) -> None:
    task = training(tiny_study, seed=5)
    losses = [task.validate(Threshold(0.5), epoch, CPU)["loss"] for epoch in (0, 1, 2, 0)]
    assert losses[0] == losses[3]
    assert len(set(losses[:3])) > 1


def test_validation_sees_the_cases_of_its_fold_alone(tiny_study: TinyStudy) -> None:
    seen = []

    class Watcher(Threshold):
        def forward(self, image: Tensor) -> Tensor:
            seen.extend(image[:, 0])
            return super().forward(image)

    training(tiny_study, fold=1).validate(Watcher(TRUTH), 0, CPU)
    images = {
        case["case_id"]: torch.from_numpy(np.array(open_case(case["file"]).image[0], np.float32))
        for case in tiny_study.prepared_cases()
    }
    matches = {name for patch in seen for name, image in images.items() if torch.equal(patch, image)}
    assert len(seen) == 4
    assert matches <= {"b2", "b3"}
    assert matches
