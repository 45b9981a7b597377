"""What a model writes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from course_utils.generation import encode_prompts, end_tokens, generate_tokens, padding_of
from course_utils.validation import check_count, check_texts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 32,
) -> list[str]:
    """Continue each prompt, greedily or by sampling, and return the new text only.

    Args:
        model: Causal language model.
        tokenizer: Its tokenizer.
        prompts: Texts to continue.
        max_new_tokens: Tokens to add at the most.
        temperature: 0 decodes greedily; above it, samples from the softened distribution.
        seed: Seed of the sampling.
        batch_size: Prompts a pass, padded on the left.

    Raises:
        ValueError: If there is no prompt, one does not fit the model, an option is out of range, or
            the model's logits are not finite.
    """
    check_texts(prompts=prompts)
    check_count("batch_size", batch_size)
    check_count("seed", seed, at_least=0)
    device = next(model.parameters()).device
    model.eval()
    generator = torch.Generator(device).manual_seed(seed)
    texts: list[str] = []
    for start in range(0, len(prompts), batch_size):
        inputs = encode_prompts(tokenizer, prompts[start : start + batch_size])
        new = generate_tokens(
            model,
            *(tensor.to(device) for tensor in inputs),
            max_new_tokens=max_new_tokens,
            eos_token_id=end_tokens(model, tokenizer),
            pad_token_id=padding_of(tokenizer),
            temperature=temperature,
            generator=generator,
        )
        texts += tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts
