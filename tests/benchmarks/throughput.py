"""Real tokens a second of `train` and of transformers.Trainer.

Run with `python -m tests.benchmarks.throughput`.

The same model, examples, batch size, optimizer and number of steps; padding is not counted. The
three take turns, so that a machine whose speed drifts treats them alike, and medians are compared.
"""

import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from course_utils.data import encode_label, load_task
from course_utils.models import load_base_model, load_tokenizer
from course_utils.training import TrainingConfig, train

STEPS, BATCH, ROUNDS, PADDED_LENGTH = 40, 16, 3, 128


def ours(examples: list[dict]) -> float:
    """Return real tokens a second of the course's loop."""
    model = load_base_model("embedded", num_labels=3)
    config = TrainingConfig(
        max_steps=STEPS, learning_rate=1e-4, batch_size=BATCH, show_progress=False
    )
    return train(model, examples, config).tokens_per_second


def trainer(examples: list[dict], *, pads_to_max_length: bool) -> float:
    """Return real tokens a second of transformers.Trainer, padding as told."""
    tokenizer = load_tokenizer("embedded")
    if pads_to_max_length:
        fixed = {"padding": "max_length", "max_length": PADDED_LENGTH}
        rows = [tokenizer.pad({"input_ids": e["input_ids"]}, **fixed) for e in examples]
        rows = [{**row, "label": e["labels"]} for row, e in zip(rows, examples, strict=True)]
        collator = None
    else:
        rows = [{"input_ids": e["input_ids"], "label": e["labels"]} for e in examples]
        collator = DataCollatorWithPadding(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=STEPS,
            per_device_train_batch_size=BATCH,
            learning_rate=1e-4,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            seed=0,
            optim="adamw_torch_fused",
        )
        model = load_base_model("embedded", num_labels=3)
        machine = Trainer(
            model, arguments, train_dataset=Dataset.from_list(rows), data_collator=collator
        )
        start = time.perf_counter()
        machine.train()
        seconds = time.perf_counter() - start
    mean_length = statistics.fmean(len(example["input_ids"]) for example in examples)
    return STEPS * BATCH * mean_length / seconds


def main() -> None:
    """Print tokens a second and the ratios."""
    logging.disable(logging.WARNING)
    tokenizer = load_tokenizer("embedded")
    rows = load_task("sentiment", "train").select(range(STEPS * BATCH))
    examples = [encode_label(tokenizer, row["text"], row["label"]) for row in rows]
    contestants: dict[str, Callable[[], float]] = {
        "train": lambda: ours(examples),
        f"Trainer, padded to {PADDED_LENGTH}": lambda: trainer(examples, pads_to_max_length=True),
        "Trainer, dynamic padding": lambda: trainer(examples, pads_to_max_length=False),
    }
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, run in contestants.items():
            speeds[name].append(run())
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    for name, median in medians.items():
        low, high = min(speeds[name]), max(speeds[name])
        ratio = medians["train"] / median
        sys.stdout.write(
            f"{name:26} {median:8,.0f} real tokens/s ({low:,.0f} to {high:,.0f})  "
            f"train is {ratio:.2f}x\n"
        )


if __name__ == "__main__":
    main()
