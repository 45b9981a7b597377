"""Means over seeds: confidence intervals, and when two methods can be told apart."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from course_utils.validation import check_as_many, check_number, plain_list

# Beyond it, squares overflow.
LARGEST = 1e150


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
    from scipy.stats import t

    values = _checked(values)
    mean = fmean(values)
    if len(values) == 1:
        return mean, mean, mean
    half_width = t.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return mean, float(mean - half_width), float(mean + half_width)


def can_tell_apart(first: Sequence[float], second: Sequence[float]) -> bool:
    """Return whether two methods' means differ by more than two standard errors.

    ``|mean_1 - mean_2| > 2 * sqrt(s_1^2 / n_1 + s_2^2 / n_2)`` (Welch's standard error). With three
    seeds each this is a lenient rule: read True as "worth a closer look".

    Args:
        first: One number a seed, at least two seeds.
        second: One number a seed, at least two seeds.

    Raises:
        ValueError: If either has fewer than two values, or one that is not finite.
    """
    first, second = _checked(first), _checked(second)
    if len(first) < 2 or len(second) < 2:
        raise ValueError(
            f"runs over {len(first)} and {len(second)} seeds cannot be compared: each needs 2 or "
            "more"
        )
    standard_error = math.sqrt(stdev(first) ** 2 / len(first) + stdev(second) ** 2 / len(second))
    return abs(fmean(first) - fmean(second)) > 2 * standard_error


def _checked(values: Sequence[float]) -> list[float]:
    check_as_many(values=values)
    values = plain_list(values)
    for i, value in enumerate(values):
        check_number(f"values[{i}]", value, at_least=-LARGEST, at_most=LARGEST)
    return [float(value) for value in values]
