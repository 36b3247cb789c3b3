from __future__ import annotations

from pipelines.fingerprint.extract import Fingerprint
from pipelines.fingerprint.words import sentences

INTENSITY = {
    "mean": 100.0, "median": 90.0, "std": 20.0, "min": 0.0, "max": 500.0, "percentile_00_5": 10.0,
    "percentile_99_5": 300.0,
}  # fmt: skip


def fingerprint(*spacings_mm: tuple[float, float, float]) -> Fingerprint:
    return Fingerprint(
        case_ids=tuple(f"c{number}" for number in range(len(spacings_mm))),
        spacings_mm=spacings_mm,
        shapes_after_crop=tuple((10 + number, 20, 30) for number in range(len(spacings_mm))),
        intensity=(INTENSITY,),
        median_relative_size_after_cropping=0.5,
        label_voxels={"background": 980, "liver": 19, "tumour": 1},
    )


def test_one_spacing_is_one_sentence() -> None:
    told = sentences(fingerprint((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)))
    assert told[:2] == ["2 training cases were measured.", "All have a spacing of 1 × 1 × 1 mm (z, y, x)."]
    assert "times as long" not in " ".join(told)


def test_many_spacings_are_told_by_median_and_range_and_how_anisotropic_they_are() -> None:
    told = sentences(fingerprint((1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (5.0, 1.0, 2.0)))
    assert told[1] == ("Their median spacing is 3 × 1 × 1 mm (z, y, x), from 1 × 1 × 1 to 5 × 1 × 2 mm side by side.")
    assert told[2] == ("A voxel is 3 times as long as wide in the median case, 5 times in the most anisotropic one.")


def test_shape_intensities_and_shares() -> None:
    told = sentences(fingerprint((1.0, 1.0, 1.0)))
    assert told[2:] == [
        "The median shape is 10 × 20 × 30 voxels, from 10 × 20 × 30 to 10 × 20 × 30 side by side; cropping to what is "
        "not zero keeps 50 % of a median image.",
        "Foreground intensities of channel 0 lie around 90 (mean 100, standard deviation 20); 99 % of them are between "
        "10 and 300.",
        "Share of the labelled voxels: background 98 %, liver 1.9 %, tumour 0.1 %.",
    ]
