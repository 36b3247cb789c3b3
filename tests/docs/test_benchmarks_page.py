from __future__ import annotations

import json

from benchmarks import page


def test_the_page_is_what_the_results_say() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), "run `python -m benchmarks.page`"


def test_a_missed_goal_is_called_so() -> None:
    assert page.Figure("w", "s", 2.0, 1.0, 2.0, 0.5).line() == "| w | s | 2 | 1 | 2.00 | 0.5, missed |"
    assert page.Figure("w", "s", 1.0, 4.0, 0.25, 0.5).line() == "| w | s | 1 | 4 | 0.25 | 0.5 |"


def test_every_result_against_nnunet_stands_on_the_page() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    for path in page.RESULTS.glob("nnunet_*.json"):
        assert f"`{json.loads(path.read_text(encoding='utf-8'))['command']}`" in text, path.name
