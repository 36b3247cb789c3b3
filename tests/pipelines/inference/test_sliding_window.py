from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipelines.inference.placement import Placement
from pipelines.inference.sliding_window import gaussian_importance, predict_blocks, predict_logits, tile_starts


class _Recorded(nn.Module):
    """Applies a function and keeps the shapes it saw."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.shapes: list[tuple[int, ...]] = []
        self.eval()

    def forward(self, tiles: Tensor) -> Tensor:
        self.shapes.append(tuple(tiles.shape))
        return self.function(tiles)


def _identity() -> _Recorded:
    return _Recorded(lambda tiles: tiles.clone())


def _image(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize(
    ("side", "patch_side", "expected"),
    [
        (110, 64, [0, 23, 46]),
        (128, 64, [0, 32, 64]),
        (65, 64, [0, 1]),
        (200, 128, [0, 36, 72]),
        (47, 40, [0, 7]),
        (59, 56, [0, 3]),
        (64, 64, [0]),
        # 57.5 voxels, were it not for rounding before that.
        (132, 17, [0, 8, 16, 25, 33, 41, 49, 57, 66, 74, 82, 90, 99, 107, 115]),
    ],
)
def test_tiles_start_where_nnunet_says(side: int, patch_side: int, expected: list[int]) -> None:
    assert tile_starts(side, patch_side) == expected


def test_more_overlap_means_more_tiles() -> None:
    assert tile_starts(128, 64, overlap=0) == [0, 64]
    assert tile_starts(128, 64, overlap=0.75) == [0, 16, 32, 48, 64]


@pytest.mark.parametrize(("patch_size", "sum_at_ten"), [((40, 56, 40), 27556.48), ((56, 40), 2198.85)])
def test_importance_has_the_sum_nnunet_has(patch_size: tuple[int, ...], sum_at_ten: float) -> None:
    # The vector was measured in half precision, at a peak of 10.
    importance = gaussian_importance(patch_size)
    assert importance.dtype == np.float32
    assert 10 * importance.sum(dtype=np.float64) == pytest.approx(sum_at_ten, rel=1e-3)
    assert importance[tuple(side // 2 for side in patch_size)] == importance.max() == 1


@pytest.mark.parametrize("patch_size", [(40, 56, 40), (3, 3), (128, 128, 128)])
def test_importance_is_positive_everywhere(patch_size: tuple[int, ...]) -> None:
    assert gaussian_importance(patch_size).min() > 0


@pytest.mark.parametrize("shape", [(11, 13, 9), (4, 20, 8), (3, 5, 2)])
@pytest.mark.parametrize("patch_size", [(8, 8, 8), (8, 6), (4, 16, 4)])
@pytest.mark.parametrize("has_mirrors", [True, False])
def test_a_copying_network_gives_the_image_back_exactly(
    shape: tuple[int, ...], patch_size: tuple[int, ...], has_mirrors: bool
) -> None:
    image = _image(2, *shape)
    mirror_axes = tuple(range(len(patch_size))) if has_mirrors else ()
    logits = predict_logits(
        [_identity()], image, patch_size, 2, mirror_axes=mirror_axes, placement=Placement(batch_size=3)
    )
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, image, rtol=0, atol=0)


def test_constant_logits_stay_constant() -> None:
    values = torch.tensor([0.1, -3.7, 1e4])
    network = _Recorded(lambda tiles: values.reshape(1, 3, 1, 1, 1).expand(len(tiles), 3, *tiles.shape[2:]))
    logits = predict_logits([network], _image(1, 13, 17, 9), (8, 8, 8), 3)
    torch.testing.assert_close(logits, values.reshape(3, 1, 1, 1).expand_as(logits), rtol=0, atol=0)


def test_overlapping_tiles_are_weighted_by_their_importance() -> None:
    # Two tiles along x, starting at 0 and 2: logits are the number of the tile.
    seen = iter([0.0, 1.0])
    network = _Recorded(lambda tiles: torch.full_like(tiles, next(seen)))
    logits = predict_logits([network], torch.zeros(1, 4, 4, 6), (4, 4, 4), 1)
    weight = gaussian_importance((4, 4, 4)).astype(np.float64)
    expected = np.zeros((4, 4, 6))
    expected[..., 4:] = 1
    expected[..., 2:4] = weight[..., :2] / (weight[..., :2] + weight[..., 2:])
    np.testing.assert_allclose(logits[0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("patch_size", [(8, 8, 8), (8, 8)])
def test_the_batch_of_tiles_does_not_change_the_result(patch_size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv3d if len(patch_size) == 3 else nn.Conv2d
    network = convolution(1, 2, 3, padding=1).eval()
    image = _image(1, 9, 14, 11)
    one, many = (
        predict_logits([network], image, patch_size, 2, placement=Placement(batch_size=tiles)) for tiles in (1, 5)
    )
    torch.testing.assert_close(one, many, rtol=0, atol=1e-6)


def test_tiles_come_in_batches_of_the_patch_size() -> None:
    network = _identity()
    predict_logits([network], _image(1, 8, 8, 16), (8, 8, 8), 1, placement=Placement(batch_size=2))
    assert network.shapes == [(2, 1, 8, 8, 8), (1, 1, 8, 8, 8)]


def test_a_2d_network_sees_every_slice_once_and_slices_share_a_batch() -> None:
    network = _identity()
    predict_logits([network], _image(3, 5, 8, 6), (8, 8), 3, placement=Placement(batch_size=4))
    assert network.shapes == [(4, 3, 8, 8), (1, 3, 8, 8)]


def test_slices_do_not_mix_in_2d() -> None:
    image = torch.arange(5.0).reshape(1, 5, 1, 1).expand(1, 5, 7, 9).contiguous()
    network = _Recorded(lambda tiles: tiles.mean(dim=(2, 3), keepdim=True).expand_as(tiles))
    logits = predict_logits([network], image, (4, 4), 1, placement=Placement(batch_size=3))
    torch.testing.assert_close(logits, image)


def test_padding_is_zero_and_centred() -> None:
    tiles: list[Tensor] = []
    network = _Recorded(lambda tile: tiles.append(tile) or tile.clone())
    predict_logits([network], torch.ones(1, 2, 3, 4), (4, 4, 4), 1)
    expected = torch.zeros(4, 4, 4)
    expected[1:3, 0:3, :] = 1
    torch.testing.assert_close(tiles[0][0, 0], expected)


@pytest.mark.parametrize("mirror_axes", [(0,), (1, 2), (0, 1, 2)])
def test_mirroring_is_the_mean_over_all_subsets(mirror_axes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = nn.Conv3d(1, 2, 3, padding=1).eval()
    image = _image(1, 6, 6, 6)
    subsets = list(chain.from_iterable(combinations(mirror_axes, size) for size in range(len(mirror_axes) + 1)))
    with torch.no_grad():
        passes = []
        for subset in subsets:
            axes = [axis + 2 for axis in subset]
            passes.append(network(image[None].flip(axes)).flip(axes)[0])
    logits = predict_logits([network], image, (6, 6, 6), 2, mirror_axes=mirror_axes)
    assert len(passes) == 2 ** len(mirror_axes)
    torch.testing.assert_close(logits, torch.stack(passes).mean(0), rtol=0, atol=1e-6)


def test_a_network_in_training_mode_is_a_programming_error() -> None:
    with pytest.raises(AssertionError, match="eval mode"):
        predict_logits([_identity().train()], _image(1, 4, 4, 4), (4, 4, 4), 1)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 20])
@pytest.mark.parametrize("mirror_axes", [(), (0, 1, 2)])
def test_several_networks_vote_by_the_mean_of_their_logits(batch_size: int, mirror_axes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    networks = [nn.Conv3d(1, 2, 3, padding=1).eval() for _ in range(3)]
    image = _image(1, 9, 14, 11)
    each = [predict_logits([network], image, (8, 8, 8), 2, mirror_axes=mirror_axes) for network in networks]
    together = predict_logits(
        networks, image, (8, 8, 8), 2, mirror_axes=mirror_axes, placement=Placement(batch_size=batch_size)
    )
    torch.testing.assert_close(together, torch.stack(each).mean(0), rtol=0, atol=1e-6)


def test_where_tiles_are_few_mirrored_copies_fill_the_batch() -> None:
    network = _identity()
    arguments = {"patch_size": (8, 8, 8), "num_classes": 1, "mirror_axes": (0, 1, 2)}
    predict_logits([network], _image(1, 8, 8, 8), **arguments, placement=Placement(batch_size=8))
    assert [shape[0] for shape in network.shapes] == [8]
    network.shapes.clear()
    predict_logits([network], _image(1, 8, 8, 16), **arguments, placement=Placement(batch_size=6))
    # Three tiles, so two of the eight mirrored forms at a time.
    assert [shape[0] for shape in network.shapes] == [6] * 4


def test_an_image_in_half_precision_is_computed_in_single() -> None:
    image = _image(2, 9, 9, 9).half()
    seen: list[torch.dtype] = []
    network = _Recorded(lambda tiles: seen.append(tiles.dtype) or tiles.clone())
    logits = predict_logits([network], image, (8, 8, 8), 2)
    assert set(seen) == {torch.float32}
    torch.testing.assert_close(logits, image.float(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("patch_size", "batch_size", "deepest"), [((8, 8, 8), 1, 8), ((8, 8, 8), 7, 12), ((8, 8), 1, 1), ((8, 8), 4, 2)]
)
def test_logits_are_held_for_a_patchs_planes_and_handed_on(
    patch_size: tuple[int, ...], batch_size: int, deepest: int
) -> None:
    image = _image(1, 40, 20, 9)
    blocks = predict_blocks([_identity()], image, patch_size, 1, placement=Placement(batch_size=batch_size))
    lengths, ends, held = [], [], set()
    for block in blocks:
        lengths.append(block.shape[1])
        ends.append(block[:, -1].clone())
        held.add(block.untyped_storage().nbytes() // 4)
    assert sum(lengths) == 40
    assert max(lengths) <= deepest
    assert held == {deepest * 20 * 9}
    torch.testing.assert_close(ends[-1], image[:, -1])


class _Limited(nn.Module):
    """A network that has room for so many patches; tells where each pass ran."""

    def __init__(self, limits: dict[str, int], error: type[Exception], message: str) -> None:
        super().__init__()
        self.limits, self.error, self.message = limits, error, message
        self.at = "first"
        self.eval()

    def to(self, device: torch.device) -> _Limited:
        self.at = device.type
        return self

    def forward(self, tiles: Tensor) -> Tensor:
        if len(tiles) > self.limits[self.at]:
            raise self.error(self.message)
        return torch.cat([tiles, -tiles], dim=1)


OUT_OF_MEMORY = [
    (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2.00 GiB."),
    (RuntimeError, "CUDA error: out of memory"),
    (RuntimeError, "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
    (MemoryError, "Unable to allocate 2.00 GiB"),
]


@pytest.mark.parametrize(("error", "message"), OUT_OF_MEMORY)
@pytest.mark.parametrize("mirror_axes", [(), (0, 2)])
def test_without_memory_the_batch_is_halved_and_no_tile_counts_twice(
    error: type[Exception], message: str, mirror_axes: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    image = _image(1, 13, 17, 9)
    placement = Placement(batch_size=8, subject="prediction of b0")
    network = _Limited({"cpu": 2}, error, message)
    logits = predict_logits([network], image, (8, 8, 8), 2, mirror_axes=mirror_axes, placement=placement)
    torch.testing.assert_close(logits, torch.cat([image, -image]), rtol=0, atol=0)
    assert placement.fallbacks == [
        "out of memory on cpu with 8 patches at once: goes on with 4",
        "out of memory on cpu with 4 patches at once: goes on with 2",
    ]
    printed = capsys.readouterr().err.splitlines()
    assert printed == [f"warning: prediction of b0: {step}" for step in placement.fallbacks]


def test_memory_that_runs_out_half_way_leaves_the_result_as_it_is() -> None:
    image = _image(1, 20, 17, 9)
    torch.manual_seed(0)
    convolution = nn.Conv3d(1, 2, 3, padding=1).eval()
    num_passes = 0

    def forward(tiles: Tensor) -> Tensor:
        nonlocal num_passes
        num_passes += 1
        if num_passes == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return convolution(tiles)

    placement = Placement(batch_size=4)
    logits = predict_logits([_Recorded(forward)], image, (8, 8, 8), 2, placement=placement)
    assert len(placement.fallbacks) == 1
    torch.testing.assert_close(logits, predict_logits([convolution], image, (8, 8, 8), 2), rtol=0, atol=1e-6)


def test_memory_that_runs_out_between_the_first_allocations_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    image = _image(1, 13, 17, 9)
    zeros, num_calls = torch.zeros, 0

    def zeros_but_not_the_second_time(*shape: object, **options: object) -> Tensor:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 2:
            raise MemoryError
        return zeros(*shape, **options)

    monkeypatch.setattr(torch, "zeros", zeros_but_not_the_second_time)
    placement = Placement(batch_size=2)
    logits = predict_logits([_identity()], image, (8, 8, 8), 1, placement=placement)
    assert len(placement.fallbacks) == 1
    torch.testing.assert_close(logits, image, rtol=0, atol=0)


def test_an_error_that_is_not_about_memory_is_raised() -> None:
    network = _Limited({"cpu": 0}, RuntimeError, "shapes do not match")
    placement = Placement(batch_size=8)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        predict_logits([network], _image(1, 8, 8, 8), (8, 8, 8), 2, placement=placement)
    assert placement.fallbacks == []


def test_a_patch_that_never_fits_is_an_error_that_says_what_to_do() -> None:
    network = _Limited({"cpu": 0}, MemoryError, "Unable to allocate 2.00 GiB")
    with pytest.raises(MemoryError) as raised:
        predict_logits([network], _image(1, 8, 8, 8), (8, 8, 8), 2, placement=Placement(batch_size=2))
    (note,) = raised.value.__notes__
    assert "with 1 patch at once, and nothing is left to give up" in note
    assert "plan a smaller patch" in note


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("sums_device", ["cpu", "cuda"])
def test_gpu_agrees_with_cpu_within_bfloat16(sums_device: str) -> None:
    torch.manual_seed(0)
    network = nn.Conv3d(1, 2, 3, padding=1).eval()
    image = _image(1, 12, 14, 11)
    arguments = {"patch_size": (8, 8, 8), "num_classes": 2, "mirror_axes": (0, 2)}
    on_cpu = predict_logits([network], image, **arguments)
    placement = Placement(torch.device("cuda"), torch.device(sums_device), batch_size=2)
    torch.testing.assert_close(
        predict_logits([network], image, **arguments, placement=placement), on_cpu, rtol=0, atol=0.05
    )
    assert next(network.parameters()).is_cuda
