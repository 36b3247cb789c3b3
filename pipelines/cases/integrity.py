"""Whether a data set is sound: every finding of every case in one pass over the files.

What nnU-Net's integrity check verifies (nnunetv2 2.8.1), and what it misses: duplicates, constant images, patients on
both sides of the split, orientations and intensities that differ, labels in pieces, classes that are absent, rare or
tiny, labels that name sides.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipelines.atomic_files import write_text
from pipelines.cases.case import DatasetInfo, RawDataset
from pipelines.cases.case_check import CaseFacts, examine_case
from pipelines.cases.dataset_check import check_dataset
from pipelines.cases.finding import Finding, as_lines, report_of, worst_first
from pipelines.ray_session.map_cases import map_cases

_NUM_SHOWN = 20


class IntegrityError(ValueError):
    """A data set with errors; the message lists the first of them, one a line.

    Attributes:
        findings: all errors.
    """

    def __init__(self, source: str, findings: Sequence[Finding]) -> None:
        self.findings = list(findings)
        lines = [f"  {line.removeprefix('error: ')}" for line in as_lines(findings)]
        if len(lines) > _NUM_SHOWN:
            lines[_NUM_SHOWN:] = [f"  and {len(lines) - _NUM_SHOWN} more"]
        count = f"{len(findings)} error{'s' if len(findings) > 1 else ''} in the data set"
        super().__init__("\n".join([f"{source}: {count}", *lines, f"see them all: repro check {source}"]))


def check(raw: RawDataset) -> list[Finding]:
    """All findings of a data set, worst first."""
    return examine(raw)[2]


def examine(raw: RawDataset) -> tuple[DatasetInfo, list[CaseFacts], list[Finding]]:
    """Read every file once and check it.

    Returns:
        The description, with channels and labels as found in the files where the source names none; the facts of each
        entry in order; all findings, worst first.
    """
    declared = frozenset(raw.info.labels.values()) or None
    if declared and raw.info.ignore_label is not None:
        declared |= {raw.info.ignore_label}
    look = partial(examine_case, declared=declared, ignore_label=raw.info.ignore_label)
    facts = map_cases(look, raw.entries, desc="check cases")
    info = _completed(raw.info, facts)
    findings = [finding for case in facts for finding in case.findings]
    findings += check_dataset(replace(raw, info=info), facts)
    return info, facts, worst_first(findings)


def conclude(source: str, dataset: str, num_cases: int, findings: Sequence[Finding], path: Path) -> None:
    """Write the report, print the warnings, and stop at errors.

    Args:
        source: of the data set, as the user gave it.
        dataset: its name in the study.
        num_cases: that were looked at.
        findings: of all severities.
        path: gets `finding.report_of` as JSON, also where there are errors.

    Raises:
        IntegrityError: there are errors.
    """
    write_text(path, json.dumps(report_of(dataset, num_cases, findings), indent=2) + "\n")
    for line in as_lines([finding for finding in findings if finding.severity == "warning"]):
        print(line)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise IntegrityError(source, errors)


def _completed(info: DatasetInfo, facts: Sequence[CaseFacts]) -> DatasetInfo:
    if not info.channels:
        num_channels = next((case.num_channels for case in facts if case.num_channels), 0)
        info = replace(info, channels=tuple(f"channel_{index}" for index in range(num_channels)))
    if not info.labels:
        found = sorted({value for case in facts for value in case.label_values if value > 0})
        info = replace(info, labels={"background": 0} | {f"class_{value}": value for value in found})
    return info
