"""Running a study: every run is one line of a JSONL file, and what is there is not run again."""

import json
import platform
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from course_utils.evaluation import language_model_of, retention
from course_utils.methods import count_parameters
from course_utils.methods.dylora import set_rank
from course_utils.models import build_random_model, load_base_model, load_tokenizer
from course_utils.paths import data_dir
from course_utils.studies.alignment_tasks import ALIGNMENT_TASKS
from course_utils.studies.candidates import CANDIDATES
from course_utils.studies.definitions import Study
from course_utils.studies.tasks import TASKS, WORD_TASKS, Row, Task
from course_utils.training import RunResult, TrainingConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ALL_TASKS = TASKS | WORD_TASKS | ALIGNMENT_TASKS
N_SCORED, N_RETENTION_FACTS, N_RETENTION_TEXTS = 300, 150, 20


def tune(
    model: torch.nn.Module,
    tokenizer: "PreTrainedTokenizerBase",
    task: Task,
    learning_rate: float,
    *,
    seed: int = 0,
    n_examples: int | None = None,
    precision: str = "float32",
    show_progress: bool = True,
) -> RunResult:
    """Train a model on a task as every study does, and return what the run did.

    Args:
        model: Model with a method applied, and the task's head if it has one.
        tokenizer: Its tokenizer.
        task: What to train on; it says for how many steps.
        learning_rate: Peak rate.
        seed: Seed of the choice and the order of the examples.
        n_examples: How many of them; None for all.
        precision: Compute type.
        show_progress: Whether to draw a progress bar.
    """
    rows = task.load(task.train_split).shuffle(seed=seed)
    rows = rows.select(range(n_examples or len(rows)))
    config = TrainingConfig(
        max_steps=task.steps,
        learning_rate=learning_rate,
        batch_size=task.batch_size,
        seed=seed,
        packing_length_tokens=task.packing_length_tokens,
        show_progress=show_progress,
        precision=precision,
    )
    examples = [task.encode(tokenizer, row) for row in rows]
    return task.trainer(model, examples, config, loss_function=task.loss_function)


def fit(
    task: Task, method: str, learning_rate: float, seed: int, *, n_examples: int | None = None
) -> Row:
    """Train once, score every split of the task, and ask what the model still knows.

    Returns:
        A row: what was run, trained parameters, seconds, a score a split, and the recall and the
        perplexity of the country that are left.
    """
    candidate, tokenizer = CANDIDATES[method], load_tokenizer("embedded")
    torch.manual_seed(seed)
    load = load_base_model if candidate.is_pretrained else build_random_model
    head = {"num_labels": task.num_labels, "label_level": task.label_level}
    model = candidate.put_on(load("embedded", **head))
    result = tune(
        model, tokenizer, task, learning_rate, seed=seed, n_examples=n_examples, show_progress=False
    )
    return {
        "task": task.name,
        "method": method,
        "learning_rate": learning_rate,
        "seed": seed,
        "n_examples": n_examples,
        "trained": count_parameters(model).trainable,
        "seconds": round(result.seconds, 1),
        "train_loss": result.losses[-1],
        **score_row(task, model, ("validation", *task.test_splits)),
        **scores_by_rank(task, model, candidate.ranks),
        **(task.details(model, tokenizer) if task.details else {}),
    }


def score_row(task: Task, model: torch.nn.Module, splits: Sequence[str]) -> Row:
    """Return a model's score on each split and what it retains of the country."""
    tokenizer = load_tokenizer("embedded")
    rows = {split: list(task.load(split))[:N_SCORED] for split in splits}
    scores = {split: task.score(model, tokenizer, some) for split, some in rows.items()}
    kept = retention(
        language_model_of(model), tokenizer, n_facts=N_RETENTION_FACTS, n_texts=N_RETENTION_TEXTS
    )
    return {**scores, "recall": kept.overall_recall, "perplexity": kept.perplexity}


def scores_by_rank(task: Task, model: torch.nn.Module, ranks: Sequence[int]) -> Row:
    """Return the score on ``test`` of one DyLoRA model at each of its ranks."""
    tokenizer = load_tokenizer("embedded")
    rows = list(task.load("test"))[:N_SCORED]
    return {f"test_at_rank_{r}": task.score(set_rank(model, r), tokenizer, rows) for r in ranks}


def base_row(task: Task) -> Row:
    """Score the base model, untrained on the task: chance, where it has no head of its own."""
    torch.manual_seed(0)
    model = load_base_model("embedded", num_labels=task.num_labels, label_level=task.label_level)
    return {
        "task": task.name,
        "method": "base",
        "learning_rate": 0.0,
        "seed": 0,
        "n_examples": None,
        "trained": 0,
        "seconds": 0.0,
        **score_row(task, model, ("validation", *task.test_splits)),
    }


def results_path(name: str) -> Path:
    """Return the file of a study's results."""
    return data_dir() / "results" / f"{name}.jsonl"


def load_results(name: str, *, command: str = "") -> list[Row]:
    """Return the runs of a recorded study; its first line says how it was made.

    Raises:
        FileNotFoundError: If the study was not recorded.
    """
    path = results_path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"no results of {name!r}: run `{command or f'python -m course_utils.studies {name}'}`"
        )
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]


def run_study(study: Study, on_run: Callable[[Row], None] | None = None) -> list[Row]:
    """Run what is missing of a study, appending each run to its file, and return all runs.

    Args:
        study: What to run.
        on_run: Called with each finished run.
    """
    path = results_path(study.name)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(header(study.name, study.seeds)) + "\n", encoding="utf-8")
    rows = load_results(study.name)
    others = load_results(study.rates_from) if study.rates_from else []

    def once(task: str, method: str, rate: float, seed: int, size: int | None) -> Row:
        key = (task, method, rate, seed, size)
        found = [r for r in rows if _key(r) == key]
        if found:
            return found[0]
        if elsewhere := [r for r in others if _key(r) == key]:
            row = elsewhere[0]
        elif method == "base":
            row = base_row(ALL_TASKS[task])
        else:
            row = fit(ALL_TASKS[task], method, rate, seed, n_examples=size)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        rows.append(row)
        if on_run:
            on_run(row)
        return row

    for task in study.tasks:
        once(task, "base", 0.0, 0, None)
        for method in study.methods:
            rate = _chosen_rate(study, task, method, once)
            for size, seed in _pairs(study):
                once(task, method, rate, seed, size)
    return rows


def _chosen_rate(study: Study, task: str, method: str, once: Callable[..., Row]) -> float:
    if study.rates_from:
        return best_runs(load_results(study.rates_from), task, method)[0]["learning_rate"]
    rates = CANDIDATES[method].rates
    tried = [once(task, method, rate, study.seeds[0], study.sizes[-1]) for rate in rates]
    return max(tried, key=lambda row: row["validation"])["learning_rate"]


def _pairs(study: Study) -> Iterator[tuple[int | None, int]]:
    return ((size, seed) for size in study.sizes for seed in study.seeds)


def best_runs(
    rows: Sequence[Row], task: str, method: str, *, n_examples: int | None = None
) -> list[Row]:
    """Return a method's runs, by seed, at the learning rate that was best on validation data."""
    runs = [r for r in rows if _key(r)[:2] == (task, method) and r["n_examples"] == n_examples]
    if not runs:
        return []
    first = [run for run in runs if run["seed"] == min(r["seed"] for r in runs)]
    best = max(first, key=lambda run: run["validation"])["learning_rate"]
    return sorted((r for r in runs if r["learning_rate"] == best), key=lambda r: r["seed"])


def _key(row: Row) -> tuple:
    names = ("task", "method", "learning_rate", "seed", "n_examples")
    return tuple(row[name] for name in names)


def header(name: str, seeds: Sequence[int], *, command: str = "") -> Row:
    """Return the first line of a study's file: how it was made."""
    packages = ("torch", "transformers", "peft", "accelerate", "trl")
    return {
        "study": name,
        "command": command or f"python -m course_utils.studies {name}",
        "seeds": seeds,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in packages},
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }
