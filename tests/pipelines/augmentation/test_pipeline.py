from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.augmentation.intensity import BackgroundOutside, LowResolution, ZeroOutside
from pipelines.augmentation.pipeline import training_augmentation, validation_augmentation
from pipelines.augmentation.spatial import Affine, CentreCrop, Mirror

SETTINGS = [
    pytest.param(3, (9, 9, 9), (6, 6, 6), False, id="3D"),
    pytest.param(3, (4, 17, 17), (4, 13, 13), True, id="in plane"),
    pytest.param(2, (12, 12), (8, 6), False, id="2D"),
]


def patch(shape: tuple[int, ...], device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image, label = torch.randn(2, *shape, generator=generator), torch.randint(-1, 3, shape, generator=generator)
    return image.to(device), label.to(device)


@pytest.mark.parametrize(("spatial_dims", "initial", "size", "is_dummy_2d"), SETTINGS)
def test_a_draw_can_be_replayed_bit_for_bit(
    spatial_dims: int, initial: tuple[int, ...], size: tuple[int, ...], is_dummy_2d: bool
) -> None:
    augmentation = training_augmentation(spatial_dims, size, range(spatial_dims), is_dummy_2d, (True, False))
    image, label = patch(initial)
    before = image.clone(), label.clone()
    kinds = set()
    for sample in range(60):
        drawn = augmentation.draw(np.random.default_rng([1, sample]))
        assert drawn == augmentation.draw(np.random.default_rng([1, sample]))
        first, second = augmentation.apply(drawn, image, label), augmentation.apply(drawn, image, label)
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
        assert first[0].shape == (2, *size)
        assert first[1].shape == size
        assert first[0].isfinite().all()
        assert set(first[1].unique().tolist()) <= {0, 1, 2}
        assert isinstance(drawn[0], Affine | CentreCrop)
        assert isinstance(drawn[-1], BackgroundOutside)
        kinds |= {type(transform).__name__ for transform in drawn}
        for transform in drawn:
            if isinstance(transform, LowResolution):
                assert transform.keeps_first_axis == is_dummy_2d
            if isinstance(transform, Affine):
                assert len(transform.matrix) == (3 if spatial_dims == 3 and not is_dummy_2d else 2)
    assert len(kinds) == 11
    assert torch.equal(image, before[0])
    assert torch.equal(label, before[1])


def test_order_of_the_list() -> None:
    augmentation = training_augmentation(3, (6, 6, 6), (0, 1), False, (False, True))
    names = [type(transform).__name__ for transform in augmentation.random]
    assert names == [
        "RandomAffine",
        "RandomNoise",
        "RandomBlur",
        "RandomBrightness",
        "RandomContrast",
        "RandomLowResolution",
        "RandomGamma",
        "RandomGamma",
        "RandomMirror",
    ]
    assert augmentation.always == (ZeroOutside((1,)), BackgroundOutside())
    assert training_augmentation(3, (6, 6, 6), (), False, (False,)).always == (BackgroundOutside(),)


def test_masked_channels_are_zero_outside_the_mask_whatever_was_drawn() -> None:
    augmentation = training_augmentation(2, (8, 8), (), False, (True, False))
    image, label = patch((12, 12))
    label[:] = -1
    for sample in range(30):
        result, background = augmentation.apply(augmentation.draw(np.random.default_rng(sample)), image, label)
        assert (result[0] == 0).all()
        assert (result[1] != 0).any()
        assert (background == 0).all()


@pytest.mark.parametrize(
    ("size", "is_dummy_2d", "degrees"),
    [((6, 6, 6), False, 30), ((4, 13, 13), True, 180), ((56, 40), False, 180), ((64, 40), False, 15)],
)
def test_largest_rotation(size: tuple[int, ...], is_dummy_2d: bool, degrees: float) -> None:
    augmentation = training_augmentation(len(size), size, (), is_dummy_2d, (False,))
    assert augmentation.random[0].rotation_degrees == degrees  # type: ignore[attr-defined]


def test_mirror_stays_on_its_axes() -> None:
    augmentation = training_augmentation(3, (6, 6, 6), (1,), False, (False,))
    drawn = [each for sample in range(50) for each in augmentation.draw(np.random.default_rng(sample))]
    assert {each.axes for each in drawn if isinstance(each, Mirror)} == {(1,)}


def test_validation_only_fills_the_background() -> None:
    augmentation = validation_augmentation()
    image, label = patch((6, 6))
    result, filled = augmentation.apply(augmentation.draw(np.random.default_rng(0)), image, label)
    assert torch.equal(result, image)
    assert torch.equal(filled, label.clamp_min(0))


@pytest.mark.gpu
@pytest.mark.parametrize(("spatial_dims", "initial", "size", "is_dummy_2d"), SETTINGS)
def test_on_a_gpu_all_but_the_noise_equals_the_cpu(
    spatial_dims: int, initial: tuple[int, ...], size: tuple[int, ...], is_dummy_2d: bool
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    augmentation = training_augmentation(spatial_dims, size, (0,), is_dummy_2d, (True, False))
    for sample in range(60):
        drawn = augmentation.draw(np.random.default_rng(sample))
        on_gpu = augmentation.apply(drawn, *patch(initial, "cuda"))
        again = augmentation.apply(drawn, *patch(initial, "cuda"))
        assert torch.equal(on_gpu[0], again[0])
        assert torch.equal(on_gpu[1], again[1])
        quiet = [transform for transform in drawn if type(transform).__name__ != "Noise"]
        on_gpu = augmentation.apply(quiet, *patch(initial, "cuda"))
        on_cpu = augmentation.apply(quiet, *patch(initial))
        torch.testing.assert_close(on_gpu[0].cpu(), on_cpu[0], atol=1e-3, rtol=1e-3)
        assert (on_gpu[1].cpu() != on_cpu[1]).float().mean() < 0.01
