"""What the recorded runs say of methods on a task: bands, what was forgotten, who is ahead.

All of it was measured on the embedded model of 4.7 million parameters: see ``CAVEAT``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean

from course_utils.intervals import WORSE, interval, paired_difference, verdicts
from course_utils.studies.choosing.options import Option
from course_utils.studies.definitions import STUDIES
from course_utils.studies.length import Length
from course_utils.studies.runner import ALL_TASKS, load_results
from course_utils.studies.tasks import Row
from course_utils.studies.tuning import best_runs

CAVEAT = (
    "Quality was recorded on this course's model of 4.7 million parameters and its invented "
    "country. There the head is a sixth of all parameters, and a rank is a larger share than in a "
    "large model, where methods may come in another order and score higher."
)
# Methods that were not told apart count as tied only if their means are as near as this share of
# the best one's gain over the base: few seeds must not make an erratic method an equal one.
TIE_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Band:
    """What a method reached on a task, over seeds.

    Args:
        metric: What is counted; higher is better.
        base: The base model's score.
        mean: Mean over seeds.
        low: Lower end of the 95 % interval of that mean (Student's t: it may leave the scale).
        high: Upper end of it.
        n_seeds: How many seeds.
        recorded_as: Whose runs these are; the method's own, or a stand-in's.
        recall_lost: Share of the country's facts that the model knew before and not after.
        scores: The score of each seed.
    """

    metric: str
    base: float
    mean: float
    low: float
    high: float
    n_seeds: int
    recorded_as: str
    recall_lost: float
    scores: dict[int, float]


def band_of(option: Option, task: str) -> Band | None:
    """Return what the records say of a method on a task; None if they say nothing."""
    for name in (option.name, *option.stand_ins):
        if runs := recorded_runs(task, name):
            (base,) = recorded_runs(task, "base")
            mean, low, high = interval([run["test"] for run in runs])
            return Band(
                metric=ALL_TASKS[task].metric,
                base=base["test"],
                mean=mean,
                low=low,
                high=high,
                n_seeds=len(runs),
                recorded_as=name,
                recall_lost=base["recall"] - fmean(run["recall"] for run in runs),
                scores={run["seed"]: run["test"] for run in runs},
            )
    return None


@cache
def _studies() -> dict[str, list[Row]]:
    """Return the rows of the studies whose runs are of the usual length, on all of the data."""
    usual = [s.name for s in STUDIES.values() if s.length == Length() and None in s.sizes]
    return {name: load_results(name) for name in usual}


@cache
def recorded_runs(task: str, name: str) -> Sequence[Row]:
    """Return a method's runs on a task from the study that has most seeds; none if none has any."""
    found = [best_runs(rows, task, name) for rows in _studies().values()]
    return tuple(max(found, key=len, default=()))


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where methods stand to the best of them.

    Args:
        best: The one with the highest mean.
        tied: Those that the records cannot separate from it, itself included.
        behind: Those that are worse.
        erratic: Those that were not told apart from it, but whose mean is far off.
    """

    best: str
    tied: tuple[str, ...]
    behind: tuple[str, ...]
    erratic: tuple[str, ...]


def compare(bands: dict[str, Band]) -> Standing | None:
    """Compare methods with the best of them, paired by seed, corrected for being several (Holm).

    Args:
        bands: What was recorded of each, on one task; each two of them share two seeds or more.
    """
    if not bands:
        return None
    best = max(bands, key=lambda name: bands[name].mean)
    found = verdicts(
        {
            name: paired_difference(*_of_common_seeds(band, bands[best]))
            for name, band in bands.items()
            if name != best
        }
    )
    reach = TIE_SHARE * (bands[best].mean - bands[best].base)
    undecided = [name for name, word in found.items() if word != WORSE]
    near = [name for name in undecided if bands[best].mean - bands[name].mean <= reach]
    return Standing(
        best=best,
        tied=(best, *near),
        behind=tuple(name for name, word in found.items() if word == WORSE),
        erratic=tuple(name for name in undecided if name not in near),
    )


def _of_common_seeds(first: Band, second: Band) -> tuple[list[float], list[float]]:
    seeds = sorted(first.scores.keys() & second.scores.keys())
    return [first.scores[seed] for seed in seeds], [second.scores[seed] for seed in seeds]
