"""One step of each of TRL's ways to align a policy, and the reward model as TRL reads it."""

import math
import os
from pathlib import Path

# Read when TRL is imported: PPO is experimental there, and would say so.
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import pytest
import torch
import trl
from peft import PeftModel
from transformers import PreTrainedModel
from trl.experimental.ppo import PPOTrainer
from trl.experimental.utils import get_reward

from course_utils.data import chat_prompt
from course_utils.generation import encode_prompts
from course_utils.methods import apply
from course_utils.methods.lora import LoRAConfig
from course_utils.models import load_base_model, load_tokenizer
from course_utils.rlhf.config import PPOConfig
from course_utils.rlhf.reward_model import RewardModel
from course_utils.studies.trl.alignment import (
    ScoreBeforeEnd,
    train_dpo_with_trl,
    train_online_with_trl,
    train_ppo_with_trl,
)
from tests.tiny_models import write_tiny_model

CONFIG = PPOConfig(
    n_updates=1,
    batch_size=8,
    minibatch_size=4,
    n_epochs=2,
    max_new_tokens=6,
    learning_rate=1e-2,
    show_progress=False,
)
QUESTIONS = ["Who mills?", "Name a river.", "Say hello.", "Count."] * 2
PAIRS = [{"prompt": q, "chosen": "The miller, I think.", "rejected": "No."} for q in QUESTIONS]
PROMPTS = ["Who mills the flour?", "Hello.", "Name a river of the country."]
ANSWERS = ["The miller, as long as there is wind.", "Good day!", "The Arn."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("trl") / "tiny", pad_token="<|pad|>")


def reward_model(folder: Path) -> RewardModel:
    """A reward model with random weights, and an adapter that is no longer at its start."""
    torch.manual_seed(1)
    model = apply(load_base_model(folder, num_labels=1), LoRAConfig(rank=4))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    return RewardModel(model.eval(), load_tokenizer(folder), mean=0.3, std=1.7)


def check_policy(policy: PeftModel, base: PreTrainedModel) -> None:
    """The adapter has moved, and it alone: the weights below it are the base's."""
    adapter = {n: p for n, p in policy.named_parameters() if "lora_B" in n}
    assert adapter
    assert all(p.isfinite().all() for p in adapter.values())
    assert all(p.abs().sum() > 0 for p in adapter.values())
    for name, weight in base.named_parameters():
        inner = policy.base_model.model
        if ".base_layer." not in name and name.rpartition(".")[0].endswith("_proj"):
            name = name.replace(".weight", ".base_layer.weight")
        torch.testing.assert_close(inner.get_parameter(name), weight, rtol=0, atol=0)
    assert not policy.training


def collect_logs(monkeypatch: pytest.MonkeyPatch, trainer: type) -> list[dict]:
    lines, log = [], trainer.log

    def collect(self, logs, *rest):
        log(self, logs, *rest)
        lines.append(dict(logs))

    monkeypatch.setattr(trainer, "log", collect)
    return lines


@pytest.mark.parametrize("method", ["rloo", "grpo", "dpo"])
def test_one_step(method: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = collect_logs(monkeypatch, getattr(trl, f"{method.upper()}Trainer"))
    model, tokenizer = load_base_model(folder), load_tokenizer(folder)
    if method == "dpo":
        policy = train_dpo_with_trl(model, tokenizer, PAIRS, CONFIG)
    else:
        asked = []
        judge = reward_model(folder)

        def reward(prompts, answers):
            asked.append((prompts, answers))
            return judge(prompts, answers)

        policy = train_online_with_trl(method, model, tokenizer, QUESTIONS, reward, CONFIG)
        # Two questions, four answers each, rendered as for our own loop.
        ((prompts, answers),) = asked
        assert len(prompts) == len(answers) == CONFIG.batch_size
        assert len(set(prompts)) <= CONFIG.batch_size // 4
        assert set(prompts) <= {chat_prompt(tokenizer, question) for question in QUESTIONS}
    step = next(line for line in lines if "loss" in line)
    assert all(math.isfinite(value) for value in step.values())
    if method == "dpo":
        assert step["loss"] == pytest.approx(math.log(2), abs=1e-4)
    check_policy(policy, load_base_model(folder))


def test_one_update_of_ppo(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    prepared = PPOTrainer.create_optimizer_and_scheduler

    def count_steps(self, num_training_steps):
        prepared(self, num_training_steps)
        self.optimizer.register_step_post_hook(lambda *_: steps.append(1))

    monkeypatch.setattr(PPOTrainer, "create_optimizer_and_scheduler", count_steps)
    model, tokenizer = load_base_model(folder), load_tokenizer(folder)
    prompts = [chat_prompt(tokenizer, question) for question in QUESTIONS]
    policy, log = train_ppo_with_trl(model, tokenizer, prompts, reward_model(folder), CONFIG)
    assert len(log) == 1
    assert all(math.isfinite(value) for value in log[0].values())
    assert log[0]["episode"] == CONFIG.batch_size
    # As ours: one step a minibatch, and metrics that are means over them.
    assert len(steps) == CONFIG.n_epochs * CONFIG.batch_size // CONFIG.minibatch_size
    assert log[0]["val/ratio"] == pytest.approx(1, abs=0.2)
    check_policy(policy, load_base_model(folder))


def test_an_unknown_method_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="method='reinforce' must be one of rloo, grpo"):
        train_online_with_trl("reinforce", None, None, QUESTIONS, reward_model(folder), CONFIG)


@pytest.mark.parametrize("end", ["all", "some"])
def test_the_score_is_ours_at_the_answers_last_word(folder: Path, end: str) -> None:
    """TRL reads [prompt, answer, end, padding]; ours reads the prompt and the answer."""
    tokenizer, reward = load_tokenizer(folder), reward_model(folder)
    prompts = [chat_prompt(tokenizer, question) for question in PROMPTS]
    queries, _ = encode_prompts(tokenizer, prompts)
    rows = [tokenizer(a, add_special_tokens=False)["input_ids"] for a in ANSWERS]
    length = max(map(len, rows)) + 1
    for k, row in enumerate(rows):
        if end == "all" or k == 1:
            row.append(tokenizer.eos_token_id)
        row += [tokenizer.pad_token_id] * (length - len(row))
    whole = torch.cat([queries, torch.tensor(rows)], dim=1)
    with torch.no_grad():
        _, scores, _ = get_reward(
            ScoreBeforeEnd(reward, tokenizer.eos_token_id).eval(),
            whole,
            tokenizer.pad_token_id,
            queries.shape[1],
        )
    torch.testing.assert_close(scores, reward(prompts, ANSWERS), rtol=0, atol=1e-5)
    assert scores.std() > 1e-3
