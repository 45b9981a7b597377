"""Ours against every library on the same work, in one table.

Run with `python -m tests.benchmarks`; it takes about 25 minutes on two quiet cores, which nothing
else should use meanwhile. The table is printed and written to data/results/benchmarks.json.
"""

import argparse
import json
import logging
import platform
import statistics
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import product

import torch

from course_utils.files import write_text
from course_utils.paths import data_dir
from tests.benchmarks import adapters, rlhf, soft_prompts, start, training
from tests.benchmarks.contest import ROUNDS, Part, compete, ratios_of

PARTS = [
    Part(name="full fine-tuning, real tokens/s", make=training.classification),
    Part(name="instruction tuning, real tokens/s", make=training.instructions),
    *(
        Part(
            name=f"{method} step, {shape}",
            make=lambda shape=shape, method=method: adapters.steps(shape, method),
            is_time=True,
        )
        for shape, method in product(adapters.SHAPES, adapters.METHODS)
    ),
    *(
        Part(
            name=f"{name} step, embedded",
            make=lambda name=name: soft_prompts.steps("embedded", name),
            is_time=True,
        )
        for name in soft_prompts.SOFT_PROMPTS
    ),
    Part(name="PPO, samples/s", make=rlhf.ppo),
    Part(name="GRPO, samples/s", make=rlhf.grpo),
    Part(name="greedy generation, tokens/s", make=lambda: rlhf.generation(do_sample=False)),
    Part(name="sampled generation, tokens/s", make=lambda: rlhf.generation(do_sample=True)),
    Part(name="share of the machine's matmul rate", make=training.matmul_share),
    Part(name="first cell of a chapter", make=start.first_cell, is_time=True),
]


def machine() -> dict[str, str | int]:
    """Say what was measured on, without saying where."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__.partition("+")[0],
        "python": platform.python_version(),
    }


def measure(part: Part, rounds: int) -> dict[str, object]:
    """Return the median speeds and the ratios of a part."""
    speeds = compete(part.make(), rounds)
    return {
        "name": part.name,
        "is_time": part.is_time,
        "rounds": rounds - 1,
        "speeds": {name: statistics.median(values) for name, values in speeds.items()},
        "ratios": [asdict(ratio) for ratio in ratios_of(speeds, is_time=part.is_time)],
    }


def lines_of(row: dict) -> Iterator[str]:
    """Yield a part's lines of the table."""
    yield row["name"]
    for name, speed in row["speeds"].items():
        yield f"  {name:34} {speed:16,.2f} a second"
    for r in row["ratios"]:
        what = "of the time of" if row["is_time"] else "times"
        interval = f"{r['median']:.2f} ({r['low']:.2f} to {r['high']:.2f})"
        yield f"  {r['ours']}: {interval} {what} {r['theirs']}"


def readme_rows(record: dict) -> Iterator[str]:
    """Yield the rows of the README's table: what, against whom, and the median ratio."""
    for part in record["parts"]:
        for r in part["ratios"]:
            what = "of its time" if part["is_time"] else "times"
            pair = f"{r['ours']} : {r['theirs']}"
            interval = f"{r['median']:.2f} ({r['low']:.2f} to {r['high']:.2f})"
            yield f"| {part['name']} | {pair} | {interval} {what} |"


def record_with(rows: list[dict]) -> dict:
    """Return the record with some parts measured anew, the others as they were."""
    path, parts = data_dir() / "results" / "benchmarks.json", {}
    if path.is_file():
        parts = {part["name"]: part for part in json.loads(path.read_text())["parts"]}
    parts |= {row["name"]: row for row in rows}
    ordered = [parts[part.name] for part in PARTS if part.name in parts]
    return {"machine": machine(), "parts": ordered}


def main() -> None:
    """Print the table and write it, part by part."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="the first one is not counted")
    parser.add_argument("--only", default="", help="parts whose name holds this")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    for part in PARTS:
        if options.only in part.name:
            row = measure(part, options.rounds)
            sys.stdout.write("\n".join(lines_of(row)) + "\n")
            sys.stdout.flush()
            record = json.dumps(record_with([row]), indent=1)
            write_text(data_dir() / "results" / "benchmarks.json", record + "\n")


if __name__ == "__main__":
    main()
