"""Taking turns, and what the turns say: a median of paired ratios, and its interval."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

# What each contestant does, and its units a second when it is called.
Contest = dict[str, Callable[[], float]]
ROUNDS, RESAMPLES = 9, 2000


@dataclass(frozen=True, kw_only=True)
class Part:
    """Something that is done by ours and by theirs, on the same work.

    Args:
        name: What is done, and in which unit.
        make: Makes the contestants; the names of ours begin with "ours".
        is_time: Whether a ratio is one of times, ours over theirs, and not of speeds.
    """

    name: str
    make: Callable[[], Contest]
    is_time: bool = False


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times as fast ours is, or as long it takes: median and 95 % interval."""

    ours: str
    theirs: str
    median: float
    low: float
    high: float


def compete(contest: Contest, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Let the contestants take turns; return each one's speeds, without the first round.

    Every other round goes through them backwards, so that none always comes first.
    """
    speeds: dict[str, list[float]] = {name: [] for name in contest}
    for index in range(rounds):
        for name in contest if index % 2 == 0 else reversed(contest):
            speeds[name].append(contest[name]())
    return {name: values[1:] for name, values in speeds.items()}


def ratios_of(speeds: dict[str, list[float]], *, is_time: bool = False) -> Iterator[Ratio]:
    """Yield how each of ours compares with each of theirs, round by round."""
    ours = [name for name in speeds if name.startswith("ours")]
    for mine, other in product(ours, [name for name in speeds if name not in ours]):
        pairs = zip(speeds[mine], speeds[other], strict=True)
        values = [b / a if is_time else a / b for a, b in pairs]
        low, high = bootstrap(values)
        median = statistics.median(values)
        yield Ratio(ours=mine, theirs=other, median=median, low=low, high=high)


def bootstrap(values: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of a median by resampling (Efron, 1979), from a fixed seed."""
    rng = np.random.default_rng(0)
    samples = rng.choice(values, size=(RESAMPLES, len(values)))
    low, high = np.quantile(np.median(samples, axis=1), [0.025, 0.975])
    return float(low), float(high)
