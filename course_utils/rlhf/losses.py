"""Losses of a policy and its critic, and what they are made of: log-probabilities, KL, entropy.

A mask is 1, or true, on the tokens of an answer up to and including its end token; what stands
elsewhere reaches neither a loss nor a gradient.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from course_utils.data import IGNORED
from course_utils.rlhf.masks import real_elements
from course_utils.validation import check_dimensions, check_floats, check_number, check_shapes


@dataclass(frozen=True, kw_only=True)
class PolicyLoss:
    """The clipped policy loss, and how far the policy has moved; all scalars.

    Args:
        loss: To be minimised; carries the gradient.
        clip_fraction: Share of tokens whose gradient the clip has cut off.
        approx_kl: Half the mean squared log-ratio to the policy that sampled, in nats a token
            (the estimator k2 of Schulman, http://joschu.net/blog/kl-approx.html).
        ratio: Mean of the new probability over the old.
    """

    loss: Tensor
    clip_fraction: Tensor
    approx_kl: Tensor
    ratio: Tensor


@dataclass(frozen=True, kw_only=True)
class ValueLoss:
    """The clipped value loss, and the share of tokens where the clip decides it; scalars."""

    loss: Tensor
    clip_fraction: Tensor


@dataclass(frozen=True, kw_only=True)
class DPOLoss:
    """The DPO loss and the rewards that the policy implies.

    Args:
        loss: Scalar, to be minimised; carries the gradient.
        chosen_rewards: Implicit reward of each better answer, (batch,).
        rejected_rewards: Implicit reward of each worse answer, (batch,).
    """

    loss: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


def selected_logprobs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the log-probability of each token, in nats.

    Args:
        logits: Logits, (..., vocab); those at a place predict the token given for that place.
        tokens: Tokens, (...).
        temperature: What the logits are divided by; as the tokens were sampled.

    Raises:
        ValueError: If ``temperature`` is not above 0, the shapes do not fit, or a token is none of
            the vocabulary.
    """
    check_number("temperature", temperature, above=0)
    _check_logits(logits, tokens=tokens)
    n_words = logits.shape[-1]
    if (outside := tokens[(tokens < 0) | (tokens >= n_words)]).numel():
        raise ValueError(f"token {outside[0].item()} must be in 0..{n_words - 1}, the vocabulary")
    dtype = torch.promote_types(logits.dtype, torch.float32)
    logprobs = (logits / temperature).log_softmax(dim=-1, dtype=dtype)
    return logprobs.gather(-1, tokens[..., None]).squeeze(-1)


def sequence_logprobs(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the log-probability of each answer: the sum over its tokens, in nats.

    Args:
        logits: A language model's logits, (batch, seq, vocab).
        labels: Tokens of the answer, -100 on prompt and padding, (batch, seq), not shifted.

    Returns:
        Log-probabilities, (batch,).

    Raises:
        ValueError: If a row has no token of an answer, or the shapes do not fit.
    """
    _check_logits(logits, labels=labels)
    check_dimensions("labels", labels, "(batch, seq)")
    logits, labels = logits[:, :-1], labels[:, 1:]
    is_answer = labels != IGNORED
    if (empty := (~is_answer.any(dim=1)).nonzero()).numel():
        raise ValueError(f"row {empty[0].item()} of the labels has no token of an answer")
    logprobs = selected_logprobs(logits, labels.masked_fill(~is_answer, 0))
    return logprobs.masked_fill(~is_answer, 0).sum(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the next token's distribution in nats: (..., vocab) to (...).

    A token of probability 0 adds nothing: ``p log p`` goes to 0 with p.

    Raises:
        ValueError: If the logits are no floating-point numbers.
    """
    _check_logits(logits)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    logprobs = logits.log_softmax(dim=-1, dtype=dtype).clamp(min=torch.finfo(dtype).min)
    return -(logprobs.exp() * logprobs).sum(dim=-1)


def kl_k1(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Estimate the KL of the policy from the reference by the log-ratio of each sampled token.

    ``k1 = log p - log p_ref``: right on average, negative for many tokens (Schulman, 2020,
    http://joschu.net/blog/kl-approx.html).

    Args:
        logprobs: Log-probabilities under the policy that sampled the tokens, (batch, seq).
        reference: The same under the reference, (batch, seq).
    """
    check_shapes(logprobs=logprobs, reference=reference)
    return logprobs - reference


def kl_k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Estimate the KL of the policy from the reference by a number that is never negative.

    ``k3 = q - 1 - log q`` with ``q = p_ref / p``: right on average, and of less variance than k1
    while the two are close (Schulman, 2020, http://joschu.net/blog/kl-approx.html).

    Args:
        logprobs: Log-probabilities under the policy that sampled the tokens, (batch, seq).
        reference: The same under the reference, (batch, seq).
    """
    log_ratio = -kl_k1(logprobs, reference)
    return log_ratio.expm1() - log_ratio


def clipped_surrogate(
    log_ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """Return PPO's objective, negated, of each token or answer, and where the clip cuts it off.

    ``-min(ratio A, clip(ratio, 1 - low, 1 + high) A)`` (Schulman et al., 2017, arXiv:1707.06347,
    eq. 7, with low = high; apart in Yu et al., 2025, arXiv:2503.14476, section 3.1).

    Args:
        log_ratio: New log-probability less the old, in nats, any shape.
        advantages: Advantages, of a shape that broadcasts to it.
        clip_low: How far the ratio may fall below 1 before its gradient ends, above 0.
        clip_high: How far it may rise above 1, above 0.

    Returns:
        What is to be minimised, and True where the clip decides, both of the ratio's shape.

    Raises:
        ValueError: If a clip is not above 0.
    """
    check_number("clip_low", clip_low, above=0)
    check_number("clip_high", clip_high, above=0)
    ratio = log_ratio.exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    return torch.maximum(plain, clipped), clipped > plain


def clipped_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip_range: float
) -> PolicyLoss:
    """Return PPO's loss, which gains nothing from moving further than the clip allows.

    ``-min(ratio A, clip(ratio, 1 - eps, 1 + eps) A)``, the mean over real tokens (Schulman et al.,
    2017, arXiv:1707.06347, eq. 7).

    Args:
        logprobs: Log-probabilities under the policy that is trained, (batch, seq).
        old_logprobs: The same under the policy that sampled the tokens, (batch, seq).
        advantages: Advantages, (batch, seq).
        mask: Which tokens are real, (batch, seq).
        clip_range: The eps of the paper, above 0.

    Raises:
        ValueError: If the shapes differ, no token is real or ``clip_range`` is out of range.
    """
    check_number("clip_range", clip_range, above=0)
    # Chosen before the exponential: padding could overflow in it, and its gradient become NaN.
    logprobs, old_logprobs, advantages = real_elements(
        mask, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages
    )
    log_ratio = logprobs - old_logprobs
    surrogate, is_cut = clipped_surrogate(log_ratio, advantages, clip_range, clip_range)
    log_ratio = log_ratio.detach()
    return PolicyLoss(
        loss=surrogate.mean(),
        clip_fraction=is_cut.float().mean(),
        approx_kl=0.5 * log_ratio.square().mean(),
        ratio=log_ratio.exp().mean(),
    )


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip_range: float
) -> ValueLoss:
    """Return half the squared error of the values, kept from falling by a step that is too long.

    ``max((V - R)^2, (clip(V, V_old - eps, V_old + eps) - R)^2) / 2``, the mean over real tokens
    (Engstrom et al., 2020, arXiv:2005.12729, section 3, who found it in PPO's code).

    Args:
        values: Values under the critic that is trained, (batch, seq).
        old_values: Values when the tokens were sampled, (batch, seq).
        returns: What the values should have been, (batch, seq).
        mask: Which tokens are real, (batch, seq).
        clip_range: How far a value may move, above 0.

    Raises:
        ValueError: If the shapes differ, no token is real or ``clip_range`` is out of range.
    """
    check_number("clip_range", clip_range, above=0)
    values, old_values, returns = real_elements(
        mask, values=values, old_values=old_values, returns=returns
    )
    near = values.clamp(old_values - clip_range, old_values + clip_range)
    plain, clipped = (values - returns).square(), (near - returns).square()
    return ValueLoss(
        loss=0.5 * torch.maximum(plain, clipped).mean(),
        clip_fraction=(clipped > plain).float().mean(),
    )


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
        ValueError: If the shapes differ, or there is no pair.
    """
    check_shapes(chosen=chosen, rejected=rejected)
    margin = torch.zeros_like(chosen) if margin is None else margin
    check_shapes(chosen=chosen, rejected=rejected, margin=margin)
    check_dimensions("chosen", chosen, "(batch,)")
    check_floats("chosen", chosen)
    return -torch.nn.functional.logsigmoid(chosen - rejected - margin).mean()


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> DPOLoss:
    """Return the loss of direct preference optimisation.

    The Bradley-Terry loss of the rewards ``beta (log p - log p_ref)`` that a policy implies
    (Rafailov et al., 2023, arXiv:2305.18290, eq. 7).

    Args:
        policy_chosen: Log-probabilities of the better answers under the policy, (batch,).
        policy_rejected: Those of the worse answers, (batch,).
        reference_chosen: Those of the better answers under the reference, (batch,).
        reference_rejected: Those of the worse answers under the reference, (batch,).
        beta: What a nat away from the reference is worth, above 0.

    Raises:
        ValueError: If the shapes differ or ``beta`` is out of range.
    """
    check_number("beta", beta, above=0)
    check_shapes(
        policy_chosen=policy_chosen,
        policy_rejected=policy_rejected,
        reference_chosen=reference_chosen,
        reference_rejected=reference_rejected,
    )
    chosen = beta * (policy_chosen - reference_chosen)
    rejected = beta * (policy_rejected - reference_rejected)
    return DPOLoss(
        loss=bradley_terry_loss(chosen, rejected),
        chosen_rewards=chosen.detach(),
        rejected_rewards=rejected.detach(),
    )


def _check_logits(logits: Tensor, **tokens: Tensor) -> None:
    """Check that logits are (..., vocab), and that there are tokens for all of them, (...)."""
    check_shapes(logits=logits)
    check_floats("logits", logits)
    if not logits.ndim:
        raise ValueError("logits of shape () must be (..., vocab)")
    for name, tensor in tokens.items():
        check_shapes(**tokens, logits_without_vocab=logits[..., 0])
        if tensor.dtype not in (torch.long, torch.int):
            raise ValueError(f"{name} of type {tensor.dtype} must be whole numbers, torch.long")
