"""Small runs that a test can start, stop and start again."""

import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.training import RunResult, TrainingConfig, train


class Stop(Exception):  # noqa: N818
    """Ends a run from within, as an interrupt does."""


def tiny_llama(
    *, seed: int = 0, dropout: float = 0.0, kind: type = LlamaForCausalLM, **options: object
) -> nn.Module:
    """A Llama of two layers and 60 tokens, small enough for thousands of steps."""
    config = LlamaConfig(
        **{
            "vocab_size": 60,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 128,
            "pad_token_id": 0,
            "attention_dropout": dropout,
        }
        | options
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config)


def random_examples(count: int = 200, *, seed: int = 0) -> list[dict]:
    """Examples of 3 to 20 random tokens, each a target."""
    rng = random.Random(seed)
    rows = [[rng.randrange(1, 60) for _ in range(rng.randrange(3, 21))] for _ in range(count)]
    return [{"input_ids": row, "labels": list(row)} for row in rows]


def quick(**options: object) -> TrainingConfig:
    return TrainingConfig(
        **{"max_steps": 5, "learning_rate": 1e-2, "batch_size": 8, "show_progress": False} | options
    )


def stopping_at(step: int) -> Callable[[int, nn.Module], None]:
    """What ``on_step`` calls to end a run after a step, before its checkpoint is written."""

    def stop(done: int, _: nn.Module) -> None:
        if done == step:
            raise Stop

    return stop


def whole_run(folder: Path, *, stop_at: int | None = None, **options: object) -> RunResult | None:
    """Train with dropout, checkpoints and metrics, so that every kind of state has to come back.

    Returns:
        What the run did, or None if it was stopped.
    """
    options = {"model": None, "examples": None} | options
    model = options.pop("model") or tiny_llama(dropout=0.1)
    examples = options.pop("examples") or random_examples(40)
    config = quick(
        **{
            "batch_size": 4,
            "checkpoint_dir": folder / "checkpoints",
            "checkpoint_every_steps": 1,
            "metrics_file": folder / "metrics.jsonl",
        }
        | options
    )
    try:
        return train(model, examples, config, on_step=stopping_at(stop_at) if stop_at else None)
    except Stop:
        return None
