"""Ours against TRL and transformers: samples of PPO, tokens of packed SFT, tokens of generation.

Run with `python -m tests.benchmarks.rlhf`.

The embedded model, the same examples, batches, lengths and number of steps. The contestants of a
part take turns, so that a machine whose speed drifts treats them alike; the first round warms up
and is not counted. A ratio is taken round by round, and given with its 95 % interval.
"""

import copy
import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from itertools import product
from unittest.mock import patch

import torch
from peft import get_peft_model
from torch import nn
from transformers import GenerationConfig

from course_utils.data import chat_prompt, encode_instruction, load_task
from course_utils.generation import encode_prompts, generate_tokens
from course_utils.intervals import interval
from course_utils.methods import apply
from course_utils.methods.lora import LoRAConfig
from course_utils.models import load_base_model, load_tokenizer
from course_utils.rlhf.actor import SeparateActorCritic, SharedActorCritic
from course_utils.rlhf.assistant import classifier_on, load_assistant, load_reward_model
from course_utils.rlhf.config import PPOConfig
from course_utils.rlhf.ppo import train_ppo
from course_utils.rlhf.rollout import up_to_end
from course_utils.studies.trl.alignment import train_ppo_with_trl
from course_utils.studies.trl.trainers import lora_of_peft, quiet_trainer, train_sft_with_trl
from course_utils.training import TrainingConfig, train

ROUNDS = 6
LORA = LoRAConfig(rank=8, alpha=16)
PPO = PPOConfig(n_updates=4, batch_size=32, minibatch_size=16, show_progress=False)
SFT = TrainingConfig(
    max_steps=20, learning_rate=1e-3, batch_size=4, packing_length_tokens=256, show_progress=False
)

# What each contestant does, and its units a second when it is called.
Contest = dict[str, Callable[[], float]]


def ppo(config: PPOConfig = PPO) -> Contest:
    """Answers sampled, scored and learnt from, a second.

    TRL's policy without its adapter is the reference, as in our shared form; its critic is a model
    of its own, as in our separate form.
    """
    tokenizer, assistant = load_tokenizer("embedded"), load_assistant()
    reward, critic = load_reward_model(assistant), classifier_on(assistant)
    prompts = [chat_prompt(tokenizer, q) for q in load_task("questions", "train")["question"]]

    def adapted(model: nn.Module) -> nn.Module:
        return apply(copy.deepcopy(model), LORA)

    def shared() -> float:
        actor = SharedActorCritic(adapted(assistant))
        return train_ppo(actor, tokenizer, prompts, reward, config).samples_per_second

    def separate() -> float:
        models = adapted(assistant), copy.deepcopy(assistant), adapted(critic)
        actor = SeparateActorCritic(*models)
        return train_ppo(actor, tokenizer, prompts, reward, config).samples_per_second

    def theirs() -> float:
        with quiet_trainer():
            from trl.experimental.ppo import PPOTrainer
        seconds, run = [], PPOTrainer.train

        def timed(trainer: PPOTrainer) -> None:
            start = time.perf_counter()
            run(trainer)
            seconds.append(time.perf_counter() - start)

        with patch.object(PPOTrainer, "train", timed), redirect_stdout(io.StringIO()):
            train_ppo_with_trl(copy.deepcopy(assistant), tokenizer, prompts, reward, config)
        return config.n_updates * config.batch_size / seconds[0]

    return {"ours, shared": shared, "ours, separate": separate, "TRL": theirs}


def sft(config: TrainingConfig = SFT) -> Contest:
    """Real tokens a second: padding is not counted.

    Without packing, a batch has four times as many rows: about as many real tokens.
    """
    tokenizer = load_tokenizer("embedded")
    unpacked = replace(config, packing_length_tokens=None, batch_size=4 * config.batch_size)
    rows = load_task("instructions", "train").select(range(unpacked.batch_size * config.max_steps))
    examples = [
        encode_instruction(tokenizer, row["instruction"], row["input"], row["output"])
        for row in rows
    ]

    def with_lora() -> nn.Module:
        return get_peft_model(load_base_model("embedded"), lora_of_peft(LORA))

    return {
        "ours, packed": lambda: train(with_lora(), examples, config).tokens_per_second,
        "TRL, packed": lambda: train_sft_with_trl(with_lora(), examples, config).tokens_per_second,
        "TRL, not packed": lambda: (
            train_sft_with_trl(with_lora(), examples, unpacked).tokens_per_second
        ),
    }


def generation(*, do_sample: bool, n_prompts: int = 32, max_new_tokens: int = 32) -> Contest:
    """New tokens a second, up to each answer's end, with a key-value cache."""
    tokenizer, model = load_tokenizer("embedded"), load_assistant()
    questions = load_task("questions", "train")["question"][:n_prompts]
    ids, mask = encode_prompts(tokenizer, [chat_prompt(tokenizer, q) for q in questions])
    tokens = {
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "max_new_tokens": max_new_tokens,
    }
    draw = {"temperature": 1.0, "top_k": 0} if do_sample else {}
    config = GenerationConfig(do_sample=do_sample, **draw, **tokens)

    def ours() -> torch.Tensor:
        return generate_tokens(model, ids, mask, temperature=float(do_sample), **tokens)

    def theirs() -> torch.Tensor:
        whole = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        return whole[:, ids.shape[1] :]

    def speed(generate: Callable[[], torch.Tensor]) -> float:
        torch.manual_seed(0)
        start = time.perf_counter()
        new = generate()
        seconds = time.perf_counter() - start
        return up_to_end(new, tokenizer.eos_token_id).sum().item() / seconds

    return {"ours": lambda: speed(ours), "model.generate()": lambda: speed(theirs)}


PARTS: dict[str, Callable[[], Contest]] = {
    "PPO, samples a second": ppo,
    "SFT, real tokens a second": sft,
    "greedy generation, tokens a second": lambda: generation(do_sample=False),
    "sampled generation, tokens a second": lambda: generation(do_sample=True),
}


def compete(contest: Contest, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Let the contestants take turns; return each one's speeds, without the first round."""
    speeds: dict[str, list[float]] = {name: [] for name in contest}
    for _ in range(rounds):
        for name, run in contest.items():
            speeds[name].append(run())
    return {name: values[1:] for name, values in speeds.items()}


def table(speeds: dict[str, list[float]]) -> Iterator[str]:
    """Yield each contestant's speed, and how much faster each of ours is than each of theirs."""
    for name, values in speeds.items():
        mean, low, high = interval(values)
        yield f"  {name:32} {mean:9,.1f}  ({low:,.1f} to {high:,.1f})"
    ours = [name for name in speeds if name.startswith("ours")]
    for mine, other in product(ours, [name for name in speeds if name not in ours]):
        ratios = [a / b for a, b in zip(speeds[mine], speeds[other], strict=True)]
        mean, low, high = interval(ratios)
        yield f"  {f'{mine} / {other}':32} {mean:8.2f}x  ({low:.2f} to {high:.2f})"


def main() -> None:
    """Print speeds and ratios."""
    for name, make in PARTS.items():
        sys.stdout.write(f"{name}\n")
        for line in table(compete(make())):
            sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
