"""The synthetic data sets of nnU-Net's plans that were measured: identical cases, so medians are what stands here.

Source: reference/nnunet_rules.md, section 4.7.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pipelines.cases.case import DatasetInfo
from pipelines.fingerprint.extract import Fingerprint
from pipelines.fingerprint.intensity import STATISTICS


@dataclass(frozen=True)
class Data:
    """A data set of identical cases; spacing and shape z y x."""

    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    num_cases: int
    num_channels: int
    num_labels: int
    channel: str = "MRI"
    relative_size: float = 1.0

    def fingerprint(self) -> Fingerprint:
        """Ours, of three of the cases."""
        return Fingerprint(
            case_ids=("a", "b", "c"),
            spacings_mm=(self.spacing_mm,) * 3,
            shapes_after_crop=(self.shape,) * 3,
            intensity=tuple({name: float(i) for name in STATISTICS} for i in range(self.num_channels)),
            median_relative_size_after_cropping=self.relative_size,
            label_voxels={},
        )

    def info(self) -> DatasetInfo:
        """Channels of one name, numbered classes."""
        labels = {"background": 0} | {f"class {value}": value for value in range(1, self.num_labels)}
        return DatasetInfo("data", (self.channel,) * self.num_channels, labels)

    def write_nnunet(self, folder: Path) -> Path:
        """The two files from which nnU-Net plans."""
        statistics = {name: float(number) for number, name in enumerate(STATISTICS) if name != "percentile_error"}
        values = {
            "spacings": [self.spacing_mm] * self.num_cases,
            "shapes_after_crop": [self.shape] * self.num_cases,
            "foreground_intensity_properties_per_channel": {str(i): statistics for i in range(self.num_channels)},
            "median_relative_size_after_cropping": self.relative_size,
        }
        content = {
            "channel_names": {str(i): self.channel for i in range(self.num_channels)},
            "labels": self.info().labels,
            "numTraining": self.num_cases,
            "file_ending": ".nii.gz",
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dataset_fingerprint.json").write_text(json.dumps(values), encoding="utf-8")
        (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
        return folder


DATA = {
    "Hippo": Data((1, 1, 1), (36, 50, 35), 260, 1, 3),
    "BraTSlike": Data((1, 1, 1), (138, 170, 138), 484, 4, 4, relative_size=0.35),
    "Liverlike": Data((1, 0.767578, 0.767578), (432, 512, 512), 131, 1, 3, "CT"),
    "Prostatelike": Data((3.6, 0.625, 0.625), (20, 320, 319), 32, 2, 3),
    "Lunglike": Data((1.245, 0.785, 0.785), (252, 512, 512), 63, 1, 2, "CT"),
    "Spleenlike": Data((5, 0.793, 0.793), (90, 512, 512), 41, 1, 2, "CT"),
    "ACDClike": Data((10, 1.5625, 1.5625), (9, 256, 216), 200, 1, 4),
    "Synth96": Data((3, 1, 1), (96, 160, 160), 4, 1, 2, "CT"),
    "Microscopy2D": Data((999, 1, 1), (1, 512, 512), 1000, 3, 2),
    "Tiny": Data((1, 1, 1), (8, 8, 8), 10, 1, 2),
    "KiTSlike": Data((0.78, 0.78, 0.78), (526, 512, 512), 489, 1, 4, "CT"),
}
