"""A data set in nnU-Net's raw layout, so that the peer and this project read the same files."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.cases.case import DatasetInfo, RawDataset, RawEntry
from pipelines.cases.formats import decathlon
from pipelines.tracking.provenance import ROOT

HIPPOCAMPUS = ROOT / "../shared/data/Task04_Hippocampus"
CHAOS = ROOT / "../shared/data/chaos_t2_mr"
_ENDING = ".nii.gz"


def link_raw(dataset: RawDataset, raw_dir: Path, number: int) -> Path:
    """Link the labelled training cases of a data set into `raw_dir/DatasetNNN_Name`, and write its `dataset.json`.

    Args:
        dataset: one `.nii.gz` file a channel.
        raw_dir: what `nnUNet_raw` names.
        number: of the data set for nnU-Net's commands, 1 to 999.

    Returns:
        The folder; both sides read it (`pipelines.cases.formats.nnunet_raw`).
    """
    info = dataset.info
    entries = [entry for entry in dataset.entries if entry.split == "train" and entry.label_path]
    folder = raw_dir / f"Dataset{number:03d}_{info.name}"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for entry in entries:
        assert len(entry.image_paths) == len(info.channels), f"{entry.case_id}: one file a channel is needed"
        for channel, path in enumerate(entry.image_paths):
            _link(path, folder / "imagesTr" / f"{entry.case_id}_{channel:04d}{_ENDING}")
        assert entry.label_path
        _link(entry.label_path, folder / "labelsTr" / f"{entry.case_id}{_ENDING}")
    ignored = {} if info.ignore_label is None else {"ignore": info.ignore_label}
    content = {
        "channel_names": {str(index): name for index, name in enumerate(info.channels)},
        "labels": info.labels | ignored,
        "numTraining": len(entries),
        "file_ending": _ENDING,
    }
    (folder / "dataset.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return folder


def hippocampus(num_cases: int | None = None) -> RawDataset | None:
    """The first cases of Task04_Hippocampus, or None where the shared data are absent."""
    if not HIPPOCAMPUS.is_dir():
        return None
    dataset = decathlon.read(HIPPOCAMPUS)
    return RawDataset(dataset.info, dataset.entries[:num_cases])


def chaos(num_cases: int | None = None) -> RawDataset | None:
    """The first cases of the CHAOS T2 set, by number, or None where the shared data are absent."""
    if not CHAOS.is_dir():
        return None
    labels = {"background": 0, "liver": 1, "right kidney": 2, "left kidney": 3, "spleen": 4}
    names = [path.name.removesuffix(_ENDING) for path in CHAOS.glob(f"image_*{_ENDING}")]
    names.sort(key=lambda name: int(name.rpartition("_")[2]))
    entries = [
        RawEntry(
            case_id=name.replace("image", "chaos"),
            image_paths=(str(CHAOS / f"{name}{_ENDING}"),),
            label_path=str(CHAOS / f"{name.replace('image', 'label')}{_ENDING}"),
            patient=None,
            split="train",
            fold=None,
        )
        for name in names[:num_cases]
    ]
    return RawDataset(DatasetInfo("CHAOS", ("T2",), labels), entries)


def _link(source: str, target: Path) -> None:
    assert source.endswith(_ENDING), f"{source}: nnU-Net wants one ending for all files, here {_ENDING}"
    target.symlink_to(Path(source).resolve())
