"""Ranks are shared where paired tests cannot tell neighbours apart, and seldom told apart by chance."""

from __future__ import annotations

import numpy as np
import pytest
from boarded import EVERY, first_right, published, record, with_outcomes
from scipy.stats import binomtest, ttest_1samp

from robustbench_med.measure.standing import standings
from robustbench_med.measure.statistics import MCNEMAR, PAIRED_T, Scored, paired_test
from robustbench_med.measure.ties import LEVEL, OVERLAP, Contest, ranked
from robustbench_med.reporting.leaderboard import row


def contest(count: int, samples: int = 200) -> Contest:
    made = with_outcomes(record(f"r{count}"), first_right(count, samples))
    stored = made["accuracy"][EVERY]["robust"]
    return Contest((stored["value"], stored["low"], stored["high"]), made)


def test_neighbours_that_differ_on_few_samples_share_a_rank() -> None:
    # 100 and 98 of 200 differ on two samples (p = 0.5); 98 and 60 on 38, all one way (p = 7e-12).
    found = ranked([contest(100), contest(98), contest(60)])
    assert found.ranks == (1, 1, 3)
    assert [found.shared(i) for i in range(3)] == [True, True, False]
    assert [step.test for step in found.steps] == [MCNEMAR, MCNEMAR]
    assert found.steps[0].p_value == pytest.approx(0.5)
    assert found.steps[1].p_value == pytest.approx(float(binomtest(38, 38).pvalue))
    assert found.tests == 2


def test_holm_corrects_for_as_many_tests_as_the_board_has() -> None:
    # Six samples, all one way: p = 0.03125, told apart alone, not as one of two.
    alone = ranked([contest(100), contest(94)])
    assert alone.ranks == (1, 2)
    both = ranked([contest(100), contest(94), contest(88)])
    assert both.ranks == (1, 1, 1)
    assert both.steps[0].corrected == pytest.approx(2 * 0.03125)
    # A strong difference elsewhere takes its place first: 0.03125 is then the last, times one.
    mixed = ranked([contest(100), contest(94), contest(40)])
    assert mixed.ranks == (1, 2, 3)


def test_without_outcomes_intervals_decide_and_that_is_said() -> None:
    rows = [Contest((0.5, 0.45, 0.55)), Contest((0.42, 0.37, 0.47)), Contest((0.2, 0.15, 0.25))]
    found = ranked(rows)
    assert found.ranks == (1, 1, 3)
    assert found.tests == 0
    assert {step.test for step in found.steps} == {OVERLAP}
    assert ranked([]).ranks == ()


def test_other_samples_are_no_pair() -> None:
    other = with_outcomes(record("other"), first_right(60))
    other["outcomes"]["ids"][0] = "somebody else"
    found = ranked([contest(100), Contest((0.3, 0.24, 0.37), other)])
    assert found.steps[0].test == OVERLAP


def test_paired_t_is_students_where_samples_are_independent() -> None:
    rng = np.random.default_rng(0)
    one, two = (Scored.mean(rng.random((5, 80)) < p, "element") for p in (0.6, 0.5))
    ids = [f"s{i}" for i in range(80)]
    p_value, test = paired_test(one, two, ids, np.zeros(80, np.int64))
    expected = ttest_1samp(one.values - two.values, 0).pvalue
    assert test == PAIRED_T
    assert p_value == pytest.approx(expected, rel=0.02)


def test_groups_say_less_than_as_many_samples() -> None:
    right = first_right(120), first_right(100)
    one, two = (Scored.mean(each, "none") for each in right)
    batches = np.zeros(200, np.int64)
    alone, test = paired_test(one, two, [f"s{i}" for i in range(200)], batches)
    assert test == MCNEMAR
    grouped, test = paired_test(one, two, [f"g{i // 20}" for i in range(200)], batches)
    assert test == PAIRED_T
    assert alone < 1e-4 < 0.3 < grouped  # one group of ten differs


@pytest.mark.parametrize(("first", "p_value"), [(200, 2 * 0.5**10), (0, 1.0)])
def test_differences_that_never_vary(first: int, p_value: float) -> None:
    one, two = (Scored.mean(first_right(n), "none") for n in (first, 0))
    groups = [f"g{i // 20}" for i in range(200)]
    assert paired_test(one, two, groups, np.zeros(200, np.int64))[0] == pytest.approx(p_value)


@pytest.mark.parametrize("nets", [2, 6])
@pytest.mark.parametrize("draws", [1, 3])
def test_equal_nets_are_seldom_told_apart(nets: int, draws: int) -> None:
    """On boards of equal nets, sorted by what chance made of them, at most one in twenty has two ranks."""
    rng, wrong, boards = np.random.default_rng(nets * draws), 0, 100
    for _ in range(boards):
        easy = rng.random(120) < 0.7  # nets agree on what is easy
        rights = [(rng.random((draws, 120)) < np.where(easy, 0.8, 0.2)) for _ in range(nets)]
        made = [with_outcomes(record(f"n{i}"), right) for i, right in enumerate(rights)]
        made.sort(key=lambda each: -each["accuracy"][EVERY]["robust"]["value"])
        rows = [
            Contest((e["value"], e["low"], e["high"]), each)
            for each, e in ((m, m["accuracy"][EVERY]["robust"]) for m in made)
        ]
        wrong += max(ranked(rows).ranks) > 1
    assert wrong <= LEVEL * boards + 2 * (boards * LEVEL * (1 - LEVEL)) ** 0.5


def test_every_published_run_stands_somewhere() -> None:
    records = {each["run"]: each for each in published()}
    found = standings([row(each) for each in records.values()], records)
    places = [place for board in found for place in board.places]
    assert {place.row["run"] for place in places} == set(records)
    assert len(places) == len(records)
    for place in places:
        verdict = records[place.row["run"]]["audit"]["verdict"]
        assert bool(place.rank) == (place.standing == "sound") == (not place.reason)
        if place.rank:
            assert verdict == "sound"
    assert {place.standing for place in places} >= {"sound", "unaudited"}


def test_a_lower_row_whatever_its_verdict_refutes_a_sound_one() -> None:
    sound, lower = (with_outcomes(record(run), first_right(n)) for run, n in (("r1", 100), ("r2", 90)))
    lower["model"], lower["audit"]["verdict"] = sound["model"], "unaudited"
    (board,) = standings([row(sound), row(lower)], {})
    assert [(p.row["run"], p.standing) for p in board.places] == [("r1", "refuted"), ("r2", "unaudited")]
    assert board.places[0].reason == "refuted: pgd leaves less"


def test_a_row_that_a_lower_one_replaces_stands_below() -> None:
    weak, strong = (with_outcomes(record(run), first_right(n)) for run, n in (("weak", 100), ("strong", 98)))
    strong["model"] = weak["model"]
    (board,) = standings([row(weak), row(strong)], {"weak": weak, "strong": strong})
    assert [(p.row["run"], p.rank, p.standing) for p in board.places] == [
        ("strong", 1, "sound"),
        ("weak", 0, "weaker"),
    ]


def test_somebodys_inputs_stand_below_with_what_they_refute() -> None:
    theirs = record("r2", "net", "refutes r1: inputs found by Jo")
    found = standings([row(theirs)], {})
    assert [(p.standing, p.reason) for p in found[0].places] == [
        ("refutes", "refutes r1: inputs found by Jo")
    ]
