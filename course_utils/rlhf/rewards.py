"""Reward models: a score learnt from pairs of answers, and how far it can be believed.

A reward model is a language model with one output in the place of its vocabulary, read at the
last token of an answer.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from course_utils.data import Example, encode_answer, pad_examples
from course_utils.rlhf.advantages import check_shapes

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def last_token_index(attention_mask: Tensor) -> Tensor:
    """Return where each row's last real token stands, under left and right padding.

    Args:
        attention_mask: 1 on real tokens, 0 on padding, (batch, seq).

    Returns:
        Indices, (batch,).

    Raises:
        ValueError: If a row has no real token; the message names the row.
    """
    real = attention_mask.bool()
    if (empty := (~real.any(dim=1)).nonzero()).numel():
        raise ValueError(f"row {empty[0].item()} of the attention mask has no real token")
    positions = torch.arange(real.shape[1], device=real.device)
    return (positions * real).argmax(dim=1)


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, margin: Tensor | None = None) -> Tensor:
    """Return the loss of scores that should prefer the chosen answers, a scalar.

    ``-log sigmoid(r_chosen - r_rejected - margin)``, the mean over pairs (Ouyang et al., 2022,
    arXiv:2203.02155, eq. 1; with the margin Touvron et al., 2023, arXiv:2307.09288, eq. 2).
    The logarithm of the sigmoid is taken in one step: below -89 the sigmoid alone is 0 in float32,
    and its logarithm infinite.

    Args:
        chosen: Scores of the better answers, (batch,).
        rejected: Scores of the worse answers, (batch,).
        margin: How far apart the two should be, (batch,).

    Raises:
        ValueError: If the shapes differ.
    """
    margin = torch.zeros_like(chosen) if margin is None else margin
    check_shapes(chosen=chosen, rejected=rejected, margin=margin)
    return -torch.nn.functional.logsigmoid(chosen - rejected - margin).mean()


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
        ValueError: If the shapes differ.
    """
    check_shapes(chosen=chosen, rejected=rejected)
    difference = torch.cat([chosen - rejected, rejected - chosen])
    outcomes = torch.cat([torch.ones_like(chosen), torch.zeros_like(rejected)])
    return difference.sigmoid(), outcomes


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Probabilities beside frequencies, in bins of equal width; all (n_bins,).

    Args:
        predicted: Mean probability of the predictions in a bin, NaN where it is empty.
        observed: Share of them that came true, NaN where it is empty.
        count: Predictions in a bin.
    """

    predicted: Tensor
    observed: Tensor
    count: Tensor


def reliability(probabilities: Tensor, outcomes: Tensor, n_bins: int = 10) -> Reliability:
    """Sort predictions into bins by their probability, and see how many came true.

    Bin m of M holds the probabilities in ((m-1)/M, m/M] (Guo et al., 2017, arXiv:1706.04599,
    section 2); the first holds 0 as well.

    Args:
        probabilities: Probabilities, 0..1, (n,).
        outcomes: What happened, 0 or 1, (n,).
        n_bins: Number of bins M.

    Raises:
        ValueError: If the shapes differ, or a value is out of range.
    """
    check_shapes(probabilities=probabilities, outcomes=outcomes)
    if n_bins < 1:
        raise ValueError(f"n_bins={n_bins} must be at least 1")
    outside = probabilities[~((probabilities >= 0) & (probabilities <= 1))]
    if len(outside):
        raise ValueError(f"a probability of {outside[0].item()} must be in 0..1")
    probabilities, outcomes = probabilities.detach().double(), outcomes.double()
    bins = (probabilities * n_bins).ceil().long().clamp(min=1) - 1
    count = torch.bincount(bins, minlength=n_bins)
    predicted, observed = (
        torch.bincount(bins, weights=weights, minlength=n_bins) / count
        for weights in (probabilities, outcomes)
    )
    return Reliability(predicted=predicted, observed=observed, count=count)


def expected_calibration_error(probabilities: Tensor, outcomes: Tensor, n_bins: int = 10) -> float:
    """Return how far probabilities are from frequencies, as a mean over predictions.

    ``sum of count / n * |observed - predicted|`` (Guo et al., 2017, arXiv:1706.04599, eq. 3).

    Args:
        probabilities: Probabilities, 0..1, (n,).
        outcomes: What happened, 0 or 1, (n,).
        n_bins: Number of bins.

    Raises:
        ValueError: If there is no prediction, the shapes differ, or a value is out of range.
    """
    if not len(probabilities):
        raise ValueError("a calibration error needs at least one prediction")
    bins = reliability(probabilities, outcomes, n_bins)
    gaps = (bins.observed - bins.predicted).abs().nan_to_num(0)
    return (bins.count * gaps).sum().item() / len(probabilities)


def standardize(scores: Tensor, mean: float, std: float) -> Tensor:
    """Return scores in units of ``std`` around ``mean``.

    Pairs fix only differences of scores: where zero lies is chosen afterwards, so that a reward
    means the same from one model to the next (Ziegler et al., 2019, arXiv:1909.08593, section 2;
    Ouyang et al., 2022, arXiv:2203.02155, section 3.5).

    Raises:
        ValueError: If ``std`` is not above 0.
    """
    if not std > 0:
        raise ValueError(f"std={std} must be above 0")
    return (scores - mean) / std


def check_scores(scores: Tensor, responses: Sequence[str]) -> None:
    """Refuse scores that are not numbers.

    Raises:
        ValueError: If a score is not finite; the message says which answer's.
    """
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
        self, model: "PreTrainedModel | PeftModel", tokenizer: "PreTrainedTokenizerBase", *,
        mean: float = 0.0, std: float = 1.0, batch_size: int = 64,
    ) -> None:  # fmt: skip
        if model.config.num_labels != 1:
            raise ValueError(f"num_labels={model.config.num_labels} of a reward model must be 1")
        if model.config.pad_token_id is None or model.config.pad_token_id != tokenizer.pad_token_id:
            raise ValueError(
                f"pad_token_id={model.config.pad_token_id} of the model must be the tokenizer's "
                f"{tokenizer.pad_token_id}: the score is read at the last token that is no padding"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
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
            self.model, self.tokenizer, mean=scores.mean().item(), std=std,
            batch_size=self.batch_size,
        )  # fmt: skip

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
        scores = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return scores[:, 0].float()

    def _encode(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Example]:
        """Encode begin token, prompt and answer, without the end token that an answer gets."""
        if not len(prompts) == len(responses) > 0:
            raise ValueError(
                f"{len(prompts)} prompts and {len(responses)} responses must be as many, at least 1"
            )
        context, examples = self.model.config.max_position_embeddings, []
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
