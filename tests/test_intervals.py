"""The rule by which methods are compared: against scipy, and by how often it is wrong."""

import math

import numpy as np
import pytest
from scipy import stats

from course_utils.intervals import (
    BETTER,
    UNDECIDED,
    WORSE,
    bootstrap_difference,
    can_tell_apart,
    holm,
    interval,
    paired_difference,
    verdict,
    verdicts,
    welch_difference,
)

N_TABLES = 2000
# The seed's own effect is ten times what a method does beside it: pairing must take it out.
SHARED, OWN = 1.0, 0.1


def tables(n_seeds: int, effect: float = 0.0) -> list[tuple[list[float], list[float]]]:
    random = np.random.default_rng(n_seeds)
    shared = random.normal(0, SHARED, (N_TABLES, 1, n_seeds))
    runs = shared + random.normal(0, OWN, (N_TABLES, 2, n_seeds))
    runs[:, 0] += effect
    return [(first.tolist(), second.tolist()) for first, second in runs]


def share(found: list[bool]) -> float:
    return sum(found) / len(found)


@pytest.mark.parametrize("n_seeds", [3, 5, 10])
def test_one_table_in_twenty_is_a_false_alarm(n_seeds: int):
    alarms = share([verdict(paired_difference(*t)) != UNDECIDED for t in tables(n_seeds)])
    assert alarms == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / N_TABLES))


@pytest.mark.parametrize("n_seeds", [3, 5, 10])
def test_welch_gives_no_more_false_alarms_than_it_says(n_seeds: int):
    random = np.random.default_rng(1)
    runs = random.normal(0, [[1.0], [2.0]], (N_TABLES, 2, n_seeds)).tolist()
    assert share([verdict(welch_difference(*pair)) != UNDECIDED for pair in runs]) < 0.07


@pytest.mark.parametrize("n_seeds", [3, 5, 10])
def test_what_differs_by_the_margin_is_seldom_called_equal(n_seeds: int):
    apart = tables(n_seeds, effect=0.2)
    wrong = share([paired_difference(*t).is_within(0.2) for t in apart])
    assert wrong == pytest.approx(0.05, abs=0.02)


def test_pairs_see_what_the_seed_hides():
    pairs = tables(5, effect=0.3)
    seen = share([verdict(paired_difference(*t)) == BETTER for t in pairs])
    assert seen > 0.8
    assert share([verdict(welch_difference(*t)) == BETTER for t in pairs]) < 0.1


def test_several_questions_of_a_table_raise_one_alarm_in_twenty():
    rows = tables(5)
    some = [rows[i : i + 8] for i in range(0, N_TABLES, 8)]
    alarms = [
        set(verdicts({str(i): paired_difference(*t) for i, t in enumerate(table)}).values())
        != {UNDECIDED}
        for table in some
    ]
    assert share(alarms) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(some))


def test_a_bootstrap_over_items_gives_one_false_alarm_in_twenty():
    random = np.random.default_rng(0)
    answers = random.binomial(1, 0.7, (400, 2, 200)).tolist()
    found = [bootstrap_difference(*pair, draws=400) for pair in answers]
    assert share([verdict(d) != UNDECIDED for d in found]) == pytest.approx(0.05, abs=0.035)
    assert all(d.low <= d.mean <= d.high for d in found)


def test_the_numbers_are_scipy_s():
    first, second = [1.0, 2.5, 3.0, 4.4], [0.5, 2.0, 3.1, 3.0]
    paired, welch = paired_difference(first, second), welch_difference(first, second)
    expected = stats.ttest_rel(first, second)
    assert paired.p == pytest.approx(expected.pvalue)
    assert (paired.low, paired.high) == pytest.approx(tuple(expected.confidence_interval()))
    expected = stats.ttest_ind(first, second, equal_var=False)
    assert welch.p == pytest.approx(expected.pvalue)
    assert welch.degrees == pytest.approx(expected.df)
    assert (welch.low, welch.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert (paired.mean, welch.mean) == pytest.approx((0.575, 0.575))


def test_holm_s_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_verdicts():
    ahead = paired_difference([1.0, 1.1, 1.2, 1.3], [0.5, 0.61, 0.69, 0.81])
    assert verdict(ahead) == BETTER
    behind = paired_difference([0.5, 0.61, 0.69, 0.81], [1.0, 1.1, 1.2, 1.3])
    assert verdict(behind) == WORSE
    assert verdict(ahead, margin=0.6) == "equal within 0.6"
    assert verdict(ahead, margin=0.4) == BETTER
    wide = paired_difference([1.0, 2.0], [1.5, 1.2])
    assert verdict(wide) == verdict(wide, margin=0.1) == UNDECIDED
    same = paired_difference([1.0, 2.0], [1.0, 2.0])
    assert (same.p, verdict(same), verdict(same, margin=0.01)) == (
        1.0,
        UNDECIDED,
        "equal within 0.01",
    )
    assert paired_difference([2.0, 3.0], [1.0, 2.0]).p == 0.0


def test_runs_that_share_nothing():
    assert can_tell_apart([1.0, 1.1, 0.9], [2.0, 2.1, 1.9])
    # 2.3 standard errors apart: the old rule's false alarm.
    assert not can_tell_apart([1.0, 1.1, 0.9], [1.19, 1.29, 1.09])
    assert not can_tell_apart([1.0, 1.4, 0.6], [1.1, 1.5, 0.7])


def test_seeds_are_paired_by_name():
    first, second = {0: 1.0, 1: 2.0, 2: 3.5}, {2: 3.0, 0: 0.9, 1: 1.8}
    by_name = paired_difference(first, second)
    assert by_name == paired_difference([1.0, 2.0, 3.5], [0.9, 1.8, 3.0])
    with pytest.raises(ValueError, match=r"seeds \[0, 1, 2\] and \[0, 1\] must be the same"):
        paired_difference(first, {0: 1.0, 1: 2.0})


def test_the_interval_is_student_s():
    """t(0.975, 2) = 4.303: values 1, 2, 3 have mean 2 and half width 4.303 / sqrt(3)."""
    mean, low, high = interval([1.0, 2.0, 3.0])
    assert (mean, low, high) == pytest.approx((2.0, 2 - 2.4841, 2 + 2.4841), abs=1e-3)
    assert interval([5.0]) == (5.0, 5.0, 5.0)
    with pytest.raises(ValueError, match="no values"):
        interval([])


@pytest.mark.parametrize("compare", [paired_difference, welch_difference, bootstrap_difference])
def test_one_run_cannot_be_compared(compare):
    with pytest.raises(ValueError, match="1 and 1 seeds cannot be compared"):
        compare([1.0], [2.0])
    with pytest.raises(ValueError, match=r"second\[1\]=nan"):
        compare([1.0, 2.0], [1.0, math.nan])


@pytest.mark.parametrize("compare", [paired_difference, bootstrap_difference])
def test_pairs_must_be_as_many(compare):
    with pytest.raises(ValueError, match="2 first and 3 second must be as many"):
        compare([1.0, 2.0], [1.0, 2.0, 3.0])


def test_a_margin_is_above_zero():
    with pytest.raises(ValueError, match="margin=0"):
        paired_difference([1.0, 2.0], [1.0, 2.5]).is_within(0)
