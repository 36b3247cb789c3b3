from __future__ import annotations

import json

from benchmarks import page


def test_the_page_is_what_the_results_say() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), "run `python -m benchmarks.page`"


def test_a_missed_goal_is_called_so() -> None:
    assert page.Figure("w", "s", 2.0, 1.0, 2.0, 0.5).line() == "| w | s | 2 | 1 | 2.00 | 0.5, missed |"
    assert page.Figure("w", "s", 1.0, 4.0, 0.25, 0.5).line() == "| w | s | 1 | 4 | 0.25 | 0.5 |"


def test_a_scan_that_took_too_long_is_called_so() -> None:
    row = {"forward_ms": 2.0, "both_ms": 10.0, "over_ours": 1.0, "grown_mib": 3.0}
    machine = {"processor": "p", "num_cores": 2, "torch": "2", "mambapy": "1", "transformers": "5"}
    head = {"command": "c", "commit": "0" * 40, "machine": machine, "median_of": 3, "num_states": 16, "limit_s": 60.0}
    text = "\n".join(page.scan_section({**head, "sizes": {"1x8x4": {"ours": row, "loop": None}}}))
    assert "| 1x8x4 | ours | 2 | 10 | 1.00 | 3 |" in text
    assert "| 1x8x4 | loop | – | more than 60 s | – | – |" in text


def test_every_result_against_nnunet_stands_on_the_page() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    for path in page.RESULTS.glob("nnunet_*.json"):
        assert f"`{json.loads(path.read_text(encoding='utf-8'))['command']}`" in text, path.name
