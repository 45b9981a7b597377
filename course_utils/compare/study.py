"""Runs of a study: each is one line of a JSONL file, and what is there is not run again.

The learning rate of each method is chosen on validation data (seed 0).
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from course_utils.compare.candidates import CANDIDATES
from course_utils.compare.tasks import TASKS, Row, Task
from course_utils.data import load_task
from course_utils.methods import count_parameters
from course_utils.models import build_random_model, load_base_model, load_tokenizer
from course_utils.training import TrainingConfig, train

SEEDS = (0, 1, 2)


def fit(task: Task, method: str, learning_rate: float, seed: int) -> Row:
    """Train once and score every split of the task.

    Returns:
        A row: task, method, learning rate, seed, trained parameters, seconds, and a score a split.
    """
    candidate = CANDIDATES[method]
    tokenizer = load_tokenizer("embedded")
    torch.manual_seed(seed)
    load = load_base_model if candidate.is_pretrained else build_random_model
    model = candidate.put_on(load("embedded", num_labels=task.num_labels))
    examples = [task.encode(tokenizer, row) for row in load_task(task.name, "train")]
    config = TrainingConfig(
        max_steps=task.steps, learning_rate=learning_rate, batch_size=task.batch_size, seed=seed,
        packing_length_tokens=task.packing_length_tokens, show_progress=False,
    )  # fmt: skip
    result = train(model, examples, config, loss_function=task.loss_function)
    scores = {
        split: task.score(model, tokenizer, list(load_task(task.name, split)))
        for split in ("validation", *task.test_splits)
    }
    return {
        "task": task.name, "method": method, "learning_rate": learning_rate, "seed": seed,
        "trained": count_parameters(model).trainable, "seconds": round(result.seconds, 1), **scores,
    }  # fmt: skip


def base_scores(task: Task) -> Row:
    """Score the base model, untrained on the task: chance, where it has no head of its own."""
    tokenizer = load_tokenizer("embedded")
    torch.manual_seed(0)
    model = load_base_model("embedded", num_labels=task.num_labels)
    scores = {
        s: task.score(model, tokenizer, list(load_task(task.name, s))) for s in task.test_splits
    }
    return {"task": task.name, "method": "base", "learning_rate": 0.0, "seed": 0, "trained": 0,
            "seconds": 0.0, "validation": 0.0, **scores}  # fmt: skip


def compare(tasks: Sequence[str], methods: Sequence[str], results: Path) -> list[Row]:
    """Run what is missing of the study and return all its rows.

    Args:
        tasks: Names of tasks.
        methods: Names of methods.
        results: JSONL file that every finished run is appended to.
    """
    rows = (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )
    done = {(r["task"], r["method"], r["learning_rate"], r["seed"]): r for r in rows}

    def once(key: tuple, make: Callable[[], Row]) -> Row:
        if key not in done:
            done[key] = make()
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[key]) + "\n")
        return done[key]

    for name in tasks:
        task = TASKS[name]
        once((name, "base", 0.0, 0), lambda task=task: base_scores(task))
        for method in methods:
            tried = [
                once((name, method, rate, 0), lambda rate=rate: fit(task, method, rate, 0))  # noqa: B023
                for rate in CANDIDATES[method].rates
            ]
            best = max(tried, key=lambda row: row["validation"])["learning_rate"]
            for seed in SEEDS[1:]:
                once((name, method, best, seed), lambda seed=seed: fit(task, method, best, seed))  # noqa: B023
    return list(done.values())


def best_runs(rows: Sequence[Row], task: str, method: str) -> list[Row]:
    """Return a method's runs at the learning rate that was best on validation data."""
    runs = [row for row in rows if row["task"] == task and row["method"] == method]
    if not runs:
        return []
    best = max((r for r in runs if r["seed"] == 0), key=lambda r: r["validation"])["learning_rate"]
    return sorted((r for r in runs if r["learning_rate"] == best), key=lambda r: r["seed"])
