"""A tokenizer of twelve tokens and actors of two layers, for tests of rollouts and of PPO."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from course_utils.methods import apply
from course_utils.methods.lora import LoRAConfig
from course_utils.rlhf.actor import SeparateActorCritic, SharedActorCritic
from course_utils.rlhf.config import PPOConfig

PAD, BEGIN, END = 0, 1, 2
N_WORDS = 12
CONTEXT = 64
SHAPE = {
    "vocab_size": N_WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": PAD,
    "bos_token_id": BEGIN,
    "eos_token_id": END,
    "initializer_range": 0.2,
}
PROMPTS = ["w5 w6", "w7", "w8 w9 w10 w11", "w4 w5", "w8 w7 w6", "w9", "w10 w4", "w11 w11"]


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Special tokens 0 to 3, then the words w4 to w11, each one token and its own number."""
    vocabulary = {"<pad>": PAD, "<s>": BEGIN, "</s>": END, "<unk>": 3}
    vocabulary |= {f"w{i}": i for i in range(4, N_WORDS)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def tiny_policy(seed: int = 0, **changes: object) -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**SHAPE | changes)).eval()


def tiny_critic(seed: int = 1, **changes: object) -> LlamaForSequenceClassification:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(**SHAPE | {"num_labels": 1} | changes)
        return LlamaForSequenceClassification(config).eval()


def shared_actor(seed: int = 0) -> SharedActorCritic:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SharedActorCritic(apply(tiny_policy(), LoRAConfig(rank=4, alpha=8))).eval()


def separate_actor() -> SeparateActorCritic:
    return SeparateActorCritic(tiny_policy(), tiny_policy(), tiny_critic()).eval()


ACTORS = {"shared": shared_actor, "separate": separate_actor}


def disturb(model: nn.Module | PreTrainedModel, seed: int = 3) -> None:
    """Move everything that trains away from where it is."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def quick(**changes: object) -> PPOConfig:
    return PPOConfig(
        **{
            "n_updates": 3,
            "batch_size": 8,
            "minibatch_size": 4,
            "max_new_tokens": 6,
            "show_progress": False,
        }
        | changes
    )


def count_words(prompts: list[str], answers: list[str]) -> list[float]:
    """A reward: how many words an answer has."""
    return [float(len(answer.split())) for answer in answers]
