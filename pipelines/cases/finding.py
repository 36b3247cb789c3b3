"""What a check finds: one thing that is wrong or worth knowing, in which files, and what to do about it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]

_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_MOST_APART = 10
_NUM_CASES_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes:
        severity: an error stops the study, a warning should be looked at, a note says what will happen.
        kind: name of the rule, such as "shape"; it stays the same from version to version.
        case_id: "" where the whole data set is meant.
        files: where it is; empty where no file is meant.
        message: the value and the rule.
        remedy: what to do.
    """

    severity: Severity
    kind: str
    case_id: str
    files: tuple[str, ...]
    message: str
    remedy: str

    def __str__(self) -> str:
        """One line with everything but the severity."""
        where = [f"case {self.case_id}"] if self.case_id else []
        where += [", ".join(self.files)] if self.files else []
        return ": ".join([*where, f"{self.message}; {self.remedy} [{self.kind}]"])


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes, each in the order given."""
    return sorted(findings, key=lambda finding: _SEVERITIES.index(finding.severity))


def as_lines(findings: Sequence[Finding]) -> list[str]:
    """Lines for a reader, worst first; where a kind was found in more than ten cases, one line for all of them."""
    alike: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in worst_first(findings):
        alike[finding.severity, finding.kind].append(finding)
    lines = []
    for (severity, _), group in alike.items():
        case_ids = list(dict.fromkeys(finding.case_id for finding in group if finding.case_id))
        if len(case_ids) > _MOST_APART:
            shown = f"{', '.join(case_ids[:_NUM_CASES_SHOWN])} and {len(case_ids) - _NUM_CASES_SHOWN} more"
            lines.append(f"{severity}: {len(case_ids)} cases ({shown}), for example {group[0]}")
        else:
            lines += [f"{severity}: {finding}" for finding in group]
    return lines


def count_text(findings: Sequence[Finding]) -> str:
    """How many of each severity, such as "2 errors, 1 warning, 0 notes"."""
    counts = {severity: sum(finding.severity == severity for finding in findings) for severity in _SEVERITIES}
    return ", ".join(f"{count} {severity}{'' if count == 1 else 's'}" for severity, count in counts.items())


def report_of(dataset: str, num_cases: int, findings: Sequence[Finding]) -> dict[str, Any]:
    """For machines: {"dataset", "num_cases", "findings": [...]}, each finding with the keys of `Finding`."""
    return {"dataset": dataset, "num_cases": num_cases, "findings": [asdict(finding) for finding in findings]}
