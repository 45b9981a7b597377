"""Learning from groups of answers: what GRPO and its kin do differently, as small functions.

All of them sample answers, turn scores into one advantage an answer, and raise the probability of
what did better. They differ in what an answer is compared with, in how losses become a mean, in the
clip, in where leaving the reference costs, and in which groups are learnt from. A ``Variant`` names
one function for each; another mixture is ``replace(GRPO, reduce=mean_over_tokens)``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from course_utils.rlhf.advantages import (
    grpo_advantages,
    rloo_advantages,
    running_baseline_advantages,
)
from course_utils.rlhf.losses import PolicyLoss, clipped_surrogate, kl_k3
from course_utils.rlhf.masks import masked_mean
from course_utils.validation import check_dimensions, check_mask, check_number, check_shapes

# What is rewarded: (scores, kl, kl_coef), (batch,) each and a number, to (batch,).


def scores_alone(scores: Tensor, kl: Tensor | None, kl_coef: float) -> Tensor:
    """Return the scores as they are."""
    return scores


def scores_less_kl(scores: Tensor, kl: Tensor | None, kl_coef: float) -> Tensor:
    """Return the scores less ``kl_coef`` times each answer's log-ratio to the reference.

    KL in the reward (Ziegler et al., 2019, arXiv:1909.08593, eq. 2; in Ahmadian et al., 2024,
    arXiv:2402.14740, too): a part of what answers are compared by, without a gradient of its own.
    """
    return scores if kl is None else scores - kl_coef * kl


# What an answer is compared with: (rewards, group size, earlier means) to advantages, (batch,).


def normalized_in_group(rewards: Tensor, group_size: int, earlier: Sequence[float]) -> Tensor:
    """Return ``(r - mean) / std`` of each group (Shao et al., 2024, arXiv:2402.03300, sec. 4.1.2).

    Dividing weighs a prompt the more, the more alike its answers score: one right of eight, and
    seven right of eight, above four right of eight.
    """
    return grpo_advantages(rewards, group_size)


def centred_in_group(rewards: Tensor, group_size: int, earlier: Sequence[float]) -> Tensor:
    """Return ``r - mean`` of each group (Liu et al., 2025, arXiv:2503.20783, section 3.2)."""
    return grpo_advantages(rewards, group_size, scale=False)


def against_the_others(rewards: Tensor, group_size: int, earlier: Sequence[float]) -> Tensor:
    """Return each reward less the mean of the others' (Ahmadian et al., 2024, RLOO)."""
    return rloo_advantages(rewards, group_size)


def against_the_past(rewards: Tensor, group_size: int, earlier: Sequence[float]) -> Tensor:
    """Return each reward less a running mean over earlier updates (Williams, 1992)."""
    return running_baseline_advantages(rewards, earlier)


# What has one ratio: (values, mask), (batch, new) each, to values and mask, (batch, units).


def by_token(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Leave every token for itself."""
    return values, mask


def by_answer(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Add up each answer: one action of its own, as RLOO has it (arXiv:2402.14740)."""
    return (values * mask).sum(dim=1, keepdim=True), mask[:, :1].new_ones(len(mask), 1)


# How losses become one: (losses, mask, longest), (batch, units) twice and a number, to a scalar.


def mean_of_answers(losses: Tensor, mask: Tensor, longest: int) -> Tensor:
    """Return the mean over answers of each one's mean (arXiv:2402.03300, eq. 3).

    A token of a long answer weighs less: a wrong answer costs each token the less, the longer.
    """
    return ((losses * mask).sum(dim=1) / mask.sum(dim=1)).mean()


def mean_over_tokens(losses: Tensor, mask: Tensor, longest: int) -> Tensor:
    """Return the mean over all tokens of the batch (arXiv:2503.14476, eq. 12)."""
    return (losses * mask).sum() / mask.sum()


def sum_over_longest(losses: Tensor, mask: Tensor, longest: int) -> Tensor:
    """Return the sum over tokens, over as many as there could be: answers times ``longest``.

    A constant in the place of lengths, so that none of them is favoured (arXiv:2503.20783, section
    3.2 and listing 1).
    """
    return (losses * mask).sum() / (len(losses) * longest)


# Which groups are learnt from: (scores, group size) to (n_prompts,).


def every_group(scores: Tensor, group_size: int) -> Tensor:
    """Keep all groups."""
    return torch.ones(len(scores) // group_size, dtype=torch.bool, device=scores.device)


def mixed_groups(scores: Tensor, group_size: int) -> Tensor:
    """Keep groups whose answers do not all score alike: the others have no gradient.

    Dynamic sampling (Yu et al., 2025, arXiv:2503.14476, section 3.2, eq. 11).
    """
    groups = scores.view(-1, group_size)
    return groups.amax(dim=1) > groups.amin(dim=1)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to learn from groups of answers.

    Args:
        name: What it is called.
        advantages: ``(rewards, group_size, earlier) -> (batch,)``; ``earlier`` are mean rewards of
            the updates so far.
        reduce: ``(losses, mask, longest) -> scalar``; ``longest`` is ``max_new_tokens``.
        unit: ``(values, mask) -> values, mask``: what has one ratio, a token or an answer.
        rewards: ``(scores, kl, kl_coef) -> (batch,)``: what is rewarded.
        penalty: ``(logprobs, reference) -> (batch, new)``: KL in the loss; None for none.
        keep: ``(scores, group_size) -> (n_prompts,)``: which groups are learnt from.
        clip_low: How far a ratio may fall below 1.
        clip_high: How far a ratio may rise above 1.
        smallest_group: Answers a prompt that the comparison needs.
    """

    name: str
    advantages: Callable[[Tensor, int, Sequence[float]], Tensor]
    reduce: Callable[[Tensor, Tensor, int], Tensor]
    unit: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = by_token
    rewards: Callable[[Tensor, Tensor | None, float], Tensor] = scores_alone
    penalty: Callable[[Tensor, Tensor], Tensor] | None = None
    keep: Callable[[Tensor, int], Tensor] = every_group
    clip_low: float = 0.2
    clip_high: float = 0.2
    smallest_group: int = 2

    def __post_init__(self) -> None:
        for name in ("clip_low", "clip_high"):
            check_number(name, getattr(self, name), above=0)

    @property
    def pays_for_kl(self) -> bool:
        """Whether leaving the reference has a place to cost something."""
        return self.penalty is not None or self.rewards is not scores_alone

    def facts(self) -> dict[str, str]:
        """Return what tells the variant from others, in texts: numbers, and functions' names."""
        return {
            name: getattr(value, "__qualname__", repr(value)) for name, value in vars(self).items()
        }


GRPO = Variant(name="GRPO", advantages=normalized_in_group, reduce=mean_of_answers, penalty=kl_k3)
DR_GRPO = Variant(name="Dr. GRPO", advantages=centred_in_group, reduce=sum_over_longest)
DAPO = Variant(
    name="DAPO",
    advantages=normalized_in_group,
    reduce=mean_over_tokens,
    keep=mixed_groups,
    clip_high=0.28,
)
RLOO = Variant(
    name="RLOO",
    advantages=against_the_others,
    reduce=mean_of_answers,
    unit=by_answer,
    rewards=scores_less_kl,
)
REINFORCE = Variant(
    name="REINFORCE",
    advantages=against_the_past,
    reduce=mean_of_answers,
    unit=by_answer,
    rewards=scores_less_kl,
    smallest_group=1,
)


def policy_loss(
    variant: Variant,
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    longest: int,
    reference: Tensor | None = None,
    kl_coef: float = 0.0,
) -> PolicyLoss:
    """Return a variant's loss on some answers; padding reaches neither it nor its gradient.

    Args:
        variant: Which.
        logprobs: Log-probabilities under the policy that is trained, (batch, new).
        old_logprobs: The same under the policy that sampled the tokens, (batch, new).
        advantages: One an answer, (batch,).
        mask: Which tokens are real, (batch, new), at least one of each answer.
        longest: Tokens that an answer could have.
        reference: Log-probabilities under the reference, (batch, new); needed with a price in the
            loss.
        kl_coef: Price of a nat, where the variant has one in its loss.

    Raises:
        ValueError: If the shapes differ, an answer has no real token, or a number is out of range.
    """
    check_shapes(logprobs=logprobs, old_logprobs=old_logprobs, mask=mask)
    check_dimensions("mask", mask, "(batch, seq)")
    check_mask("mask", mask)
    if advantages.shape != mask.shape[:1]:
        raise ValueError(f"advantages of shape {tuple(advantages.shape)} must be (batch,)")
    if (empty := (~mask.bool().any(dim=1)).nonzero()).numel():
        raise ValueError(f"answer {empty[0].item()} has no real token: at least one must be real")
    # Filled before the exponential: padding could overflow in it, and its gradient become NaN.
    padding = ~mask.bool()
    new, old = (values.masked_fill(padding, 0) for values in (logprobs, old_logprobs))
    weights = mask.to(new)
    log_ratio, units = variant.unit(new - old, weights)
    losses, is_cut = clipped_surrogate(
        log_ratio, advantages[:, None], variant.clip_low, variant.clip_high
    )
    if variant.penalty is not None and kl_coef:
        kl = variant.penalty(new, reference.masked_fill(padding, 0))
        losses = losses + kl_coef * variant.unit(kl, weights)[0]
    log_ratio = log_ratio.detach()
    return PolicyLoss(
        loss=variant.reduce(losses, units, longest),
        clip_fraction=masked_mean(is_cut.to(new), units),
        approx_kl=masked_mean(0.5 * log_ratio.square(), units),
        ratio=masked_mean(log_ratio.exp(), units),
    )
