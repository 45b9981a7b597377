"""Real tokens a second of `train`, against transformers.Trainer and TRL's SFTTrainer.

The same model, examples, batch size, optimizer and number of steps; padding is not counted.
"""

import statistics
import tempfile
import time
from dataclasses import replace

import torch
from datasets import Dataset
from torch import nn
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from course_utils.data import encode_instruction, encode_label, load_task, pad_examples
from course_utils.methods import apply
from course_utils.methods.lora import LoRAConfig
from course_utils.models import load_base_model, load_tokenizer
from course_utils.models.lean import lean
from course_utils.studies.trl.trainers import lora_of_peft, train_sft_with_trl
from course_utils.training import TrainingConfig, train
from course_utils.training.model_loss import model_loss
from tests.benchmarks.contest import Contest

STEPS, BATCH, PADDED_LENGTH = 20, 16, 128
LORA = LoRAConfig(rank=8, alpha=16)
SFT = TrainingConfig(
    max_steps=12, learning_rate=1e-3, batch_size=4, packing_length_tokens=256, show_progress=False
)


def classification(steps: int = STEPS) -> Contest:
    """Full fine-tuning on reviews, as a learner calls it: `train`'s defaults and Trainer's."""
    tokenizer = load_tokenizer("embedded")
    rows = load_task("sentiment", "train").select(range(steps * BATCH))
    examples = [encode_label(tokenizer, row["text"], row["label"]) for row in rows]

    def ours() -> float:
        config = TrainingConfig(
            max_steps=steps, learning_rate=1e-4, batch_size=BATCH, show_progress=False
        )
        return train(classifier(), examples, config).tokens_per_second

    return {
        "ours": ours,
        f"Trainer, padded to {PADDED_LENGTH}": lambda: trainer(examples, steps, is_fixed=True),
        "Trainer, dynamic padding": lambda: trainer(examples, steps, is_fixed=False),
    }


def classifier() -> nn.Module:
    """Return the embedded model under a fresh head for three classes."""
    return load_base_model("embedded", num_labels=3)


def trainer(examples: list[dict], steps: int, *, is_fixed: bool) -> float:
    """Return real tokens a second of transformers.Trainer, padding to one length or the longest."""
    tokenizer, rows = load_tokenizer("embedded"), []
    for example in examples:
        row = {"input_ids": example["input_ids"]}
        if is_fixed:
            row = tokenizer.pad(row, padding="max_length", max_length=PADDED_LENGTH)
        rows.append({**row, "label": example["labels"]})
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=steps,
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
        machine = Trainer(
            classifier(),
            arguments,
            train_dataset=Dataset.from_list(rows),
            data_collator=None if is_fixed else DataCollatorWithPadding(tokenizer),
        )
        start = time.perf_counter()
        machine.train()
        seconds = time.perf_counter() - start
    mean_length = statistics.fmean(len(example["input_ids"]) for example in examples)
    return steps * BATCH * mean_length / seconds


def instructions(config: TrainingConfig = SFT) -> Contest:
    """LoRA on instructions; unpacked, a batch has four times as many rows: about as many tokens."""
    tokenizer = load_tokenizer("embedded")
    unpacked = replace(config, packing_length_tokens=None, batch_size=4 * config.batch_size)
    rows = load_task("instructions", "train").select(range(unpacked.batch_size * config.max_steps))
    examples = [
        encode_instruction(tokenizer, row["instruction"], row["input"], row["output"])
        for row in rows
    ]

    def ours() -> float:
        model = apply(load_base_model("embedded"), LORA)
        return train(model, examples, config).tokens_per_second

    def theirs(config: TrainingConfig) -> float:
        from peft import get_peft_model

        model = get_peft_model(load_base_model("embedded"), lora_of_peft(LORA))
        return train_sft_with_trl(model, examples, config).tokens_per_second

    return {
        "ours, packed": ours,
        "TRL, packed": lambda: theirs(config),
        "TRL, padded": lambda: theirs(unpacked),
    }


def matmul_share(steps: int = STEPS, size: int = 1024) -> Contest:
    """Arithmetic of full fine-tuning's matrix products a second, and of one large product.

    Of the step all is timed, and its matrix products alone are counted: what lies between them
    counts as nothing done.
    """
    from torch.utils.flop_counter import FlopCounterMode

    tokenizer = load_tokenizer("embedded")
    rows = load_task("sentiment", "train").select(range(BATCH))
    examples = [encode_label(tokenizer, row["text"], row["label"]) for row in rows]
    batch, model = pad_examples(examples, tokenizer.pad_token_id), classifier().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        model_loss(model, batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    with lean(model), FlopCounterMode(display=False) as counter:
        step()
    a = torch.randn(size, size)

    def ours() -> float:
        start = time.perf_counter()
        with lean(model):
            for _ in range(steps):
                step()
        return steps * counter.get_total_flops() / (time.perf_counter() - start)

    def product() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            a @ a
        return steps * 2 * size**3 / (time.perf_counter() - start)

    return {"ours, all of a step": ours, f"one product of {size} x {size}": product}
