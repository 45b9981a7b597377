"""Running a study: every run is one line of a JSONL file, and what is there is not run again."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from course_utils.evaluation import language_model_of, retention
from course_utils.files import write_bytes
from course_utils.methods import count_parameters
from course_utils.methods.dylora import set_rank
from course_utils.models import build_random_model, load_base_model, load_tokenizer
from course_utils.paths import data_dir, is_writable, state_dir
from course_utils.studies.alignment_tasks import ALIGNMENT_TASKS
from course_utils.studies.candidates import CANDIDATES
from course_utils.studies.definitions import Study
from course_utils.studies.length import Length, Looks, Plateau
from course_utils.studies.place import embedded_on
from course_utils.studies.records import Key, Records, header
from course_utils.studies.tasks import TASKS, WORD_TASKS, Row, Task
from course_utils.studies.tuning import TUNING_SEEDS, search, validation_of
from course_utils.training import RunResult, TrainingConfig, TrainingDivergedError, train
from course_utils.validation import check_choice, check_count

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEY = ("task", "method", "learning_rate", "seed", "n_examples")
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

    Raises:
        ValueError: If there are not so many examples; see also ``TrainingConfig``.
    """
    config = _config(task, learning_rate, seed, precision=precision, show_progress=show_progress)
    examples = _examples(task, tokenizer, seed, n_examples)
    return task.trainer(model, examples, config, loss_function=task.loss_function)


def fit(
    task: Task,
    method: str,
    learning_rate: float,
    seed: int,
    *,
    n_examples: int | None = None,
    length: Length = Length(),  # noqa: B008
    device: str = "cpu",
) -> Row:
    """Train once, score every split of the task, and ask what the model still knows.

    Args:
        task: What to train on.
        method: Name of the candidate.
        learning_rate: Peak rate.
        seed: Seed of the method's start, and of the choice and the order of the examples.
        n_examples: How many of them; None for all.
        length: How long to train.
        device: Where, ``cpu`` or ``cuda``.

    Returns:
        A row: what was run, trained parameters, steps, epochs, seconds, a score a split, and the
        recall and the perplexity of the country that are left; with looks, ``curve``, pairs of a
        step and the score on validation data. Of a run that diverged: when, and no score.

    Raises:
        ValueError: If there is no such method; see also :func:`tune`.
    """
    check_choice("method", method, CANDIDATES)
    candidate, tokenizer = CANDIDATES[method], load_tokenizer("embedded")
    torch.manual_seed(seed)
    load = load_base_model if candidate.is_pretrained else build_random_model
    head = {"num_labels": task.num_labels, "label_level": task.label_level}
    model = candidate.put_on(load(embedded_on(device), **head))
    what = {
        "task": task.name,
        "method": method,
        "learning_rate": learning_rate,
        "seed": seed,
        "n_examples": n_examples,
        "trained": count_parameters(model).trainable,
    }
    try:
        run = _train(task, model, learning_rate, seed, n_examples, length)
    except TrainingDivergedError as error:
        return what | {"validation": None, "diverged": str(error)}
    return {
        **what,
        **run,
        **score_row(task, model, ("validation", *task.test_splits)),
        **scores_by_rank(task, model, candidate.ranks),
        **(task.details(model, tokenizer) if task.details else {}),
    }


def _train(
    task: Task,
    model: torch.nn.Module,
    learning_rate: float,
    seed: int,
    n_examples: int | None,
    length: Length,
) -> Row:
    """Train, and return how long and how far."""
    tokenizer = load_tokenizer("embedded")
    config = _config(task, learning_rate, seed, length=length, show_progress=False)
    examples = _examples(task, tokenizer, seed, n_examples)
    n_tokens = sum(len(example["input_ids"]) for example in examples)
    if not length.looks:
        result = task.trainer(model, examples, config, loss_function=task.loss_function)
        return {
            "steps": config.max_steps,
            "epochs": round(result.tokens / n_tokens, 2),
            "seconds": round(result.seconds, 1),
            "train_loss": result.losses[-1],
        }
    start, rows = time.perf_counter(), list(task.load("validation"))[:N_SCORED]
    looks = Looks(length, config.max_steps, lambda model: task.score(model, tokenizer, rows))
    with suppress(Plateau):
        train(model, examples, config, loss_function=task.loss_function, on_step=looks)
    model.eval()
    steps = config.max_steps if length.patience is None else looks.restore(model)
    # Whole batches of an epoch; packed rows hold several texts, and are counted by their tokens.
    a_step = config.batch_size * (config.packing_length_tokens or n_tokens / len(examples))
    return {
        "steps": steps,
        "epochs": round(steps * a_step / n_tokens, 2),
        "seconds": round(time.perf_counter() - start, 1),
        "curve": looks.curve,
    }


def _examples(
    task: Task, tokenizer: "PreTrainedTokenizerBase", seed: int, n_examples: int | None
) -> list[dict]:
    rows = task.load(task.train_split).shuffle(seed=seed)
    check_count("n_examples", n_examples, at_most=len(rows), is_none_ok=True)
    return [task.encode(tokenizer, row) for row in rows.select(range(n_examples or len(rows)))]


def _config(
    task: Task,
    learning_rate: float,
    seed: int,
    *,
    length: Length = Length(),  # noqa: B008
    **options: Any,  # noqa: ANN401
) -> TrainingConfig:
    return TrainingConfig(
        max_steps=round(task.steps * length.times),
        learning_rate=learning_rate,
        batch_size=task.batch_size,
        final_ratio=length.final_ratio,
        seed=seed,
        packing_length_tokens=task.packing_length_tokens,
        **options,
    )


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
    """Return the scores of one DyLoRA model at each of its ranks, none for a method without.

    One training serves them all, so what its learning rate is chosen by, ``validation``, is the
    mean over the ranks.
    """
    if not ranks:
        return {}
    tokenizer = load_tokenizer("embedded")
    rows = {split: list(task.load(split))[:N_SCORED] for split in ("validation", "test")}
    scores = {
        split: {r: task.score(set_rank(model, r), tokenizer, some) for r in ranks}
        for split, some in rows.items()
    }
    by_rank = {f"test_at_rank_{r}": score for r, score in scores["test"].items()}
    return {"validation": fmean(scores["validation"].values()), **by_rank}


def base_row(task: Task, *, device: str = "cpu") -> Row:
    """Score the base model, untrained on the task: chance, where it has no head of its own."""
    torch.manual_seed(0)
    head = {"num_labels": task.num_labels, "label_level": task.label_level}
    model = load_base_model(embedded_on(device), **head)
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
    """Return the file of a study's results: the reader's, if there is one, or the course's."""
    own = state_dir() / "results" / f"{name}.jsonl"
    return own if own.is_file() else data_dir() / "results" / f"{name}.jsonl"


def path_to_record(name: str) -> Path:
    """Return the file that runs of a study are added to.

    Where the course's folder cannot be written to, as on a share, that is a copy in the user's own:
    asked for before the first run, so that no hour of work is lost at its end.

    Raises:
        OSError: If that folder cannot be written to either.
    """
    shipped = data_dir() / "results" / f"{name}.jsonl"
    if is_writable(shipped.parent):
        return shipped
    own = state_dir() / "results" / shipped.name
    if not own.exists():
        own.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(own, shipped.read_bytes() if shipped.is_file() else b"")
    return own


def load_results(name: str, *, command: str = "", key: tuple[str, ...] = KEY) -> list[Row]:
    """Return the runs of a recorded study.

    Args:
        name: Name of the study.
        command: What records it, if it is not ``python -m course_utils.studies NAME``.
        key: Names of the entries that tell one run from another.

    Raises:
        FileNotFoundError: If the study was not recorded.
    """
    path = results_path(name)
    if not path.is_file():
        raise FileNotFoundError(f"no results of {name!r}: run `{command or _command(name)}`")
    return Records(path, key).rows


def run_study(
    study: Study, on_run: Callable[[Row], None] | None = None, *, device: str = "cpu"
) -> list[Row]:
    """Run what is missing of a study, recording each run as it ends, and return all runs.

    Args:
        study: What to run.
        on_run: Called with each finished run.
        device: Where, ``cpu`` or ``cuda``.

    Raises:
        OSError: If a run cannot be recorded.
        ValueError: If there is no such task or method.
    """
    for task in study.tasks:
        check_choice("task", task, ALL_TASKS)
    for method in study.methods:
        check_choice("method", method, CANDIDATES)
    others = {_key(row): row for row in load_results(study.runs_from)} if study.runs_from else {}
    records = Records(path_to_record(study.name), KEY)
    records.take_up(header(study.name, study.seeds, command=_command(study.name), device=device))

    def once(task: str, method: str, size: int | None, rate: float, seed: int) -> Row:
        key = (task, method, rate, seed, size)

        def make() -> Row:
            if key in others:
                return others[key]
            if method == "base":
                return base_row(ALL_TASKS[task], device=device)
            options = {"n_examples": size, "length": study.length, "device": device}
            return fit(ALL_TASKS[task], method, rate, seed, **options)

        return records.once(key, make, on_run)

    for task in study.tasks:
        once(task, "base", None, 0.0, 0)
        for method, size in product(study.methods, study.sizes):
            run = partial(once, task, method, size)
            rate = search(CANDIDATES[method].rate, partial(_mean_validation, run))
            for seed in study.seeds:
                run(rate, seed)
    return records.rows


def _mean_validation(run: Callable[[float, int], Row], rate: float) -> float:
    return fmean(validation_of(run(rate, seed)) for seed in TUNING_SEEDS)


def _key(row: Row) -> Key:
    return tuple(row[name] for name in KEY)


def _command(name: str) -> str:
    return f"python -m course_utils.studies {name}"
