"""Kill runs, damage files: ``python -m tests.faults``, and with ``--full`` for an hour's worth.

Every run that is killed must end in the same bits as one that is not. Whatever is done to a
checkpoint or an adapter, what comes of it is the same result, or one clear sentence; no file that
is read runs code.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from tqdm import tqdm

from tests.faults.damages import try_damaged
from tests.faults.kills import kill_and_resume, unbroken
from tests.faults.scenes import METHODS, RUNS, read_adapter, written_adapter

SHORT = {"kills": 8, "damages": 30, "hostile": 10}
FULL = {"kills": 362, "damages": 1000, "hostile": 111}


def tell(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def kill(count: int, folder: Path, seed: int, *, show: bool) -> list[str]:
    """Kill runs; print the figures and return what is wrong."""
    wholes = [unbroken(name, folder) for name in RUNS]
    wrong, kills = [], 0
    for k in tqdm(range(count), "killed runs", leave=False, disable=not show):
        rng = random.Random(f"{seed}-kill-{k}")
        place = folder / f"killed-{k}"
        n, told = kill_and_resume(wholes[k % len(wholes)], place, rng)
        kills += n
        wrong += [f"killed run {k} ({list(RUNS)[k % len(RUNS)]}): {told}"] if told else []
        shutil.rmtree(place, ignore_errors=True)
    tell(f"{count - len(wrong)} of {count} runs, killed {kills} times, ended in the same bits")
    return wrong


def damage(count: int, folder: Path, seed: int, *, is_hostile: bool, show: bool) -> list[str]:
    """Damage files; print the figures and return what is wrong."""
    kind = "hostile" if is_hostile else "damaged"
    things = []
    for name, run in RUNS.items():
        run(folder / f"{kind}-{name}", stop_at=3)
        expected = run(folder / f"{kind}-{name}-whole")
        things.append((f"a run by {name}", folder / f"{kind}-{name}", run, [expected]))
    for name in METHODS:
        for seed_of, beside in ((1, name), (2, "other")):
            written_adapter(name, folder / f"{kind}-adapter-{name}" / beside, seed_of)
        own = folder / f"{kind}-adapter-{name}"
        expected = [read_adapter(own / name), read_adapter(own / "other")]
        things.append((name, own, lambda copy, name=name: read_adapter(copy / name), expected))
    verdicts: Counter[str] = Counter()
    wrong = []
    for k in tqdm(range(count), f"{kind} files", leave=False, disable=not show):
        rng = random.Random(f"{seed}-{kind}-{k}")
        name, whole, use, expected = things[k % len(things)]
        with tempfile.TemporaryDirectory(dir=folder) as place:
            verdict, told = try_damaged(
                whole, use, expected, Path(place), rng, is_hostile=is_hostile
            )
        verdicts[verdict] += 1
        wrong += [f"{kind} file {k} ({name}): {told}"] if verdict == "wrong" else []
    tell(
        f"{count - len(wrong)} of {count} {kind} files: {verdicts['refused']} refused in one "
        f"sentence, {verdicts['equal']} with the same result, "
        f"{sum('which ran' in text for text in wrong)} run"
    )
    return wrong


def main() -> int:
    """Do all of it, and return 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--full", action="store_true", help="as many as the README's figures")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is killed and damaged")
    options = parser.parse_args()
    torch.set_num_threads(1)
    numbers, seed, show = FULL if options.full else SHORT, options.seed, sys.stderr.isatty()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wrong = kill(numbers["kills"], folder, seed, show=show)
        wrong += damage(numbers["damages"], folder, seed, is_hostile=False, show=show)
        wrong += damage(numbers["hostile"], folder, seed, is_hostile=True, show=show)
    for line in wrong:
        tell(f"WRONG {line}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
