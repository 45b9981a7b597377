"""Reward models: a score learnt from pairs of answers.

A reward model is a language model with one output in the place of its vocabulary, read at the
last token of an answer.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from course_utils.data import Example, encode_answer, pad_examples
from course_utils.generation import vocabulary_of
from course_utils.models.lean import lean
from course_utils.models.structure import context_of
from course_utils.validation import (
    check_as_many,
    check_count,
    check_finite,
    check_number,
    check_shapes,
    check_texts,
)

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def preference_outcomes(chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
    """Return how likely the first of two answers is the better one, and whether it is.

    The Bradley-Terry probability is the sigmoid of the difference of scores. Each pair is taken in
    both orders: with the better answer always first, every outcome would be 1.

    Args:
        chosen: Scores of the better answers, (n_pairs,).
        rejected: Scores of the worse answers, (n_pairs,).

    Returns:
        Probabilities and outcomes, 0 or 1, both (2 * n_pairs,).

    Raises:
        ValueError: If the shapes differ, there is no pair, or a score is not finite.
    """
    check_shapes(chosen=chosen, rejected=rejected)
    check_finite("chosen", chosen)
    check_finite("rejected", rejected)
    difference = torch.cat([chosen - rejected, rejected - chosen])
    outcomes = torch.cat([torch.ones_like(chosen), torch.zeros_like(rejected)])
    return difference.sigmoid(), outcomes


def standardize(scores: Tensor, mean: float, std: float) -> Tensor:
    """Return scores in units of ``std`` around ``mean``.

    Pairs fix only differences of scores: where zero lies is chosen afterwards, so that a reward
    means the same from one model to the next (Ziegler et al., 2019, arXiv:1909.08593, section 2;
    Ouyang et al., 2022, arXiv:2203.02155, section 3.5).

    Raises:
        ValueError: If there is no score, ``mean`` or ``std`` is not finite, or ``std`` is not above
            0.
    """
    check_shapes(scores=scores)
    check_number("mean", mean)
    check_number("std", std, above=0)
    return (scores - mean) / std


def check_scores(scores: Tensor, responses: Sequence[str]) -> None:
    """Refuse scores that are not numbers.

    Raises:
        ValueError: If a score is not finite; the message says which answer's.
    """
    check_shapes(scores=scores)
    check_as_many(scores=scores, responses=responses)
    for i in (~torch.isfinite(scores)).nonzero().flatten().tolist()[:1]:
        raise ValueError(
            f"the score of answer {i} ({responses[i][:60]!r}) is {scores[i].item()}: "
            "a reward must be finite"
        )


class RewardModel:
    """A trained classifier as a function from prompts and answers to scores.

    The score is read at the last token of the answer, without an end token: there the model knows
    most of what it has read (see ``course_utils.data.encode_label``).

    Args:
        model: Sequence classifier with one output; with an adapter, ours or PEFT's, or without.
        tokenizer: The model's tokenizer.
        mean: Score that counts as 0.
        std: Difference of scores that counts as 1.
        batch_size: Answers that are scored at once.

    Raises:
        ValueError: If the model has not one output, does not know the padding token, or ``std`` or
            ``batch_size`` is out of range.
    """

    def __init__(
        self,
        model: "PreTrainedModel | PeftModel",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        mean: float = 0.0,
        std: float = 1.0,
        batch_size: int = 64,
    ) -> None:
        if model.config.num_labels != 1:
            raise ValueError(f"num_labels={model.config.num_labels} of a reward model must be 1")
        if model.config.pad_token_id is None or model.config.pad_token_id != tokenizer.pad_token_id:
            raise ValueError(
                f"pad_token_id={model.config.pad_token_id} of the model must be the tokenizer's "
                f"{tokenizer.pad_token_id}: the score is read at the last token that is no padding"
            )
        n_words = vocabulary_of(model)
        check_count("pad_token_id", tokenizer.pad_token_id, at_least=0, at_most=n_words - 1)
        check_count("batch_size", batch_size)
        standardize(torch.zeros(1), mean, std)
        self.model, self.tokenizer = model, tokenizer
        self.mean, self.std, self.batch_size = mean, std, batch_size

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Score answers.

        Args:
            prompts: Prompts as they were rendered, without the begin token.
            responses: Their answers, plain text; an empty one is scored at its prompt's end.

        Returns:
            Standardised scores, (batch,).

        Raises:
            ValueError: If a score is not finite, an answer is too long, or the numbers differ.
        """
        scores = standardize(self._raw_scores(prompts, responses), self.mean, self.std)
        check_scores(scores, responses)
        return scores

    def standardized_on(self, prompts: Sequence[str], responses: Sequence[str]) -> "RewardModel":
        """Return this model with mean 0 and deviation 1 on these answers, at least two.

        Raises:
            ValueError: As when they are scored, or if all their scores are the same.
        """
        scores = self._raw_scores(prompts, responses)
        check_scores(scores, responses)
        std = scores.std().item() if len(scores) > 1 else 0.0
        return RewardModel(
            self.model,
            self.tokenizer,
            mean=scores.mean().item(),
            std=std,
            batch_size=self.batch_size,
        )

    def _raw_scores(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        examples = self._encode(prompts, responses)
        starts, was_training = range(0, len(examples), self.batch_size), self.model.training
        self.model.eval()
        try:
            scores = [self._score(examples[i : i + self.batch_size]) for i in starts]
        finally:
            self.model.train(was_training)
        return torch.cat(scores)

    @torch.no_grad()
    def _score(self, examples: Sequence[Example]) -> Tensor:
        batch = pad_examples(examples, self.tokenizer.pad_token_id)
        ids, mask = (batch[name].to(self.model.device) for name in ("input_ids", "attention_mask"))
        with lean(self.model):
            scores = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return scores[:, 0].float()

    def _encode(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Example]:
        """Encode begin token, prompt and answer, without the end token that an answer gets."""
        check_texts(prompts=prompts, responses=responses)
        context, examples = context_of(self.model) or sys.maxsize, []
        for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            whole = encode_answer(self.tokenizer, prompt, response, max_length_tokens=sys.maxsize)
            example = {name: ids[:-1] for name, ids in whole.items()}
            if not 1 <= (length := len(example["input_ids"])) <= context:
                raise ValueError(
                    f"answer {i} has {length} tokens with its prompt, which must be in "
                    f"1..{context}, the model's context"
                )
            examples.append(example)
        return examples
