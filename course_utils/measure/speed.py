"""Seconds a step, and tokens a second that are not padding."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from course_utils.validation import check_count, check_names


def count_tokens(batch: Mapping[str, Tensor]) -> int:
    """Return the tokens of a batch that are not padding.

    Args:
        batch: ``input_ids`` of shape (batch, seq) and, if any are padding, ``attention_mask``.
    """
    if "attention_mask" in batch:
        return int(batch["attention_mask"].sum())
    return batch["input_ids"].numel()


def step_time_seconds(step: Callable[[], object], *, repeats: int = 10, warmup: int = 3) -> float:
    """Return the median time of a call, after some that are not counted.

    The median does not move when another process delays one call. On CUDA, calls return before
    the work is done: the device is waited for before each reading of the clock.

    Args:
        step: What to time.
        repeats: Calls that count.
        warmup: Calls before them: caches fill, kernels are chosen.

    Raises:
        ValueError: If ``repeats`` is below 1 or ``warmup`` below 0.
    """
    check_count("repeats", repeats)
    check_count("warmup", warmup, at_least=0)
    for _ in range(warmup):
        step()
    return statistics.median(_seconds(step) for _ in range(repeats))


def paired_latency(
    models: Mapping[str, Callable[[], object]],
    rounds: int = 10,
    *,
    repeats: int = 1,
    warmup: int = 1,
) -> dict[str, list[float]]:
    """Return the seconds of each of several calls, round by round, taken in turns.

    A machine whose speed drifts treats calls alike that are timed next to each other: compare them
    within a round (:func:`paired_ratios`). Every other round goes through them backwards, so that
    none always comes first.

    Args:
        models: What to time, by name: calls without arguments.
        rounds: Rounds that count.
        repeats: Calls a turn, whose median counts.
        warmup: Rounds before those that count.

    Returns:
        For each name ``rounds`` numbers, those of one round at one place.

    Raises:
        ValueError: If there is nothing to time, or a number is out of range.
    """
    check_names("models", models.keys())
    check_count("rounds", rounds)
    check_count("warmup", warmup, at_least=0)
    names, seconds = list(models), {name: [] for name in models}
    for index in range(warmup + rounds):
        for name in names if index % 2 == 0 else reversed(names):
            taken = step_time_seconds(models[name], repeats=repeats, warmup=0)
            if index >= warmup:
                seconds[name].append(taken)
    return seconds


def paired_ratios(
    seconds: Mapping[str, Sequence[float]], base: str
) -> dict[str, tuple[float, float, float]]:
    """Return how many times as long as ``base`` each call takes: the median of the rounds' ratios.

    With its 95 % interval, whatever their distribution: from the k-th smallest ratio to the k-th
    largest, with the largest k for which fewer than k of n tosses of a coin come up heads in at
    most 2.5 % of cases (the sign test's interval). Below 6 rounds no k does; smallest and largest
    are given, and cover less: 75 % with 3 rounds.

    Args:
        seconds: What :func:`paired_latency` returns.
        base: Name of the call that the others are compared with.

    Returns:
        For every other name median, lower end and upper end.

    Raises:
        KeyError: If ``base`` was not timed.
    """
    from scipy.stats import binom

    ratios = {}
    for name in (name for name in seconds if name != base):
        values = sorted(a / b for a, b in zip(seconds[name], seconds[base], strict=True))
        k = max(1, int(binom.ppf(0.025, len(values), 0.5)))
        ratios[name] = (statistics.median(values), values[k - 1], values[-k])
    return ratios


def tokens_per_second(
    step: Callable[[], object],
    batch: Mapping[str, Tensor],
    *,
    repeats: int = 10,
    warmup: int = 3,
) -> float:
    """Return how many tokens a second ``step`` gets through, padding not counted.

    Padding costs time and teaches nothing: counting it makes a loop look faster the more it wastes.

    Args:
        step: Works off ``batch`` once.
        batch: As for :func:`count_tokens`.
        repeats: Calls that count.
        warmup: Calls before them.
    """
    return count_tokens(batch) / step_time_seconds(step, repeats=repeats, warmup=warmup)


def _seconds(step: Callable[[], object]) -> float:
    _wait_for_device()
    start = time.perf_counter()
    step()
    _wait_for_device()
    return time.perf_counter() - start


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
