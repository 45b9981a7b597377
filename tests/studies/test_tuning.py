"""The search for a learning rate: fair to every method, never at an edge."""

import math

import pytest

from course_utils.studies.tuning import (
    TUNING_SEEDS,
    best_rate,
    best_runs,
    is_at_edge,
    neighbour,
    search,
    tried_rates,
)


def row(rate: float, seed: int, validation: float | None, test: float = 0.5) -> dict:
    what = {"task": "topics", "method": "full", "n_examples": None}
    return what | {"learning_rate": rate, "seed": seed, "validation": validation, "test": test}


def test_rates_go_in_thirds_of_a_decade():
    rates = [neighbour(1e-3, step) for step in range(-3, 4)]
    assert rates == [3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]
    assert [neighbour(3e-2, step) for step in (-1, 1)] == [1e-2, 1e-1]
    assert neighbour(1.0, 1) == 3.0


@pytest.mark.parametrize("best", [1e-4, 3e-4, 1e-3, 3e-3, 1e-1])
def test_the_best_has_a_worse_rate_on_either_side(best: float):
    tried = {}

    def score(rate: float) -> float:
        tried[rate] = -abs(math.log(rate / best))
        return tried[rate]

    assert search(1e-3, score) == best
    assert {neighbour(best, -1), neighbour(best, 1)} <= set(tried)
    assert not is_at_edge(tried)


def test_beyond_divergence_nothing_is_tried():
    tried = []

    def score(rate: float) -> float:
        tried.append(rate)
        return rate if rate < 0.05 else -math.inf

    assert search(1e-2, score) == 3e-2
    assert max(tried) == 1e-1


def test_a_method_that_learns_nothing_is_not_searched_for_ever():
    tried = []
    assert search(1e-3, lambda rate: tried.append(rate) or 0.0) == 1e-3
    assert len(tried) == 3


def test_a_search_ends_where_rates_do():
    assert search(1e-3, lambda rate: rate) == 10.0
    assert search(1e-3, lambda rate: -rate) == 1e-6


def test_of_equal_rates_the_one_tried_first():
    assert best_rate({3.0: 0.9, 1.0: 0.5, 10.0: 0.9}) == 3.0
    assert is_at_edge({1.0: 0.5, 3.0: 0.9})
    assert not is_at_edge({3.0: 0.9, 1.0: 0.5, 10.0: 0.9})


def test_rates_are_compared_on_the_seeds_that_all_of_them_have():
    rows = [row(1e-3, seed, v) for seed, v in enumerate((0.5, 0.7, 0.6, 0.0, 0.0))]
    rows += [row(3e-3, seed, v) for seed, v in enumerate((0.9, 0.1, 0.2))]
    rows += [row(1e-4, seed, 0.1) for seed in TUNING_SEEDS]
    tried = tried_rates(rows, "topics", "full")
    assert tried == pytest.approx({1e-4: 0.1, 1e-3: 0.6, 3e-3: 0.4})
    assert [run["seed"] for run in best_runs(rows, "topics", "full")] == [0, 1, 2, 3, 4]
    assert tried_rates(rows, "topics", "head") == {}


def test_the_rate_is_chosen_on_validation_and_not_on_test():
    rows = [
        row(1e-4, 0, 0.7, test=0.9),
        row(1e-3, 0, 0.8, test=0.6),
        row(1e-3, 1, 0.9, test=0.65),
        row(1e-2, 0, None, test=1.0),
    ]
    assert [run["test"] for run in best_runs(rows, "topics", "full")] == [0.6, 0.65]
    assert best_runs(rows, "topics", "head") == []
