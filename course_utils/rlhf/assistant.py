"""Where RLHF starts: an assistant that answers, and a reward model that compares answers.

Both are small LoRA adapters. For the embedded model they are shipped in data/adapters and made by
``python -m course_utils.rlhf``; for any other model they are trained when they are first asked for.
The reward model grows on the assistant's trunk, so that one set of frozen weights serves both
(Ouyang et al., 2022, arXiv:2203.02155, section 3.5, start it there too).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch

from course_utils.data import Batch, chat_prompt, encode_answer, encode_pair, load_task, pair_scores
from course_utils.methods import apply, load_adapter, merge, remove
from course_utils.methods.lora import LoRAConfig
from course_utils.models import load_base_model, load_tokenizer
from course_utils.models.profiles import EMBEDDED, Profile
from course_utils.paths import data_dir
from course_utils.rlhf.losses import bradley_terry_loss
from course_utils.rlhf.reward_model import RewardModel
from course_utils.training import TrainingConfig, train

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Source = Profile | str | Path

ASSISTANT, REWARD = LoRAConfig(rank=16, alpha=32), LoRAConfig(rank=8, alpha=16)
SHIPPED = ("assistant", "reward")
N_OWN_ANSWERS = 1500
ASSISTANT_TRAINING = {"max_steps": 400, "learning_rate": 3e-3, "batch_size": 16, "seed": 0}
REWARD_TRAINING = {"max_steps": 120, "learning_rate": 3e-3, "batch_size": 16, "seed": 0}


def assistant_examples(tokenizer: "PreTrainedTokenizerBase") -> list[dict]:
    """Return what the assistant is tuned on: all instructions, and 1,500 answers to questions.

    The answers are taken from preference pairs, the better or the worse by a coin: true and false,
    kind and rude. A policy can only be rewarded for what it sometimes says.
    """
    examples = [
        encode_answer(
            tokenizer, chat_prompt(tokenizer, row["instruction"], row["input"]), row["output"]
        )
        for row in load_task("instructions", "train")
    ]
    rng = Random(0)
    for row in load_task("preferences", "train").select(range(N_OWN_ANSWERS)):
        answer = rng.choice((row["chosen"], row["rejected"]))
        examples.append(encode_answer(tokenizer, chat_prompt(tokenizer, row["prompt"]), answer))
    return examples


def train_assistant(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", **changes: object
) -> "PreTrainedModel":
    """Put LoRA on a base model and tune it on instructions and answers.

    Args:
        model: Base model.
        tokenizer: Its tokenizer.
        changes: Fields of ``TrainingConfig`` that differ from the recipe.
    """
    torch.manual_seed(0)
    apply(model, ASSISTANT)
    train(model, assistant_examples(tokenizer), TrainingConfig(**ASSISTANT_TRAINING | changes))
    return model


def pair_loss(model: "nn.Module", batch: Batch) -> torch.Tensor:
    """Return the Bradley-Terry loss of a batch of joined pairs, (batch, seq) each, a scalar."""
    return bradley_terry_loss(*pair_scores(model, batch))


def train_reward_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    pairs: Sequence[Mapping[str, str]] | None = None,
    **changes: object,
) -> "PreTrainedModel":
    """Put LoRA on a classifier of one label and tune it to prefer the chosen answers.

    Args:
        model: Classifier, as ``classifier_on`` makes it.
        tokenizer: Its tokenizer.
        pairs: Rows with ``prompt``, ``chosen`` and ``rejected``; the course's own by default.
        changes: Fields of ``TrainingConfig`` that differ from the recipe.
    """
    rows = load_task("preferences", "train") if pairs is None else pairs
    examples = [encode_pair(tokenizer, r["prompt"], r["chosen"], r["rejected"]) for r in rows]
    apply(model, REWARD)
    config = TrainingConfig(**REWARD_TRAINING | changes)
    train(model, examples, config, loss_function=pair_loss)
    return model


def classifier_on(trunk: "PreTrainedModel", source: Source = EMBEDDED) -> "PreTrainedModel":
    """Return a classifier of one label with the weights of ``trunk`` and a new head.

    Args:
        trunk: Plain language model, without an adapter.
        source: What it was loaded from.
    """
    torch.manual_seed(0)
    return copy_trunk(trunk, load_base_model(source, num_labels=1))


def copy_trunk(source: "PreTrainedModel", target: "PreTrainedModel") -> "PreTrainedModel":
    """Give ``target`` the weights of ``source`` below its head, in place, and return it."""
    target.base_model.load_state_dict(source.base_model.state_dict())
    return target


def adapter_folder(name: str) -> Path:
    """Return the folder of a shipped adapter, one of ``SHIPPED``."""
    return data_dir() / "adapters" / name


def load_assistant(source: Source = EMBEDDED, **changes: object) -> "PreTrainedModel":
    """Return the tuned assistant as a plain model, its adapter merged.

    Args:
        source: Model to start from; the shipped adapter serves the embedded one.
        changes: Fields of ``TrainingConfig``, where the adapter has to be trained first.

    Raises:
        AdapterError: If the shipped adapter is missing or damaged.
    """
    model = load_base_model(source)
    if _is_embedded(source):
        load_adapter(model, adapter_folder("assistant"))
    else:
        train_assistant(model, load_tokenizer(source), **changes)
    return remove(merge(model))


def load_reward_model(
    assistant: "PreTrainedModel", source: Source = EMBEDDED, **changes: object
) -> RewardModel:
    """Return the trained reward model, standardised on answers of the validation pairs.

    Args:
        assistant: Plain assistant, whose trunk it grows on.
        source: What the assistant was loaded from.
        changes: Fields of ``TrainingConfig``, where the adapter has to be trained first.

    Raises:
        AdapterError: If the shipped adapter is missing or damaged.
    """
    model, tokenizer = classifier_on(assistant, source), load_tokenizer(source)
    if _is_embedded(source):
        load_adapter(model, adapter_folder("reward"))
    else:
        train_reward_model(model, tokenizer, **changes)
    rows = load_task("preferences", "validation").select(range(100))
    prompts = [chat_prompt(tokenizer, row["prompt"]) for row in rows] * 2
    answers = [*rows["chosen"], *rows["rejected"]]
    return RewardModel(model, tokenizer).standardized_on(prompts, answers)


def score_pairs(
    reward: RewardModel, pairs: "Dataset", tokenizer: "PreTrainedTokenizerBase"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scores of the chosen and of the rejected answers, (n_pairs,) each."""
    prompts = [chat_prompt(tokenizer, question) for question in pairs["prompt"]]
    return reward(prompts, pairs["chosen"]), reward(prompts, pairs["rejected"])


def _is_embedded(source: Source) -> bool:
    return (source.model if isinstance(source, Profile) else str(source)) == EMBEDDED
