from __future__ import annotations

import pytest

from pipelines.reporting.verdict import listed
from pipelines.reporting.verdict import verdict as verdict_of
from tests.pipelines.reporting.small_report import GRAPH, SEGMENTATION


def verdict(ranking, comparison=SEGMENTATION):
    return verdict_of(ranking, comparison)


def row(entry, rank, score, behind=None, **more):
    bounds = (None, None) if score is None else (score - 0.01, score + 0.01)
    return {
        "rank": rank,
        "entry": entry,
        "score": score,
        "score_low": bounds[0],
        "score_high": bounds[1],
        "num_cases": 10,
        "num_patients": 5,
        "score_per_seed": {"0": score},
        "score_std_over_seeds": None,
        "behind_first": behind and dict(zip(("difference", "low", "high"), behind, strict=True)),
        "test": None,
    } | more


def test_the_lead_is_told_with_its_interval():
    assert verdict([row("a", 1, 0.9), row("b", 2, 0.8, (0.1, 0.05, 0.15))])[0] == (
        "a leads with a mean Dice of 0.900 (95 % interval 0.890 to 0.910) over 10 out-of-fold cases of 5 patients."
    )


def test_a_lead_with_all_differences_above_zero_is_unlikely_to_be_luck():
    ranking = [row("a", 1, 0.9), row("b", 2, 0.8, (0.1, 0.05, 0.15)), row("c", 3, 0.7, (0.2, 0.1, 0.3))]
    assert verdict(ranking)[1] == (
        "Its lead is unlikely to be the luck of these cases: the closest, b, is 0.100 behind case by case, "
        "95 % interval 0.050 to 0.150."
    )


def test_differences_that_reach_zero_settle_nothing():
    ranking = [row("a", 1, 0.9), row("b", 2, 0.89, (0.01, -0.02, 0.04)), row("c", 3, 0.5, (0.4, 0.3, 0.5))]
    assert verdict(ranking)[1] == (
        "That it is the best is not settled: b (0.010 behind case by case, 95 % interval −0.020 to 0.040) "
        "may be as good on other cases."
    )


def test_of_many_rivals_three_are_named():
    ranking = [row("a", 1, 0.9), *(row(f"r{rank}", rank, 0.89, (0.01, -0.02, 0.04)) for rank in range(2, 20))]
    assert " and 15 more may be as good on other cases." in verdict(ranking)[1]
    assert "r4" in verdict(ranking)[1]
    assert "r5" not in verdict(ranking)[1]


def test_one_entry_leads_nobody():
    assert verdict([row("a", 1, 0.9)]) == [
        "a is the only entry and has a mean Dice of 0.900 (95 % interval 0.890 to 0.910) "
        "over 10 out-of-fold cases of 5 patients."
    ]


@pytest.mark.parametrize(
    ("worse", "ending"),
    [
        ([], "every entry is better."),
        (["b"], "b is not better."),
        (["b", "c"], "b and c are not better."),
        (["b", "c", "d", "e"], "4 of 5 entries are not better."),
    ],
)
def test_entries_below_the_yardstick_are_told(worse, ending):
    ranking = [row("a", 1, 0.9), row("z", None, 0.6)]
    ranking += [row(name, rank, 0.5, (0.4, 0.3, 0.5)) for rank, name in enumerate(worse or [], start=2)]
    if not worse:
        ranking.append(row("b", 2, 0.8, (0.1, 0.05, 0.15)))
    yardstick = "The yardstick z, a classifier that sees one voxel's intensity and nothing else, has 0.600; "
    assert verdict(ranking)[-1] == yardstick + ending


def test_segmentation_takes_three_sentences_test_split_and_all():
    test = {"score": 0.7, "score_low": None, "score_high": None, "num_cases": 3}
    ranking = [row("a", 1, 0.9, test=test), row("b", 2, 0.8, (0.1, 0.05, 0.15)), row("z", None, 0.6)]
    sentences = verdict(ranking)
    assert len(sentences) == 3
    assert sentences[0].endswith("of 5 patients; on the 3 cases of the test split it has 0.700.")


def test_nodes_are_no_patients_and_seeds_have_a_spread():
    seeds = {"score_per_seed": {"0": 0.81, "1": 0.82}, "score_std_over_seeds": 0.007, "num_patients": 10}
    ranking = [row("gat", 1, 0.83, **seeds), row("gcn", 2, 0.81, (0.02, -0.01, 0.04))]
    first, second = verdict(ranking, GRAPH)
    assert first == (
        "gat leads with a mean accuracy of 0.830 (95 % interval 0.820 to 0.840) over 10 test nodes, "
        "with a standard deviation of 0.007 over 2 seeds."
    )
    assert second.endswith("may be as good on other nodes.")


@pytest.mark.parametrize("ranking", [[], [row("a", 1, None)], [row("intensity", None, 0.5)]])
def test_without_a_score_nothing_is_claimed(ranking):
    assert verdict(ranking) == ["No entry has a score yet."]


def test_where_nothing_can_be_compared_that_is_said():
    sentences = verdict([row("a", 1, 0.9), row("b", 2, 0.8, (None, None, None))])
    assert sentences[1] == "How sure its lead is cannot be said, because no case has a score of two entries."


def test_names_are_listed():
    assert [listed(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
