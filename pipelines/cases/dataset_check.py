"""What shows only where all cases of a data set lie side by side.

A case is judged by the others of its own data set: by medians over the cases and by distances from them in median
absolute deviations, far being 3.5 (Iglewicz and Hoaglin, 1993, "How to detect and handle outliers"). Such rules want
five cases at least and a difference that matters, because a list of false alarms is read by nobody.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from pipelines.cases.case import RawDataset, RawEntry
from pipelines.cases.case_check import CaseFacts
from pipelines.cases.case_measures import ChannelMeasures, ClassMeasures
from pipelines.cases.finding import Finding, Severity
from pipelines.cases.raster import is_raster
from pipelines.cases.sides import sided_pair
from pipelines.cases.splits import patient_of

_FEWEST_CASES = 5
_NUM_SHOWN = 5
_FAR = 3.5
# Makes the median absolute deviation of a normal distribution its standard deviation.
_MAD_TO_SIGMA = 1.4826
# A case with 2 lesions is no outlier among cases with 1.
_MORE_PIECES = 4
# A cube of 3 voxels a side.
_TINY_VOXELS = 27
_MUCH_SMALLER = 10
_CLEAR_FACTOR = 2.0
_CLEAR_SHARE_OF_SPREAD = 0.5
_MOST_OUTLIERS = 0.2

Pairs = Sequence[tuple[RawEntry, CaseFacts]]


def check_dataset(raw: RawDataset, facts: Sequence[CaseFacts]) -> list[Finding]:
    """Apply every rule that needs more than one case.

    Args:
        raw: with channels and labels as found in the files where the source names none.
        facts: of each entry, in order.
    """
    pairs = list(zip(raw.entries, facts, strict=True))
    rules = (
        _listing_findings,
        _channel_findings,
        _picture_findings,
        _duplicate_findings,
        _orientation_findings,
        _class_findings,
        _size_findings,
        _side_findings,
        _intensity_findings,
    )
    return [finding for rule in rules for finding in rule(raw, pairs)]


def _listing_findings(raw: RawDataset, pairs: Pairs) -> Iterator[Finding]:
    num_training = sum(entry.split == "train" for entry in raw.entries)
    if num_training == 0:
        message = f"no training cases ({len(pairs)} test cases); a study needs images with labels"
        yield Finding("error", "no-cases", "", (), message, "check the folder")
    if raw.num_training not in (None, num_training):
        message = f"numTraining of dataset.json is {raw.num_training}, but there are {num_training} training cases"
        remedy = "copy what was lost on the way, or correct the number"
        yield Finding("warning", "num-training", "", (), message, remedy)
    for case_id, count in Counter(entry.case_id for entry in raw.entries).items():
        if count > 1:
            message = f"the id stands for {count} cases; each needs its own"
            yield Finding("error", "case-id", case_id, (), message, "rename the others")
    cases_of: dict[str, dict[str, list[str]]] = {"train": defaultdict(list), "test": defaultdict(list)}
    for entry in raw.entries:
        cases_of[entry.split][patient_of(entry)].append(entry.case_id)
    for patient in sorted(cases_of["train"].keys() & cases_of["test"].keys()):
        training, test = (", ".join(cases_of[split][patient]) for split in ("train", "test"))
        message = f"patient {patient} has training cases ({training}) and test cases ({test}): the test score flatters"
        yield Finding("warning", "patient-in-both", "", (), message, "move them to one side")


def _channel_findings(raw: RawDataset, pairs: Pairs) -> Iterator[Finding]:
    channels = raw.info.channels
    for entry, case in pairs:
        if case.num_channels not in (0, len(channels)):
            message = f"{case.num_channels} channels, but the data set has {len(channels)} {list(channels)}"
            remedy = "add what is missing, or take the case out"
            yield Finding("error", "channel-count", entry.case_id, entry.image_paths, message, remedy)


def _picture_findings(raw: RawDataset, pairs: Pairs) -> Iterator[Finding]:
    num_pictures = sum(is_raster(entry.image_paths[0]) for entry, _ in pairs if entry.image_paths)
    if num_pictures:
        message = f"{num_pictures} of {len(pairs)} cases are pictures, which have no spacing; a pixel counts as 1 mm"
        remedy = "read distances in mm, and evaluation.tolerance_mm, as pixels"
        yield Finding("note", "no-spacing", "", (), message, remedy)


def _duplicate_findings(raw: RawDataset, pairs: Pairs) -> Iterator[Finding]:
    first_image: dict[str, RawEntry] = {}
    first_label: dict[str, RawEntry] = {}
    for entry, case in pairs:
        other = first_image.setdefault(case.image_content, entry)
        if case.image_content and other.case_id != entry.case_id:
            files = entry.image_paths + other.image_paths
            message = f"the same image as case {other.case_id}; a case counted twice skews scores and can leak"
            yield Finding("warning", "duplicate-image", entry.case_id, files, message, "drop one")
            continue
        other = first_label.setdefault(case.label_content, entry)
        # Empty label maps of one shape are alike without being copies.
        if any(case.label_values) and other.case_id != entry.case_id:
            assert entry.label_path is not None
            assert other.label_path is not None
            files = (entry.label_path, other.label_path)
            message = f"the same label as case {other.case_id}, on another image"
            remedy = "one of them is likely a wrong copy: find the right label, or take the case out"
            yield Finding("warning", "duplicate-label", entry.case_id, files, message, remedy)


def _orientation_findings(raw: RawDataset, pairs: Pairs) -> Iterator[Finding]:
    counts = Counter(case.axis_codes for _, case in pairs if case.axis_codes)
    if len(counts) < 2:
        return
    remedy = (
        "reading turns all to one orientation by the header alone: look at one in a viewer, whether left and right, "
        "head and feet are where it says"
    )
    usual, num_usual = counts.most_common(1)[0]
    if 2 * num_usual <= counts.total():
        ways = ", ".join(f"{codes} in {count}" for codes, count in counts.most_common())
        yield Finding("warning", "orientation", "", (), f"the axes run in {len(counts)} ways: {ways} cases", remedy)
        return
    for entry, case in pairs:
        if case.axis_codes not in ("", usual):
            message = f"its axes run {case.axis_codes}, in {num_usual} of {counts.total()} cases they run {usual}"
            yield Finding("warning", "orientation", entry.case_id, entry.image_paths[:1], message, remedy)


def _class_findings(raw: RawDataset, pairs: Pairs) -> Iterator[Finding]:
    info = raw.info
    values = sorted(info.labels.values()) + ([] if info.ignore_label is None else [info.ignore_label])
    if values != list(range(len(values))):
        message = (
            f"label values {values} for {list(info.labels)}; they must be 0, 1, 2, ... without gap or repeat, 0 the "
            "background and an ignore label last"
        )
        remedy = "renumber them in the files and in the declaration"
        yield Finding("error", "label-numbers", "", (), message, remedy)
    training = [(entry, case) for entry, case in pairs if entry.split == "train" and case.label_values]
    with_class = {
        value: [entry.case_id for entry, case in training if value in case.label_values]
        for value in info.labels.values()
        if value != 0
    }
    for name, value in info.labels.items():
        if value == 0 or not training:
            continue
        described, case_ids = f"class {name} (value {value})", with_class[value]
        if not case_ids:
            message = f"{described} is in no training case; it cannot be learned"
            yield Finding("warning", "absent-class", "", (), message, "check the labels, or take it off the list")
        elif len(training) >= _FEWEST_CASES and 2 * len(case_ids) < len(training):
            more = f" and {len(case_ids) - _NUM_SHOWN} more" if len(case_ids) > _NUM_SHOWN else ""
            message = (
                f"{described} is in {len(case_ids)} of {len(training)} training cases "
                f"({', '.join(case_ids[:_NUM_SHOWN])}{more}), and its scores rest on these"
            )
            remedy = "check that the others lack it, and not that nobody has drawn it there"
            severity: Severity = "warning" if len(case_ids) < _FEWEST_CASES else "note"
            yield Finding(severity, "rare-class", "", (), message, remedy)
    if not any(with_class.values()):
        return
    for entry, case in training:
        if not set(case.label_values) - {0, info.ignore_label}:
            assert entry.label_path is not None
            remedy = "fine where there is nothing to find; else draw it, or take the case out"
            message = "a training label without any class"
            yield Finding("warning", "empty-label", entry.case_id, (entry.label_path,), message, remedy)


def _size_findings(raw: RawDataset, pairs: Pairs) -> Iterator[Finding]:
    for name, value in raw.info.labels.items():
        measured = [(entry, of_class) for entry, case in pairs for of_class in case.classes if of_class.value == value]
        if len(measured) >= _FEWEST_CASES:
            # Where objects are known, how many there are is no slip of the pen.
            if not any(entry.instances_path for entry, _ in measured):
                yield from _piece_findings(f"class {name} (value {value})", measured)
            yield from _tiny_findings(f"class {name} (value {value})", measured)


def _piece_findings(described: str, measured: Sequence[tuple[RawEntry, ClassMeasures]]) -> Iterator[Finding]:
    usual = statistics.median_low(of_class.num_pieces for _, of_class in measured)
    distances = _robust_distances(np.log([of_class.num_pieces for _, of_class in measured]))
    for (entry, of_class), distance in zip(measured, distances, strict=True):
        assert entry.label_path is not None
        num_more = of_class.num_pieces - usual
        if distance > _FAR and num_more >= _MORE_PIECES:
            sizes = _sizes(of_class.piece_sizes, of_class.num_pieces)
            message = f"{described} is in {of_class.num_pieces} pieces ({sizes}), the median over the cases is {usual}"
            remedy = "look at it: erase slips of the pen, fill gaps in what is one"
            yield Finding("warning", "pieces", entry.case_id, (entry.label_path,), message, remedy)
        elif usual == 1 and of_class.num_specks:
            message = (
                f"{described} has {of_class.num_specks} speck{'' if of_class.num_specks == 1 else 's'} "
                f"({_sizes(of_class.speck_sizes, of_class.num_specks)}) beside its largest piece of "
                f"{of_class.piece_sizes[0]}, most cases have one piece"
            )
            remedy = "likely slips of the pen, which training and scores take for real: look at them and erase them"
            yield Finding("note", "specks", entry.case_id, (entry.label_path,), message, remedy)


def _sizes(sizes: Sequence[int], count: int) -> str:
    more = ", ..." if count > len(sizes) else ""
    return f"{', '.join(map(str, sizes))}{more} voxel{'' if sizes == (1,) else 's'}"


def _tiny_findings(described: str, measured: Sequence[tuple[RawEntry, ClassMeasures]]) -> Iterator[Finding]:
    usual = statistics.median(of_class.num_voxels for _, of_class in measured)
    if usual < _TINY_VOXELS:
        message = f"{described} has {usual:.0f} voxels a case (median); so small a class is easily missed"
        remedy = "check that the images have their full resolution, and expect scores that differ much between cases"
        yield Finding("note", "tiny-class", "", (), message, remedy)
        return
    for entry, of_class in measured:
        if of_class.num_voxels < min(_TINY_VOXELS, usual / _MUCH_SMALLER):
            assert entry.label_path is not None
            message = f"{described} has {_sizes((of_class.num_voxels,), 1)}, the median over the cases is {usual:.0f}"
            remedy = "a slip of the pen, or a label begun and not finished: look at it"
            yield Finding("warning", "tiny-class", entry.case_id, (entry.label_path,), message, remedy)


def _side_findings(raw: RawDataset, pairs: Pairs) -> Iterator[Finding]:
    pair = sided_pair(raw.info.labels)
    if pair is None:
        return
    left, right = pair
    message = f"labels {left} and {right} differ only in their side; training will not mirror the left-right axis"
    remedy = "nothing to do, unless it is wrong: `training.mirror_axes: all` mirrors it all the same"
    yield Finding("note", "sided-labels", "", (), message, remedy)
    for entry, case in pairs:
        centres = {of_class.value: of_class.centre_x for of_class in case.classes}
        centre_left, centre_right = (centres.get(raw.info.labels[name]) for name in pair)
        if centre_left is not None and centre_right is not None and centre_left > centre_right:
            assert entry.label_path is not None
            message = f"by the header, {left} lies to the right of {right}"
            remedy = "image and label may be mirrored, or the two labels swapped: correct the header or the label"
            yield Finding("warning", "sides-swapped", entry.case_id, (entry.label_path,), message, remedy)


def _intensity_findings(raw: RawDataset, pairs: Pairs) -> Iterator[Finding]:
    channels = raw.info.channels
    for index, name in enumerate(channels):
        measured = [
            (entry, channel)
            for entry, case in pairs
            if len(case.channels) == len(channels) and (channel := case.channels[index]) and channel.spread > 0
        ]
        yield from _channel_intensity_findings(f"channel {name}", measured)


def _channel_intensity_findings(
    described: str, measured: Sequence[tuple[RawEntry, ChannelMeasures]]
) -> Iterator[Finding]:
    told: set[str] = set()
    spread = float(np.median([channel.spread for _, channel in measured] or [0.0]))
    is_magnitude = all(channel.low >= 0 for _, channel in measured)
    for what, attribute, is_scale in (
        ("the median of the labelled voxels", "labelled_median", is_magnitude),
        ("the range from the 1st to the 99th percentile", "spread", True),
    ):
        given = [(entry, value) for entry, channel in measured if (value := getattr(channel, attribute)) is not None]
        if len(given) < _FEWEST_CASES:
            continue
        values = np.array([value for _, value in given])
        if is_scale and values.min() > 0:
            distances = _distances_that_matter(np.log(values), np.log(_CLEAR_FACTOR))
        else:
            distances = _distances_that_matter(values, _CLEAR_SHARE_OF_SPREAD * spread)
        is_far = np.abs(distances) > _FAR
        if is_far.mean() > _MOST_OUTLIERS:
            message = (
                f"{described}: {what} goes from {values.min():.4g} to {values.max():.4g}, in {is_far.sum()} of "
                f"{len(given)} cases far from its median of {np.median(values):.4g}"
            )
            remedy = "no harm where each image is normalised by itself (every channel but CT); else bring all to a unit"
            yield Finding("note", "intensity-scales", "", (), message, remedy)
            return
        low, high = np.percentile(values[~is_far], (5, 95))
        for (entry, value), distance in zip(given, distances, strict=True):
            if abs(distance) > _FAR and entry.case_id not in told:
                told.add(entry.case_id)
                message = f"{described}: {what} is {value:.4g}, in the other cases mostly {low:.4g} to {high:.4g}"
                remedy = "look at the image: another sequence, contrast or unit, or damage? convert it, or leave it out"
                yield Finding("warning", "intensity-outlier", entry.case_id, entry.image_paths, message, remedy)


def _distances_that_matter(values: np.ndarray, clear: float) -> np.ndarray:
    """Robust distances from the median, 0 for values less than `clear` away from it."""
    is_clear = np.abs(values - np.median(values)) > clear
    return np.where(is_clear, _robust_distances(values), 0.0)


def _robust_distances(values: np.ndarray) -> np.ndarray:
    """Distances from the median in units of the median absolute deviation, infinite where that is 0."""
    apart = values - np.median(values)
    deviation = _MAD_TO_SIGMA * np.median(np.abs(apart))
    return apart / deviation if deviation > 0 else np.where(apart == 0, 0.0, np.copysign(np.inf, apart))
