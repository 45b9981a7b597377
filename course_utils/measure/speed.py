"""Seconds a step, and tokens a second that are not padding."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor


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
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats={repeats} must be at least 1 and warmup={warmup} at least 0")
    for _ in range(warmup):
        step()
    return statistics.median(_seconds(step) for _ in range(repeats))


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
