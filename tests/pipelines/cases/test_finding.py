from __future__ import annotations

from pipelines.cases.finding import Finding, as_lines, count_text, worst_first


def finding(severity: str, kind: str, case_id: str = "", files: tuple[str, ...] = ()) -> Finding:
    return Finding(severity, kind, case_id, files, f"what of {case_id}", "do")  # type: ignore[arg-type]


def test_errors_come_before_warnings_and_notes() -> None:
    given = [finding("note", "a"), finding("warning", "b"), finding("error", "c"), finding("warning", "d")]
    assert [f.kind for f in worst_first(given)] == ["c", "b", "d", "a"]


def test_a_line_names_case_files_rule_and_remedy() -> None:
    assert as_lines([finding("error", "shape", "a", ("a.nii", "b.nii"))]) == [
        "error: case a: a.nii, b.nii: what of a; do [shape]"
    ]


def test_ten_cases_of_a_kind_have_a_line_each_and_eleven_one_together() -> None:
    alike = [finding("warning", "pieces", f"c{number}", (f"{number}.nii",)) for number in range(11)]
    others = [finding("warning", "affine", "x"), finding("note", "pieces", "y")]
    assert len(as_lines([*alike[:10], *others])) == 12
    assert as_lines([*alike, *others]) == [
        "warning: 11 cases (c0, c1, c2, c3, c4 and 6 more), for example case c0: 0.nii: what of c0; do [pieces]",
        "warning: case x: what of x; do [affine]",
        "note: case y: what of y; do [pieces]",
    ]


def test_findings_of_the_whole_data_set_are_never_put_together() -> None:
    assert len(as_lines([finding("warning", "absent-class")] * 12)) == 12


def test_the_count_names_every_severity() -> None:
    found = [finding("error", "a"), finding("note", "b"), finding("note", "c")]
    assert count_text(found) == "1 error, 0 warnings, 2 notes"
