"""Ours against TRL and transformers: samples of PPO and GRPO, and tokens of generation.

The embedded model, the same prompts, batches, lengths and number of updates.
"""

import copy
import io
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import nn
from transformers import GenerationConfig

from course_utils.data import chat_prompt, load_task
from course_utils.generation import encode_prompts, generate_tokens
from course_utils.methods import apply
from course_utils.methods.lora import LoRAConfig
from course_utils.models import load_tokenizer
from course_utils.rlhf.actor import Actor, SeparateActorCritic, SharedActorCritic
from course_utils.rlhf.assistant import classifier_on, load_assistant, load_reward_model
from course_utils.rlhf.checkable import CheckableReward, draw_problems, partial_credit
from course_utils.rlhf.config import GRPOConfig, PPOConfig
from course_utils.rlhf.grpo import train_grpo
from course_utils.rlhf.ppo import train_ppo
from course_utils.rlhf.rollout import up_to_end
from course_utils.studies.trl.alignment import train_ppo_with_trl
from course_utils.studies.trl.trainers import quiet_trainer
from tests.benchmarks.contest import Contest

LORA = LoRAConfig(rank=8, alpha=16)
GRPO = GRPOConfig(n_updates=2, batch_size=64, minibatch_size=64, show_progress=False)
PPO = PPOConfig(n_updates=2, batch_size=32, minibatch_size=16, show_progress=False)


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


def grpo(config: GRPOConfig = GRPO) -> Contest:
    """Answers sampled, scored and learnt from, a second, by GRPO without KL, as TRL's default is.

    A LoRA of the same shape on every linear layer, and a reward that a program checks.
    """
    tokenizer, assistant = load_tokenizer("embedded"), load_assistant()
    problems = draw_problems({"reverse": 2, "sort": 2}, 256)
    prompts = [chat_prompt(tokenizer, p.instruction, p.input) for p in problems]
    reward = CheckableReward(prompts, problems, partial_credit)
    begin = "" if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id else tokenizer.bos_token

    def ours() -> float:
        actor = Actor(apply(copy.deepcopy(assistant), LORA))
        return train_grpo(actor, tokenizer, prompts, reward, config).samples_per_second

    def scored(prompts: list[str], completions: list[str], **_: object) -> list[float]:
        return reward([prompt.removeprefix(begin) for prompt in prompts], completions)

    def theirs() -> float:
        with quiet_trainer(), TemporaryDirectory() as folder:
            from trl import GRPOConfig as TheirConfig
            from trl import GRPOTrainer

            args = TheirConfig(
                output_dir=folder,
                max_steps=config.n_updates,
                num_generations=config.group_size,
                per_device_train_batch_size=config.batch_size,
                max_completion_length=config.max_new_tokens,
                learning_rate=config.learning_rate,
                loss_type="grpo",
                beta=0.0,
                use_cpu=True,
                bf16=False,
                activation_checkpointing=False,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            )
            trainer = GRPOTrainer(
                copy.deepcopy(assistant),
                scored,
                args,
                train_dataset=Dataset.from_list([{"prompt": begin + text} for text in prompts]),
                processing_class=tokenizer,
                peft_config=LoraConfig(
                    r=LORA.rank,
                    lora_alpha=LORA.alpha,
                    target_modules="all-linear",
                    task_type="CAUSAL_LM",
                ),
            )
            start = time.perf_counter()
            with redirect_stdout(io.StringIO()):
                trainer.train()
        return config.n_updates * config.batch_size / (time.perf_counter() - start)

    return {"ours": ours, "TRL": theirs}


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
