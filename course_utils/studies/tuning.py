"""One rule for the learning rate of every method that is compared.

The search begins at the method's own rate, tries it and its two neighbours, a factor of three
away, each with the same seeds, and goes on past whichever end is best until the best lies inside.
So every method has at least one worse rate on either side, and none is judged at the edge of a
grid. What is compared is the mean over the seeds on validation data; test data have no say.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean

from course_utils.studies.records import Row

TUNING_SEEDS = (0, 1, 2)
LOWEST, HIGHEST = 1e-6, 10.0


def neighbour(rate: float, steps: int) -> float:
    """Return a rate so many places further in 1, 3, 10, 30, ... times a power of ten."""
    decade = math.floor(math.log10(rate) + 1e-9)
    place = 2 * decade + (rate / 10**decade > 2) + steps
    return float(f"{(1, 3)[place % 2]}e{place // 2}")


def best_rate(scores: dict[float, float]) -> float:
    """Return the rate of the highest score; of several that are equal, the one tried first."""
    return max(scores, key=scores.__getitem__)


def untried(start: float, scores: dict[float, float]) -> list[float]:
    """Return the learning rates that a search has to try next; none when it is at its end.

    Args:
        start: The first rate.
        scores: Mean score of every rate tried so far, higher is better; ``-inf`` if it diverged.
    """
    first = [start, neighbour(start, -1), neighbour(start, 1)]
    if missing := [rate for rate in first if rate not in scores]:
        return missing
    beyond = [neighbour(best_rate(scores), step) for step in (-1, 1)]
    return [rate for rate in beyond if rate not in scores and LOWEST <= rate <= HIGHEST]


def search(start: float, score: Callable[[float], float]) -> float:
    """Return the best learning rate, with a worse one tried on either side.

    Args:
        start: The first rate.
        score: Mean score of a rate on validation data, higher is better; ``-inf`` if it diverged.

    Returns:
        The rate; see ``best_rate``.
    """
    scores: dict[float, float] = {}
    while rates := untried(start, scores):
        scores |= {rate: score(rate) for rate in rates}
    return best_rate(scores)


def tried_rates(
    rows: Sequence[Row], task: str, method: str, *, n_examples: int | None = None
) -> dict[float, float]:
    """Return every learning rate that a study tried, and its mean score on validation data.

    The mean is over the seeds that all of the rates have; the order is that of the record, in which
    they were tried.

    Args:
        rows: The study's runs.
        task: Name of the task.
        method: Name of the method.
        n_examples: Size of the training set; None for all of it.
    """
    by_rate: dict[float, dict[int, float]] = defaultdict(dict)
    for row in rows:
        if (row["task"], row["method"], row["n_examples"]) == (task, method, n_examples):
            by_rate[row["learning_rate"]][row["seed"]] = validation_of(row)
    if not by_rate:
        return {}
    common = set.intersection(*(set(scores) for scores in by_rate.values()))
    return {
        rate: fmean(scores[seed] for seed in sorted(common)) if common else -math.inf
        for rate, scores in by_rate.items()
    }


def best_runs(
    rows: Sequence[Row], task: str, method: str, *, n_examples: int | None = None
) -> list[Row]:
    """Return a method's runs, by seed, at the learning rate that was best on validation data."""
    tried = tried_rates(rows, task, method, n_examples=n_examples)
    if not tried:
        return []
    best = best_rate(tried)
    key = (task, method, n_examples, best)
    names = ("task", "method", "n_examples", "learning_rate")
    runs = [row for row in rows if tuple(row[name] for name in names) == key]
    return sorted(runs, key=lambda row: row["seed"])


def is_at_edge(tried: dict[float, float]) -> bool:
    """Return whether the best of several rates is the lowest or the highest of them."""
    return best_rate(tried) in (min(tried), max(tried))


def validation_of(row: Row) -> float:
    """Return a run's score on validation data; that of a run that diverged is the worst."""
    score = row["validation"]
    return -math.inf if score is None or math.isnan(score) else score
