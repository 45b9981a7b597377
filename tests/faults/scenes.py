"""What is killed and damaged: small runs, and adapters that are loaded."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.methods import apply, load_adapter, save_adapter
from course_utils.methods.dora import DoRAConfig
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.prompt_tuning import PromptTuningConfig
from course_utils.rlhf.config import PPOConfig
from course_utils.rlhf.ppo import train_ppo
from course_utils.training import TrainingConfig, train
from tests.rlhf.tiny_actors import PROMPTS, count_words, shared_actor, word_tokenizer
from tests.training.runs import Stop, random_examples, stopping_at

N_STEPS = 6
CONFIG = TrainingConfig(
    max_steps=N_STEPS,
    learning_rate=1e-2,
    batch_size=4,
    show_progress=False,
    checkpoint_every_steps=1,
)
PPO = PPOConfig(
    n_updates=4,
    batch_size=4,
    minibatch_size=4,
    n_epochs=1,
    max_new_tokens=4,
    show_progress=False,
    checkpoint_every_updates=1,
)


def tiny_model(dropout: float = 0.1) -> nn.Module:
    """A Llama of one layer, always of the same weights."""
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
        attention_dropout=dropout,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


def bits_of(tensors: Iterable[Tensor], *others: object) -> str:
    """A checksum of tensors to the last bit, and of what else there is."""
    parts = [t.detach().cpu().contiguous().numpy().tobytes() for t in tensors]
    return hashlib.sha256(b"".join(parts) + repr(others).encode()).hexdigest()


def supervised(folder: Path, *, method: object | None, stop_at: int | None = None) -> str:
    """Train, with every kind of state; a run that is there is taken up."""
    folder.mkdir(exist_ok=True)
    model = tiny_model() if method is None else apply(tiny_model(), method)
    config = replace(
        CONFIG, checkpoint_dir=folder / "checkpoints", metrics_file=folder / "metrics.jsonl"
    )
    on_step = stopping_at(stop_at) if stop_at else None
    try:
        result = train(model, random_examples(24), config, on_step=on_step)
    except Stop:
        return "stopped"
    metrics = (folder / "metrics.jsonl").read_bytes()
    return bits_of(model.parameters(), result.losses, result.gradient_norms, metrics)


def lora(folder: Path, **options: int | None) -> str:
    return supervised(folder, method=LoRAConfig(rank=2), **options)


def full(folder: Path, **options: int | None) -> str:
    return supervised(folder, method=None, **options)


def ppo(folder: Path, *, stop_at: int | None = None) -> str:
    """Train by PPO."""

    def stop(done: int, *_: object) -> None:
        if done == stop_at:
            raise Stop

    folder.mkdir(exist_ok=True)
    actor, config = shared_actor(), replace(PPO, checkpoint_dir=folder / "checkpoints")
    try:
        result = train_ppo(actor, word_tokenizer(), PROMPTS, count_words, config, on_update=stop)
    except Stop:
        return "stopped"
    return bits_of(actor.parameters(), result.history)


RUNS: dict[str, Callable[..., str]] = {"LoRA": lora, "full": full, "PPO": ppo}
METHODS = {
    "lora": LoRAConfig(rank=2),
    "dora": DoRAConfig(rank=2, alpha=3),
    "prompt": PromptTuningConfig(num_virtual_tokens=3),
}


def written_adapter(name: str, folder: Path, seed: int = 1) -> None:
    """Write an adapter whose weights are all other than at the start."""
    model = apply(tiny_model(0.0), METHODS[name])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    save_adapter(model, folder)


def read_adapter(folder: Path) -> str:
    """Put an adapter on its base, and tell what it computes then."""
    model = load_adapter(tiny_model(0.0), folder).eval()
    with torch.no_grad():
        return bits_of([model(input_ids=torch.arange(1, 12)[None]).logits])
