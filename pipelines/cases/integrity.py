"""Whether a data set is sound: every finding of every case in one pass.

The hard rules are those of nnU-Net's integrity check (nnunetv2 2.8.1); added are duplicates, constant images, classes
that no case contains and patients on both sides of the split.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from pipelines.atomic_files import write_text
from pipelines.cases.case import DatasetInfo, RawDataset, RawEntry
from pipelines.cases.case_check import CaseFacts, Finding, examine_case
from pipelines.cases.splits import patient_of
from pipelines.ray_session.map_cases import map_cases

__all__ = ["CaseFacts", "Finding", "IntegrityError", "check", "examine", "write_report"]

_NUM_SHOWN = 20


class IntegrityError(ValueError):
    """A data set with errors; the message lists the first of them, one a line.

    Attributes:
        findings: all errors.
    """

    def __init__(self, source: str, findings: Sequence[Finding]) -> None:
        self.findings = list(findings)
        lines = [f"  {finding}" for finding in findings[:_NUM_SHOWN]]
        if len(findings) > _NUM_SHOWN:
            lines.append(f"  and {len(findings) - _NUM_SHOWN} more")
        count = f"{len(findings)} error{'s' if len(findings) > 1 else ''} in the data set"
        super().__init__("\n".join([f"{source}: {count}", *lines, f"see them all: repro check {source}"]))


def check(raw: RawDataset) -> list[Finding]:
    """All findings of a data set, errors first."""
    return examine(raw)[2]


def examine(raw: RawDataset) -> tuple[DatasetInfo, list[CaseFacts], list[Finding]]:
    """Read every file once and check it.

    Returns:
        The description, with channels and labels as found in the files where the source names none; the facts of each
        entry in order; all findings, errors first.
    """
    declared = frozenset(raw.info.labels.values()) or None
    if declared and raw.info.ignore_label is not None:
        declared |= {raw.info.ignore_label}
    facts = map_cases(partial(examine_case, declared=declared), raw.entries, desc="check cases")
    info = _completed(raw.info, facts)
    findings = [finding for case in facts for finding in case.findings]
    for rule in (_listing_findings, _channel_findings, _duplicate_findings, _class_findings):
        findings += rule(info, raw.entries, facts)
    return info, facts, sorted(findings, key=lambda finding: finding.severity)


def write_report(path: Path | str, dataset: str, num_cases: int, findings: Sequence[Finding]) -> None:
    """Write {"dataset", "num_cases", "errors": [...], "warnings": [...]}; each finding has the keys of `Finding`."""
    report = {
        "dataset": dataset,
        "num_cases": num_cases,
        "errors": [asdict(finding) for finding in findings if finding.severity == "error"],
        "warnings": [asdict(finding) for finding in findings if finding.severity == "warning"],
    }
    write_text(path, json.dumps(report, indent=2) + "\n")


def _completed(info: DatasetInfo, facts: Sequence[CaseFacts]) -> DatasetInfo:
    if not info.channels:
        num_channels = next((case.num_channels for case in facts if case.num_channels), 0)
        info = replace(info, channels=tuple(f"channel_{index}" for index in range(num_channels)))
    if not info.labels:
        found = sorted({value for case in facts for value in case.label_values if value > 0})
        info = replace(info, labels={"background": 0} | {f"class_{value}": value for value in found})
    return info


def _listing_findings(info: DatasetInfo, entries: Sequence[RawEntry], facts: Sequence[CaseFacts]) -> Iterator[Finding]:
    if not any(entry.split == "train" for entry in entries):
        message = f"no training cases ({len(entries)} test cases); a study needs images with labels: check the folder"
        yield Finding("error", "", "", "no-cases", message)
    for case_id, count in Counter(entry.case_id for entry in entries).items():
        if count > 1:
            message = f"the id stands for {count} cases; each needs its own: rename the others"
            yield Finding("error", case_id, "", "case-id", message)
    patients = defaultdict(set)
    for entry in entries:
        patients[entry.split].add(patient_of(entry))
    for patient in sorted(patients["train"] & patients["test"]):
        message = f"patient {patient} has training and test cases, so the test score is too good; move them to one side"
        yield Finding("warning", "", "", "patient-in-both", message)


def _channel_findings(info: DatasetInfo, entries: Sequence[RawEntry], facts: Sequence[CaseFacts]) -> Iterator[Finding]:
    for entry, case in zip(entries, facts, strict=True):
        if case.num_channels not in (0, len(info.channels)):
            message = (
                f"{case.num_channels} channels, but the data set has {len(info.channels)} {list(info.channels)}; add "
                "what is missing, or take the case out"
            )
            yield Finding("error", entry.case_id, ", ".join(entry.image_paths), "channel-count", message)


def _duplicate_findings(
    info: DatasetInfo, entries: Sequence[RawEntry], facts: Sequence[CaseFacts]
) -> Iterator[Finding]:
    first_image: dict[str, str] = {}
    first_label: dict[str, str] = {}
    for entry, case in zip(entries, facts, strict=True):
        image_of = first_image.setdefault(case.image_digest, entry.case_id)
        if case.image_digest and image_of != entry.case_id:
            message = f"the same image as case {image_of}; a case counted twice skews scores and can leak: drop one"
            yield Finding("warning", entry.case_id, ", ".join(entry.image_paths), "duplicate-image", message)
            continue
        label_of = first_label.setdefault(case.label_digest, entry.case_id)
        # Empty label maps of one shape are alike without being copies.
        if any(case.label_values) and label_of != entry.case_id:
            message = f"the same label as case {label_of}, on another image; one of them is likely a wrong copy"
            yield Finding("warning", entry.case_id, str(entry.label_path), "duplicate-label", message)


def _class_findings(info: DatasetInfo, entries: Sequence[RawEntry], facts: Sequence[CaseFacts]) -> Iterator[Finding]:
    values = sorted(info.labels.values()) + ([] if info.ignore_label is None else [info.ignore_label])
    if values != list(range(len(values))):
        message = (
            f"label values {values} for {list(info.labels)}; they must be 0, 1, 2, ... without gap or repeat, 0 the "
            "background and an ignore label last: renumber them in the files and in the declaration"
        )
        yield Finding("error", "", "", "label-numbers", message)
    training = [case for entry, case in zip(entries, facts, strict=True) if entry.split == "train"]
    present = {value for case in training for value in case.label_values}
    if not present:
        return
    for name, value in info.labels.items():
        if value not in present and value != 0:
            message = f"class {name} (value {value}) is in no training case; it cannot be learned: check the labels"
            yield Finding("warning", "", "", "absent-class", message)
