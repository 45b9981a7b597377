"""A policy aligned by TRL's trainers: PPO, RLOO, GRPO and DPO on one assistant and one reward."""

from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from course_utils.data import chat_prompt
from course_utils.generation import encode_prompts
from course_utils.methods import apply
from course_utils.methods.lora import LoRAConfig
from course_utils.rlhf.assistant import classifier_on
from course_utils.rlhf.config import PPOConfig
from course_utils.rlhf.reward_model import RewardModel
from course_utils.rlhf.rollout import Reward
from course_utils.studies.trl.trainers import lora_of_peft, plain_options, quiet_trainer
from course_utils.validation import check_choice

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

POLICY = LoRAConfig(rank=8, alpha=16)


def train_online_with_trl(
    method: str,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[str],
    reward: Reward,
    config: PPOConfig,
) -> "PreTrainedModel":
    """Train a policy with TRL's ``RLOOTrainer`` or ``GRPOTrainer``, four answers a question.

    As many answers an update, and as many optimizer steps on them, as our PPO takes; the score of
    an answer without an end token is cut by the same penalty.

    Args:
        method: ``rloo`` or ``grpo``.
        model: Plain assistant; it gets PEFT's LoRA, and is the reference with it off.
        tokenizer: Its tokenizer.
        questions: What to ask, without a template.
        reward: Scores answers.
        config: Steps, rate, batch, lengths; ``kl_coef`` is their beta.

    Returns:
        The policy, a PEFT model.

    Raises:
        ValueError: If the method is neither of the two.
    """
    import trl
    from datasets import Dataset

    check_choice("method", method, ("rloo", "grpo"))

    def score(
        prompts: list, completions: list, completion_ids: list[list[int]], **_: object
    ) -> list[float]:
        asked = [chat_prompt(tokenizer, prompt[-1]["content"]) for prompt in prompts]
        scores = reward(asked, [answer[-1]["content"] for answer in completions])
        fine = config.missing_eos_penalty or 0.0
        return [
            score - fine * (tokenizer.eos_token_id not in ids)
            for score, ids in zip(torch.as_tensor(scores).tolist(), completion_ids, strict=True)
        ]

    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": q}]} for q in questions])
    n_minibatches = config.batch_size // config.minibatch_size
    options = {
        "num_generations": 4,
        "steps_per_generation": n_minibatches,
        "num_iterations": config.n_epochs,
        "max_completion_length": config.max_new_tokens,
        "temperature": config.temperature,
        "beta": config.kl_coef,
    }
    kinds = getattr(trl, f"{method.upper()}Trainer"), getattr(trl, f"{method.upper()}Config")
    config = replace(
        config,
        n_updates=config.n_updates * config.n_epochs * n_minibatches,
        batch_size=config.minibatch_size,
    )
    return _run(*kinds, model, tokenizer, rows, config, options, reward_funcs=score)


def train_dpo_with_trl(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    pairs: Sequence[dict],
    config: PPOConfig,
) -> "PreTrainedModel":
    """Train a policy on preference pairs with TRL's ``DPOTrainer``: no reward, no sampling.

    Args:
        model: Plain assistant; it gets PEFT's LoRA, and is the reference with it off.
        tokenizer: Its tokenizer.
        pairs: Rows with ``prompt``, ``chosen`` and ``rejected``.
        config: Steps, rate and batch; ``kl_coef`` is beta.

    Returns:
        The policy, a PEFT model.
    """
    import trl
    from datasets import Dataset

    def turn(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    rows = Dataset.from_list(
        [
            {
                "prompt": turn("user", pair["prompt"]),
                "chosen": turn("assistant", pair["chosen"]),
                "rejected": turn("assistant", pair["rejected"]),
            }
            for pair in pairs
        ]
    )
    return _run(
        trl.DPOTrainer, trl.DPOConfig, model, tokenizer, rows, config, {"beta": config.kl_coef}
    )


def train_ppo_with_trl(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    reward: RewardModel,
    config: PPOConfig,
) -> tuple["PreTrainedModel", list[dict[str, float]]]:
    """Train a policy with TRL's ``PPOTrainer``, the last of which is in TRL 1.12.

    Args:
        model: Plain assistant; it gets PEFT's LoRA, and is the reference with it off.
        tokenizer: Its tokenizer.
        prompts: Rendered prompts, without the begin token.
        reward: The reward model.
        config: How to train.

    Returns:
        The policy, a PEFT model, and the metrics of every update.
    """
    from datasets import Dataset

    with quiet_trainer(), TemporaryDirectory() as folder:
        from trl.experimental.ppo import PPOConfig as TheirConfig
        from trl.experimental.ppo import PPOTrainer

        ids, mask = encode_prompts(tokenizer, prompts)
        rows = [
            {"input_ids": row[keep.bool()].tolist()} for row, keep in zip(ids, mask, strict=True)
        ]
        trunk = classifier_on(model, model.config._name_or_path)
        critic = apply(trunk, POLICY)
        trainer = PPOTrainer(
            args=TheirConfig(**plain_options(folder, config), **_ppo_options(config)),
            processing_class=_left_padding(tokenizer),
            model=model,
            ref_model=None,
            peft_config=lora_of_peft(POLICY),
            reward_model=ScoreBeforeEnd(reward, tokenizer.eos_token_id),
            value_model=critic,
            train_dataset=Dataset.from_list(rows),
        )
        with redirect_stdout(StringIO()):  # it announces its phases
            trainer.train()
        policy = trainer.accelerator.unwrap_model(trainer.model).policy
    log = [line for line in trainer.state.log_history if "objective/kl" in line]
    return policy.eval(), log


def _ppo_options(config: PPOConfig) -> dict[str, Any]:
    """Return TRL's names of our settings, and what makes it do the same."""
    return {
        "learning_rate": config.learning_rate,
        # With accumulated gradients TRL would not step after every minibatch, and would
        # average its metrics over places that it never fills.
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": 1,
        "num_mini_batches": config.batch_size // config.minibatch_size,
        "total_episodes": config.n_updates * config.batch_size,
        "num_ppo_epochs": config.n_epochs,
        "response_length": config.max_new_tokens,
        "temperature": config.temperature,
        "kl_coef": config.kl_coef,
        "gamma": config.gamma,
        "lam": config.lam,
        "cliprange": config.clip_range,
        "vf_coef": config.vf_coef,
        "cliprange_value": config.value_clip_range,
        "whiten_rewards": config.whiten_rewards,
        "missing_eos_penalty": config.missing_eos_penalty,
        "stop_token": "eos",
        "num_sample_generations": 0,
        "lr_scheduler_type": "constant",
        "bf16": False,
        "local_rollout_forward_batch_size": config.batch_size,
    }


class ScoreBeforeEnd(nn.Module):
    """A reward model in the shape that ``PPOTrainer`` reads, scored at the answer's last word.

    TRL reads the score at the end token; ours are trained to be read one token before. So the
    hidden state of every end token is replaced by that of the token before it.

    Args:
        reward: Reward model with its normalisation.
        eos_token_id: The end token.
    """

    base_model_prefix = "trunk"

    def __init__(self, reward: RewardModel, eos_token_id: int) -> None:
        super().__init__()
        self.trunk = _Trunk(reward.model.base_model, eos_token_id)
        self.head, self.mean, self.std = reward.model.score, reward.mean, reward.std
        self.config = reward.model.config

    def score(self, hidden: Tensor) -> Tensor:
        """Return standardised scores of hidden states, (batch, seq, 1)."""
        return (self.head(hidden) - self.mean) / self.std


class _Trunk(nn.Module):
    def __init__(self, trunk: nn.Module, eos_token_id: int) -> None:
        super().__init__()
        self.trunk, self.eos_token_id = trunk, eos_token_id

    def forward(self, input_ids: Tensor, **inputs: Any) -> Any:  # noqa: ANN401
        output = self.trunk(input_ids=input_ids, **inputs)
        hidden = output.hidden_states[-1]
        before = torch.roll(hidden, 1, dims=1)
        is_end = (input_ids == self.eos_token_id)[..., None]
        output.hidden_states = (torch.where(is_end, before, hidden),)
        return output


def _left_padding(tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedTokenizerBase":
    from copy import deepcopy

    left = deepcopy(tokenizer)
    left.padding_side = "left"
    return left


def _run(
    trainer_class: type,
    config_class: type,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: Any,  # noqa: ANN401
    config: PPOConfig,
    options: dict,
    **arguments: Any,  # noqa: ANN401
) -> "PreTrainedModel":
    with TemporaryDirectory() as folder, quiet_trainer():
        trainer = trainer_class(
            model=model,
            processing_class=_left_padding(tokenizer),
            train_dataset=rows,
            peft_config=lora_of_peft(POLICY),
            args=config_class(
                **plain_options(folder, config),
                max_steps=config.n_updates,
                learning_rate=config.learning_rate,
                lr_scheduler_type="constant",
                per_device_train_batch_size=config.batch_size,
                max_grad_norm=config.max_grad_norm,
                bf16=False,
                **options,
            ),
            **arguments,
        )
        trainer.train()
    return trainer.model.eval()
