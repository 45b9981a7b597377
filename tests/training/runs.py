"""A small run that a test can start, kill and start again."""

import random
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.training import RunResult, TrainingConfig, train


def tiny_llama(*, seed: int = 0, dropout: float = 0.0, **options: object) -> LlamaForCausalLM:
    """A Llama of two layers and 60 tokens, small enough for thousands of steps."""
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        attention_dropout=dropout,
        **options,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def random_examples(count: int = 200, *, seed: int = 0) -> list[dict]:
    """Examples of 3 to 20 random tokens, each a target."""
    rng = random.Random(seed)
    rows = [[rng.randrange(1, 60) for _ in range(rng.randrange(3, 21))] for _ in range(count)]
    return [{"input_ids": row, "labels": list(row)} for row in rows]


def killable_run(folder: Path, steps: int = 30) -> tuple[LlamaForCausalLM, RunResult]:
    """Train with dropout and checkpoints, so that every kind of state has to come back."""
    torch.set_num_threads(1)
    model = tiny_llama(dropout=0.1)
    config = TrainingConfig(
        max_steps=steps,
        learning_rate=1e-2,
        batch_size=4,
        seed=3,
        show_progress=False,
        checkpoint_dir=folder / "checkpoints",
        checkpoint_every_steps=4,
        metrics_file=folder / "metrics.jsonl",
    )
    return model, train(model, random_examples(), config)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    trained, _ = killable_run(target)
    torch.save(trained.state_dict(), target / "final.pt")
