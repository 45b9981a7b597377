"""The same runs with TRL's trainers: same examples, steps, rates and schedule, their loop."""

import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from course_utils.data import IGNORED, Example
from course_utils.methods.lora import LoRAConfig
from course_utils.rlhf.config import PPOConfig
from course_utils.training import RunResult, TrainingConfig, cosine_factor, fused_adamw

if TYPE_CHECKING:
    from peft import LoraConfig


def train_sft_with_trl(
    model: nn.Module, examples: Sequence[Example], config: TrainingConfig, **_: object
) -> RunResult:
    """Tune a PEFT model with TRL's ``SFTTrainer``, as ``course_utils.training.train`` would.

    Args:
        model: PEFT model.
        examples: Encoded examples; a label of -100 carries no loss.
        config: How to train.
    """
    from trl import SFTConfig, SFTTrainer

    rows = [
        {
            "input_ids": list(e["input_ids"]),
            "completion_mask": [int(label != IGNORED) for label in e["labels"]],
        }
        for e in examples
    ]
    packing = config.packing_length_tokens
    options = {"packing": packing is not None, "max_length": packing}
    return _run(SFTTrainer, SFTConfig, model, rows, config, completion_only_loss=True, **options)


def train_reward_with_trl(
    model: nn.Module, examples: Sequence[Example], config: TrainingConfig, **_: object
) -> RunResult:
    """Tune a PEFT classifier with TRL's ``RewardTrainer`` on pairs of ``encode_pair``.

    Args:
        model: PEFT model of one label.
        examples: Joined pairs; the label is where the rejected answer begins.
        config: How to train.
    """
    from trl import RewardConfig, RewardTrainer

    rows = [
        {
            "chosen_ids": list(e["input_ids"])[: e["labels"]],
            "rejected_ids": list(e["input_ids"])[e["labels"] :],
        }
        for e in examples
    ]
    return _run(RewardTrainer, RewardConfig, model, rows, config, max_length=None)


def _run(
    trainer_class: type,
    config_class: type,
    model: nn.Module,
    rows: list[dict],
    config: TrainingConfig,
    **options: Any,  # noqa: ANN401
) -> RunResult:
    from datasets import Dataset

    from course_utils.models import load_tokenizer

    optimizer = fused_adamw(model, config)
    with TemporaryDirectory() as folder, quiet_trainer():
        trainer = trainer_class(
            model=model,
            args=config_class(
                **plain_options(folder, config),
                max_steps=config.max_steps,
                per_device_train_batch_size=config.batch_size,
                max_grad_norm=config.max_grad_norm,
                bf16=config.precision == "bfloat16",
                fp16=config.precision == "float16",
                **options,
            ),
            # Theirs would take the first step of the warm-up at rate 0.
            optimizers=(optimizer, LambdaLR(optimizer, partial(cosine_factor, config=config))),
            train_dataset=Dataset.from_list(rows),
            processing_class=load_tokenizer(model.config._name_or_path),
        )
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    model.eval()
    log = [line for line in trainer.state.log_history if "loss" in line]
    tokens = int(log[-1]["num_tokens"])
    return RunResult(
        losses=[line["loss"] for line in log],
        learning_rates=[line["learning_rate"] for line in log],
        gradient_norms=[float(line["grad_norm"]) for line in log],
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        peak_bytes=0,
    )


def lora_of_peft(method: LoRAConfig, head: list[str] | None = None) -> "LoraConfig":
    """Return PEFT's configuration of our LoRA, for a model with a new ``head`` or with none."""
    from peft import LoraConfig

    return LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,
        target_modules=method.target_modules,
        exclude_modules=head,
        modules_to_save=head,
        task_type=None if head else "CAUSAL_LM",
    )


def plain_options(folder: str, config: TrainingConfig | PPOConfig) -> dict[str, Any]:
    """Return what every run with TRL has in common: each step logged, nothing kept or sent."""
    return {
        "output_dir": folder,
        "seed": config.seed,
        "disable_tqdm": not config.show_progress,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }


@contextmanager
def quiet_trainer() -> Iterator[None]:
    """Keep TRL's notes, the Trainer's log lines and bars of preparation out of a notebook."""
    import datasets
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    callbacks = (PrinterCallback, ProgressCallback)
    kept = [callback.on_log for callback in callbacks]
    # TRL's own says that packing needs flash attention; the mask of sdpa keeps examples apart too.
    loggers = [logging.getLogger(name) for name in ("transformers", "trl")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    for callback in callbacks:
        callback.on_log = lambda *_, **__: None
    try:
        with warnings.catch_warnings():
            # TRL 1.12 sets the option by the name that transformers 5 is giving up.
            warnings.filterwarnings("ignore", "`gradient_checkpointing`", FutureWarning)
            yield
    finally:
        for callback, on_log in zip(callbacks, kept, strict=True):
            callback.on_log = on_log
        datasets.enable_progress_bars()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
