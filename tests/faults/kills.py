"""Runs that are killed without warning, again and again, and must end in the same bits."""

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.children import counts_as_call, in_child
from tests.faults.scenes import RUNS

_MOST_KILLS = 3


@dataclass(frozen=True, kw_only=True)
class Unbroken:
    """A run that nobody disturbed.

    Args:
        run: Runs it in a folder.
        said: What it tells in the end.
        n_calls: Calls for files and folders.
        seconds: Time that it took.
    """

    run: Callable[[Path], str]
    said: str
    n_calls: int
    seconds: float


def unbroken(name: str, folder: Path) -> Unbroken:
    """Run once, in this process, so that its children have everything imported; then count."""
    run = RUNS[name]
    said = run(folder / f"{name}-whole")

    def counted() -> str:
        count = 0

        def hook(event: str, _: tuple) -> None:
            nonlocal count
            count += counts_as_call(event)

        sys.addaudithook(hook)
        start = time.perf_counter()
        again = run(folder / f"{name}-counted")
        return f"{again} {count} {time.perf_counter() - start}"

    ending = in_child(counted)
    again, n_calls, seconds = ending.said.split()
    if again != said:
        raise SystemExit(f"two runs of {name} are not alike: there is nothing to compare")
    return Unbroken(run=run, said=said, n_calls=int(n_calls), seconds=float(seconds))


def kill_and_resume(whole: Unbroken, folder: Path, rng: random.Random) -> tuple[int, str]:
    """Kill a run at random moments or calls, then let it end.

    Returns:
        How often it was killed, and what is wrong, which should be nothing.
    """
    kills, tries = 0, rng.randint(1, _MOST_KILLS)
    for _ in range(tries):
        if rng.random() < 0.5:
            when = {"kill_at_call": rng.randrange(whole.n_calls)}
        else:
            when = {"kill_after_seconds": max(1e-3, rng.random() * whole.seconds)}
        ending = in_child(lambda: whole.run(folder), **when)
        kills += ending.was_killed
        if not ending.was_killed and ending.said != whole.said:
            return kills, f"before it could be killed ({when}): {ending.said or ending}"
    ending = in_child(lambda: whole.run(folder))
    return kills, "" if ending.said == whole.said else ending.said or str(ending)
