from __future__ import annotations

import pytest

from pipelines.reporting.page import page, ranking_section, repeat_section, verdict


def row(entry, rank, dice, half_width: float | None = 0.01, **more):
    bounds = (None, None) if half_width is None or dice is None else (dice - half_width, dice + half_width)
    return {
        "rank": rank,
        "entry": entry,
        "dice": dice,
        "dice_low": bounds[0],
        "dice_high": bounds[1],
        "num_cases": 10,
        "num_patients": 5,
        "num_cases_left_out": 0,
        "classes": {},
        "test": None,
    } | more


def test_a_clear_lead_is_called_an_indication():
    first, second = verdict([row("a", 1, 0.9), row("b", 2, 0.8)])
    assert (
        first
        == "a leads with a mean Dice of 0.900 (95 % interval 0.890 to 0.910) over 10 out-of-fold cases of 5 patients."
    )
    assert second == "Its interval lies above that of every other entry, which is an indication and no test."


def test_overlapping_intervals_settle_nothing():
    sentences = verdict([row("a", 1, 0.90), row("b", 2, 0.89), row("c", 3, 0.885), row("d", 4, 0.5)])
    assert sentences[1].startswith("The intervals of b and c overlap with its own: the order among them is not settled")


def test_one_entry_leads_nobody():
    assert verdict([row("a", 1, 0.9)]) == [
        "a, the only entry with a score, reaches a mean Dice of 0.900 (95 % interval 0.890 to 0.910) "
        "over 10 out-of-fold cases of 5 patients."
    ]


def test_entries_below_the_reference_are_named():
    sentences = verdict([row("a", 1, 0.9), row("intensity", None, 0.6), row("b", 2, 0.5)])
    assert sentences[-1] == "The reference row intensity, which sees only intensity, has 0.600; b did not get above it."


def test_the_test_split_is_told_where_there_is_one():
    test = {"dice": 0.7, "dice_low": None, "dice_high": None, "num_cases": 3}
    assert verdict([row("a", 1, 0.9, test=test)])[-1] == "On the 3 cases of the test split a has 0.700."


@pytest.mark.parametrize("ranking", [[], [row("a", 1, None)], [row("intensity", None, 0.5)]])
def test_without_a_score_nothing_is_claimed(ranking):
    assert verdict(ranking) == ["No entry has an out-of-fold score yet."]


def test_a_missing_interval_is_admitted():
    sentences = verdict([row("a", 1, 0.9, half_width=None), row("b", 2, 0.8)])
    assert sentences[1] == "Not every entry has an interval, so how surely it leads is not known."


def test_names_are_escaped_everywhere():
    evil = "<script>"
    colours = {evil: "#000000"}
    section = ranking_section([row(evil, 1, 0.9, architecture=evil, num_cases_left_out=2)], colours)
    html = page(evil, [section, repeat_section(evil, {evil: evil, "more": {evil: evil}, "list": [evil]})])
    assert evil not in html
    assert html.count("&lt;script&gt;") >= 8


def test_a_reference_below_the_scale_is_not_drawn():
    section = ranking_section([row("a", 1, 0.9), row("intensity", None, 0.4)], {"a": "#111111", "intensity": "#222222"})
    assert section.count("<circle") == 1
    assert "0.85 – 0.95" in section
