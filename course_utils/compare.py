"""Fit tasks with methods over seeds, and tabulate what each reaches: ``python -m course_utils.compare``.

Every run is one line of a JSONL file; runs that are there are not run again, so that a study can
be stopped and taken up. The learning rate of each method is chosen on validation data (seed 0).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from torch import Tensor, nn

from course_utils.data import encode_answer, encode_label, encode_text, load_task, pad_examples
from course_utils.evaluation import accuracy, greedy_matches, perplexity
from course_utils.intervals import can_tell_apart
from course_utils.methods import apply, count_parameters
from course_utils.methods.frozen import FrozenFineTuning, FullFineTuning
from course_utils.models import build_random_model, load_base_model, load_tokenizer
from course_utils.paths import data_dir
from course_utils.training import TrainingConfig, train

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Row = dict[str, Any]
SEEDS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A method and the learning rates it is tried with.

    Args:
        put_on: Puts the method on a freshly loaded model and returns the model to train.
        rates: Learning rates, tried on validation data.
        is_pretrained: Whether the model starts from the pretrained weights.
    """

    put_on: Callable[[nn.Module], nn.Module]
    rates: tuple[float, ...]
    is_pretrained: bool = True


def _lora(rank: int) -> Candidate:
    def put_on(model: nn.Module) -> nn.Module:
        from peft import LoraConfig, get_peft_model

        saved = ["score"] if hasattr(model, "score") else None
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear",
                            exclude_modules=["score"], modules_to_save=saved)  # fmt: skip
        return get_peft_model(model, config)

    return Candidate(put_on=put_on, rates=(1e-3, 3e-3, 1e-2))


def _frozen(rates: tuple[float, ...], **options: Any) -> Candidate:  # noqa: ANN401
    def put_on(model: nn.Module) -> nn.Module:
        # A classifier's head is new and always trains; a language model's is the embedding's twin.
        is_classifier = hasattr(model, "score")
        config = {"train_head": is_classifier} | options
        return apply(model, FrozenFineTuning(**config))

    return Candidate(put_on=put_on, rates=rates)


def _full(rates: tuple[float, ...], *, is_pretrained: bool) -> Candidate:
    return Candidate(put_on=lambda model: apply(model, FullFineTuning()), rates=rates,
                     is_pretrained=is_pretrained)  # fmt: skip


CANDIDATES = {
    "random_init": _full((3e-4, 1e-3, 3e-3), is_pretrained=False),
    "head": _frozen((3e-3, 1e-2, 3e-2), train_head=True),
    "norms": _frozen((3e-3, 1e-2, 3e-2), train_norms=True),
    "last_layers": _frozen((3e-4, 1e-3, 3e-3), last_n_layers=2),
    "lora_r1": _lora(1),
    "lora_r4": _lora(4),
    "lora_r16": _lora(16),
    "full": _full((1e-4, 3e-4, 1e-3), is_pretrained=True),
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task set, how it is trained on and how its splits are scored.

    Args:
        name: Name of the task set.
        metric: What the score is.
        encode: Turns a row into an example.
        score: Scores a model on rows; higher is better.
        test_splits: Splits that are reported.
        steps: Optimizer steps of a run.
        batch_size: Examples a step.
        num_labels: Outputs of the classification head; None for a language model.
        packing_length_tokens: Length of packed rows; None pads.
    """

    name: str
    metric: str
    encode: Callable[["PreTrainedTokenizerBase", Row], dict]
    score: Callable[["PreTrainedModel", "PreTrainedTokenizerBase", list[Row]], float]
    test_splits: tuple[str, ...]
    steps: int
    batch_size: int = 16
    num_labels: int | None = None
    packing_length_tokens: int | None = None


def _encode_labelled(tokenizer: "PreTrainedTokenizerBase", row: Row) -> dict:
    return encode_label(tokenizer, row["text"], row["label"])


def _score_accuracy(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: list[Row]
) -> float:
    return accuracy(model, [_encode_labelled(tokenizer, row) for row in rows])


def _encode_document(tokenizer: "PreTrainedTokenizerBase", row: Row) -> dict:
    return encode_text(tokenizer, row["text"])


def _score_negative_loss(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: list[Row]
) -> float:
    import math

    return -math.log(perplexity(model, tokenizer, [row["text"] for row in rows]))


def _score_recall(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: list[Row]
) -> float:
    return _share(greedy_matches(
        model, tokenizer, [r["prompt"] for r in rows], [r["answer"] for r in rows]
    ))  # fmt: skip


def chat_prompt(tokenizer: "PreTrainedTokenizerBase", row: Row) -> str:
    """Return the user's turn of an instruction in the chat format, without the begin token."""
    content = f"{row['instruction']}\n{row['input']}".strip()
    text = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False,
                                         add_generation_prompt=True)  # fmt: skip
    return text.removeprefix(tokenizer.bos_token or "")


def _encode_instruction(tokenizer: "PreTrainedTokenizerBase", row: Row) -> dict:
    return encode_answer(tokenizer, chat_prompt(tokenizer, row), row["output"])


def _score_exact(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: list[Row]
) -> float:
    prompts = [chat_prompt(tokenizer, row) for row in rows]
    return _share(greedy_matches(model, tokenizer, prompts, [r["output"] for r in rows], with_end=True))


def _encode_pair(tokenizer: "PreTrainedTokenizerBase", row: Row) -> dict:
    chosen, rejected = (
        encode_label(tokenizer, f"Question: {row['prompt']}\nAnswer: {row[name]}", 0)["input_ids"]
        for name in ("chosen", "rejected")
    )
    # The pair travels as one example: chosen, then rejected, split again by the loss.
    return {"input_ids": chosen + rejected, "labels": len(chosen)}


def _pair_batch(batch: dict[str, Tensor], pad_token_id: int) -> dict[str, Tensor]:
    """Undo the joining of chosen and rejected: (batch, ...) to (2 batch, ...), chosen first."""
    parts: tuple[list, list] = ([], [])
    for ids, mask, border in zip(
        batch["input_ids"], batch["attention_mask"], batch["labels"].tolist(), strict=True
    ):
        real = ids[mask.bool()].tolist()
        parts[0].append({"input_ids": real[:border], "labels": 0})
        parts[1].append({"input_ids": real[border:], "labels": 0})
    joined = pad_examples(parts[0] + parts[1], pad_token_id)
    return {name: joined[name].to(batch["input_ids"].device) for name in ("input_ids", "attention_mask")}


def _pair_scores(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    scores = model(**_pair_batch(batch, model.config.pad_token_id)).logits[:, 0]
    return scores.chunk(2)


def pair_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the Bradley-Terry loss, -log sigmoid(chosen - rejected), of a batch of pairs."""
    chosen, rejected = _pair_scores(model, batch)
    return -nn.functional.logsigmoid(chosen - rejected).mean()


def _score_pairs(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: list[Row]
) -> float:
    model.eval()
    right: list[bool] = []
    for start in range(0, len(rows), 32):
        examples = [_encode_pair(tokenizer, row) for row in rows[start : start + 32]]
        with torch.no_grad():
            chosen, rejected = _pair_scores(model, pad_examples(examples, model.config.pad_token_id))
        right += (chosen > rejected).tolist()
    return _share(right)


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


TASKS = {
    task.name: task
    for task in (
        Task(name="topics", metric="accuracy", encode=_encode_labelled, score=_score_accuracy,
             test_splits=("test", "test_unseen"), steps=120, num_labels=6),
        Task(name="sentiment", metric="accuracy", encode=_encode_labelled, score=_score_accuracy,
             test_splits=("test", "test_unseen"), steps=160, num_labels=3),
        Task(name="new_facts", metric="exact answers", encode=_encode_document, score=_score_recall,
             test_splits=("test", "test_unseen"), steps=120, batch_size=4, packing_length_tokens=256),
        Task(name="dialect", metric="log-likelihood a token", encode=_encode_document,
             score=_score_negative_loss, test_splits=("test", "test_unseen"), steps=80,
             batch_size=4, packing_length_tokens=256),
        Task(name="instructions", metric="exact match", encode=_encode_instruction,
             score=_score_exact, test_splits=("test", "test_unseen"), steps=250),
        Task(name="preferences", metric="pair accuracy", encode=_encode_pair, score=_score_pairs,
             test_splits=("test", "test_unseen"), steps=120, num_labels=1),
    )
}  # fmt: skip


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
    is_pairs = task.name == "preferences"
    result = train(model, examples, config, loss_function=pair_loss if is_pairs else None)
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
    scores = {s: task.score(model, tokenizer, list(load_task(task.name, s))) for s in task.test_splits}
    return {"task": task.name, "method": "base", "learning_rate": 0.0, "seed": 0, "trained": 0,
            "seconds": 0.0, "validation": 0.0, **scores}  # fmt: skip


def compare(tasks: Sequence[str], methods: Sequence[str], results: Path) -> list[Row]:
    """Run what is missing of the study and return all its rows.

    Args:
        tasks: Names of tasks.
        methods: Names of methods.
        results: JSONL file that every finished run is appended to.
    """
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
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


def largest_distinct_set(scores: dict[str, list[float]]) -> list[str]:
    """Return a largest set of methods of which every two can be told apart."""
    names = sorted(scores, key=lambda name: fmean(scores[name]))
    chosen: list[str] = []
    for name in names:
        if all(can_tell_apart(scores[name], scores[other]) for other in chosen):
            chosen.append(name)
    return chosen


def markdown_table(rows: Sequence[Row], split: str) -> str:
    """Return the study as a Markdown table: mean and standard deviation over seeds."""
    tasks = [name for name in TASKS if any(row["task"] == name for row in rows)]
    lines = ["| method | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    for method in ("base", *CANDIDATES):
        cells = []
        for task in tasks:
            values = [run[split] for run in best_runs(rows, task, method)]
            spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{fmean(values):.3f}{spread}" if values else "")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(
    task: Annotated[list[str] | None, typer.Option(help="Task to fit; all by default.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Method to fit; all by default.")] = None,
    results: Annotated[Path | None, typer.Option(help="JSONL file of the runs.")] = None,
) -> None:
    """Fit every task with every method over three seeds and print the tables."""
    path = results or data_dir() / "results" / "separation.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = compare(task or list(TASKS), method or list(CANDIDATES), path)
    for split in ("test", "test_unseen"):
        typer.echo(f"\n{split}\n{markdown_table(rows, split)}")
    for name in task or TASKS:
        scores = {m: [r["test"] for r in best_runs(rows, name, m)] for m in CANDIDATES}
        distinct = largest_distinct_set({m: v for m, v in scores.items() if len(v) > 1})
        typer.echo(f"{name}: told apart by two standard errors: {', '.join(distinct)}")


if __name__ == "__main__":
    typer.run(main)
