"""Best of n: no training at all; sample several answers and keep the one that scores best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from course_utils.generation import end_tokens, generate_tokens, padding_of
from course_utils.rlhf.rollout import Reward, read_prompts, score_answers
from course_utils.validation import check_count, check_number

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class BestOfN:
    """The best answer to each prompt.

    Args:
        texts: Answers, one a prompt.
        scores: Their scores.
    """

    texts: list[str]
    scores: list[float]


def best_of_n(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    reward: Reward,
    n: int,
    *,
    max_new_tokens: int = 32,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
) -> BestOfN:
    """Answer each prompt ``n`` times and keep the answer with the highest score.

    Args:
        model: Causal language model.
        tokenizer: Its tokenizer.
        prompts: Rendered prompts, without the begin token.
        reward: Called with prompts and answers as text; one number an answer.
        n: Answers to choose from; 1 is plain sampling.
        max_new_tokens: Tokens of an answer at the most.
        temperature: Of the sampling, above 0.
        seed: Seed of the sampling.
        batch_size: Answers sampled at a time.

    Raises:
        ValueError: If ``n``, ``temperature`` or ``batch_size`` is out of range, a prompt is empty
            or too long, or a score is missing or not finite.
    """
    check_count("n", n)
    check_count("batch_size", batch_size)
    check_count("seed", seed, at_least=0)
    check_number("temperature", temperature, above=0)  # At 0 all answers are alike.
    model.eval()
    read_prompts(model, tokenizer, prompts, max_new_tokens)
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    asked, texts, scores = [prompt for prompt in prompts for _ in range(n)], [], []
    for start in range(0, len(asked), batch_size):
        some = asked[start : start + batch_size]
        answers = generate_tokens(
            model,
            *read_prompts(model, tokenizer, some, max_new_tokens),
            max_new_tokens=max_new_tokens,
            eos_token_id=end_tokens(model, tokenizer),
            pad_token_id=padding_of(tokenizer),
            temperature=temperature,
            generator=generator,
        )
        written = tokenizer.batch_decode(answers, skip_special_tokens=True)
        texts += written
        scores += score_answers(reward, some, written).tolist()
    groups = range(0, len(asked), n)
    best = [max(range(first, first + n), key=scores.__getitem__) for first in groups]
    return BestOfN(texts=[texts[i] for i in best], scores=[scores[i] for i in best])


def best_of_n_kl(n: int) -> float:
    """Return how far best-of-n lies from the model it samples from, in nats, at the most.

    ``log n - (n - 1) / n`` (Stiennon et al., 2020, arXiv:2009.01325), an upper bound, and the
    nearer the less likely two answers are to be alike (Beirami et al., 2024, arXiv:2401.01879).

    Raises:
        ValueError: If ``n`` is below 1.
    """
    check_count("n", n)
    return math.log(n) - (n - 1) / n
