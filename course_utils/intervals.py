"""When a difference may be believed: intervals, and the one rule by which two methods are compared.

Runs of two methods that share their seeds are compared seed by seed (``paired_difference``), runs
that share nothing by Welch's test (``welch_difference``), two single runs item by item of the test
set (``bootstrap_difference``). Each gives a ``Difference``, and ``verdict`` says what it is worth:
*better* or *worse*, *equal within* a margin that was stated before, or *cannot be told apart*,
which is not the same as equal. A table that asks several questions corrects for it
(``verdicts``).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TypeVar

from course_utils.validation import (
    check_as_many,
    check_count,
    check_number,
    plain_list,
)

# Beyond it, squares overflow.
LARGEST = 1e150
BETTER, WORSE, UNDECIDED = "better", "worse", "cannot be told apart"

Name = TypeVar("Name")
Runs = Sequence[float] | Mapping[int, float]


@dataclass(frozen=True)
class Difference:
    """By how much the first of two means is ahead, and how sure that is.

    Args:
        mean: Mean of the first, less that of the second.
        standard_error: Of ``mean``; zero where all pairs differ by the same.
        degrees: Degrees of freedom of Student's t; infinite for a bootstrap.
        p: Two-sided p-value of no difference.
        low: Lower end of the 95 % interval.
        high: Upper end of it.
    """

    mean: float
    standard_error: float
    degrees: float
    p: float
    low: float
    high: float

    def is_within(self, margin: float, level: float = 0.05) -> bool:
        """Return whether the difference is shown to be smaller than ``margin``, either way.

        Two one-sided t-tests at ``level`` (Schuirmann, 1987): both ends of the ``1 - 2 level``
        interval must lie within. That no difference was found does not show it.

        Args:
            margin: Largest difference that would not matter, stated before looking; above 0.
            level: Probability of calling equal what differs by the margin.
        """
        check_number("margin", margin, above=0)
        reach = _t_quantile(1 - level, self.degrees) * self.standard_error
        return abs(self.mean) + reach < margin


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of repeated runs and its 95 % confidence interval.

    ``mean -+ t(0.975, n - 1) * s / sqrt(n)``, with ``s`` the sample standard deviation (Student,
    1908): right when runs are independent and roughly normal, and wide for few runs, since ``t``
    is 4.30 at n=3 and 2.78 at n=5. A single run has no interval: the mean comes back three times.

    Args:
        values: One number a seed.

    Returns:
        Mean, lower end, upper end.

    Raises:
        ValueError: If ``values`` is empty or holds what is no finite number.
    """
    values = _checked("values", values)
    mean = fmean(values)
    if len(values) == 1:
        return mean, mean, mean
    half_width = _t_quantile(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return mean, mean - half_width, mean + half_width


def paired_difference(first: Runs, second: Runs) -> Difference:
    """Compare runs that share their seeds, and so their data and their order of examples.

    Student's t of the differences: what a seed does to both methods alike drops out.

    Args:
        first: One number a seed, in the same order as ``second``; or a mapping from seed to number.
        second: The other method's, of the same seeds.

    Raises:
        ValueError: If there are fewer than two pairs, if the seeds are not the same, or a number is
            not finite.
    """
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        if set(first) != set(second):
            raise ValueError(f"seeds {sorted(first)} and {sorted(second)} must be the same")
        second = [second[seed] for seed in first]
        first = list(first.values())
    first, second = _checked("first", first), _checked("second", second)
    check_as_many(first=first, second=second)
    gaps = [a - b for a, b in zip(first, second, strict=True)]
    _check_enough(len(gaps), len(gaps))
    return _by_t(fmean(gaps), stdev(gaps) / math.sqrt(len(gaps)), len(gaps) - 1)


def welch_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare runs that share nothing, by Welch's t (1947), with its degrees of freedom.

    Args:
        first: One number a run, at least two.
        second: One number a run, at least two.

    Raises:
        ValueError: If either has fewer than two values, or one that is not finite.
    """
    first, second = _checked("first", first), _checked("second", second)
    _check_enough(len(first), len(second))
    parts = [stdev(values) ** 2 / len(values) for values in (first, second)]
    below = sum(p**2 / (len(v) - 1) for p, v in zip(parts, (first, second), strict=True))
    degrees = sum(parts) ** 2 / below if below else len(first) + len(second) - 2
    return _by_t(fmean(first) - fmean(second), math.sqrt(sum(parts)), degrees)


def bootstrap_difference(
    first: Sequence[float], second: Sequence[float], *, draws: int = 10_000, seed: int = 0
) -> Difference:
    """Compare two single runs item by item of one test set, by a percentile bootstrap.

    It says how far the scores would move with other items of the same kind (Efron, 1979), and
    nothing of what another seed would do.

    Args:
        first: One score an item, such as 0 or 1.
        second: The other run's, of the same items.
        draws: Resampled test sets.
        seed: Of the resampling.

    Raises:
        ValueError: If there are fewer than two items, or not as many of each.
    """
    import numpy as np

    check_count("draws", draws, at_least=100)
    first, second = _checked("first", first), _checked("second", second)
    check_as_many(first=first, second=second)
    _check_enough(len(first), len(second))
    gaps = np.subtract(first, second)
    random = np.random.default_rng(seed)
    means = np.array([random.choice(gaps, len(gaps)).mean() for _ in range(draws)])
    low, high = np.quantile(means, (0.025, 0.975))
    tail = min((means <= 0).mean(), (means >= 0).mean())
    # The sample itself is one of the draws: no p of zero.
    p = min(1.0, 2 * (tail * draws + 1) / (draws + 1))
    return Difference(
        float(gaps.mean()), float(means.std()), math.inf, float(p), float(low), float(high)
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for being several (Holm, 1979), in the same order.

    The chance of one false alarm or more among all of them stays below the level that each
    corrected value is held against: the smallest is multiplied by their number, the next by one
    less, and none falls below one before it.
    """
    for i, p in enumerate(p_values):
        check_number(f"p_values[{i}]", p, at_least=0, at_most=1)
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def verdicts(
    differences: Mapping[Name, Difference], *, margin: float | None = None, level: float = 0.05
) -> dict[Name, str]:
    """Return what each difference of one table is worth, corrected for being several.

    ``better`` or ``worse`` where Holm's p is below ``level``. With a margin, ``equal within`` it
    comes first: a difference that was said not to matter does not matter more for being sure.
    Otherwise ``cannot be told apart``.

    Args:
        differences: By name.
        margin: Largest difference that does not matter, in the units of the scores.
        level: Probability of any false alarm in the table.
    """
    check_number("level", level, above=0, below=1)
    ps = holm([difference.p for difference in differences.values()])
    return {
        name: _verdict(difference, p, margin, level)
        for (name, difference), p in zip(differences.items(), ps, strict=True)
    }


def verdict(difference: Difference, *, margin: float | None = None, level: float = 0.05) -> str:
    """Return what the one difference of a comparison is worth; see ``verdicts``."""
    return verdicts({"": difference}, margin=margin, level=level)[""]


def can_tell_apart(first: Sequence[float], second: Sequence[float]) -> bool:
    """Return whether the means of runs that share nothing differ, by Welch's test at 5 %.

    Runs that share their seeds say more in pairs: see ``paired_difference``.

    Args:
        first: One number a run, at least two.
        second: One number a run, at least two.

    Raises:
        ValueError: If either has fewer than two values, or one that is not finite.
    """
    return verdict(welch_difference(first, second)) != UNDECIDED


def _verdict(difference: Difference, p: float, margin: float | None, level: float) -> str:
    if margin is not None and difference.is_within(margin, level):
        return f"equal within {margin:g}"
    if p < level:
        return BETTER if difference.mean > 0 else WORSE
    return UNDECIDED


def _by_t(mean: float, standard_error: float, degrees: float) -> Difference:
    from scipy.stats import t

    if standard_error == 0:
        p = 1.0 if mean == 0 else 0.0
    else:
        p = 2 * float(t.sf(abs(mean) / standard_error, degrees))
    reach = _t_quantile(0.975, degrees) * standard_error
    return Difference(mean, standard_error, degrees, p, mean - reach, mean + reach)


def _t_quantile(probability: float, degrees: float) -> float:
    from scipy.stats import norm, t

    return float(norm.ppf(probability) if math.isinf(degrees) else t.ppf(probability, degrees))


def _check_enough(n_first: int, n_second: int) -> None:
    if min(n_first, n_second) < 2:
        raise ValueError(
            f"runs over {n_first} and {n_second} seeds cannot be compared: each needs 2 or more"
        )


def _checked(name: str, values: Sequence[float]) -> list[float]:
    check_as_many(**{name: values})
    values = plain_list(values)
    for i, value in enumerate(values):
        check_number(f"{name}[{i}]", value, at_least=-LARGEST, at_most=LARGEST)
    return [float(value) for value in values]
