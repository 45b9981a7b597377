"""Advantages: how much better an answer, or one token of it, did than was to be expected.

A mask is 1, or true, on the tokens of an answer up to and including its end token. What stands
elsewhere is padding: it counts for nothing, whatever its value, and not even if it is NaN.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from course_utils.rlhf.masks import masked_mean, masked_var, real_elements
from course_utils.validation import (
    check_count,
    check_dimensions,
    check_finite,
    check_flag,
    check_number,
    check_shapes,
)

# TRL's: small beside any spread of scores that means something, and a group of equal scores,
# which has none, gets the advantage 0.
SMALLEST_STD = 1e-4


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Estimate the advantage of every token, from the last to the first.

    Generalised advantage estimation (Schulman et al., 2015, arXiv:1506.02438, eq. 16), with
    ``delta_t = r_t + gamma V_(t+1) - V_t`` and ``A_t = delta_t + gamma lam A_(t+1)``. An answer
    ends at its last real token: nothing is worth anything after it, so V and A are 0 there.

    Args:
        rewards: Reward of every token, (batch, seq).
        values: Value expected before every token, (batch, seq).
        mask: Which tokens are real, (batch, seq).
        gamma: Discount, 0..1.
        lam: 0 for the error of one step, 1 for all that followed.

    Returns:
        Advantages, and returns (advantage plus value), both (batch, seq) and 0 on padding.

    Raises:
        ValueError: If the shapes differ, a reward or a value of a real token is not finite, or
            ``gamma`` or ``lam`` is out of range.
    """
    for name, factor in (("gamma", gamma), ("lam", lam)):
        check_number(name, factor, at_least=0, at_most=1)
    _check_real(mask, rewards=rewards, values=values)
    check_dimensions("mask", mask, "(batch, seq)")
    padding = ~mask.bool()
    rewards, values = rewards.masked_fill(padding, 0), values.masked_fill(padding, 0)
    deltas = rewards + gamma * torch.nn.functional.pad(values[:, 1:], (0, 1)) - values
    advantages, following = [], torch.zeros_like(deltas[:, 0])
    for t in reversed(range(deltas.shape[1])):
        following = (deltas[:, t] + gamma * lam * following).masked_fill(padding[:, t], 0)
        advantages.append(following)
    stacked = torch.stack(advantages[::-1], dim=1)
    return stacked, stacked + values


def whiten(values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Scale values to variance 1, and shift them to mean 0 unless told not to.

    Advantages are shifted; rewards keep their mean (Ziegler et al., 2019, arXiv:1909.08593, whose
    code TRL follows), since a shift would pay for long answers, or fine them.

    Args:
        values: Values, (batch, seq).
        mask: Which of them count, (batch, seq).
        shift_mean: Whether their mean becomes 0, and does not stay what it is.

    Returns:
        Whitened values, (batch, seq), 0 where the mask is.

    Raises:
        ValueError: If the shapes differ, a value that counts is not finite, or fewer than two
            count.
    """
    check_flag("shift_mean", shift_mean)
    _check_real(mask, values=values)
    mean = masked_mean(values, mask)
    whitened = (values - mean) * torch.rsqrt(masked_var(values, mask) + 1e-8)
    if not shift_mean:
        whitened = whitened + mean
    return whitened.masked_fill(~mask.bool(), 0)


def rloo_advantages(scores: Tensor, group_size: int) -> Tensor:
    """Compare every answer's score with the mean of the others' to the same prompt.

    REINFORCE leave-one-out (Ahmadian et al., 2024, arXiv:2402.14740; Kool et al., 2019). The
    answer's own score is no part of its baseline, which therefore adds no bias.

    Args:
        scores: One score an answer, (n_prompts * group_size,), a prompt's answers together.
        group_size: Answers a prompt, at least 2.

    Returns:
        Advantages, (n_prompts * group_size,).

    Raises:
        ValueError: If a score is not finite, or ``group_size`` is below 2 or does not divide the
            number of scores.
    """
    groups = _in_groups(scores, group_size)
    baselines = (groups.sum(dim=1, keepdim=True) - groups) / (group_size - 1)
    return (groups - baselines).flatten()


def grpo_advantages(scores: Tensor, group_size: int, scale: bool = True) -> Tensor:
    """Normalise every answer's score within the answers to the same prompt.

    ``(r - mean) / std`` (Shao et al., 2024, arXiv:2402.03300, section 4.1.2). Dividing by the
    spread weighs prompts whose answers score alike as much as any other; without it the advantages
    are those that Liu et al. (2025, arXiv:2503.20783) propose.

    Args:
        scores: One score an answer, (n_prompts * group_size,), a prompt's answers together.
        group_size: Answers a prompt, at least 2.
        scale: Whether to divide by the group's standard deviation.

    Returns:
        Advantages, (n_prompts * group_size,).

    Raises:
        ValueError: If a score is not finite, or ``group_size`` is below 2 or does not divide the
            number of scores.
    """
    check_flag("scale", scale)
    groups = _in_groups(scores, group_size)
    advantages = groups - groups.mean(dim=1, keepdim=True)
    if scale:
        advantages = advantages / (groups.std(dim=1, keepdim=True) + SMALLEST_STD)
    return advantages.flatten()


def running_baseline_advantages(
    scores: Tensor, earlier: Sequence[float], momentum: float = 0.9
) -> Tensor:
    """Compare every answer's score with a running mean of what earlier updates scored.

    REINFORCE with a baseline (Williams, 1992, section 2; "reinforcement comparison"). The mean of k
    updates ago weighs ``momentum^k``, divided by the sum of the weights; before the first update
    the baseline is 0. It is one number for all prompts, and no answer's own score is part of it.

    Args:
        scores: One score an answer, (batch,).
        earlier: Mean score of each update so far, the latest last.
        momentum: What an older update weighs beside the next younger one, 0..1.

    Returns:
        Advantages, (batch,).

    Raises:
        ValueError: If a score is not finite, or ``momentum`` is out of range.
    """
    check_number("momentum", momentum, at_least=0, at_most=1)
    check_shapes(scores=scores)
    check_finite("scores", scores)
    weights = [momentum**k for k in reversed(range(len(earlier)))]
    total = sum(weight * mean for weight, mean in zip(weights, earlier, strict=True))
    return scores - (total / sum(weights) if weights else 0.0)


def _in_groups(scores: Tensor, group_size: int) -> Tensor:
    """Return scores as (n_prompts, group_size), each less the first of its group."""
    check_count("group_size", group_size, at_least=2)
    check_shapes(scores=scores)
    if scores.ndim != 1 or len(scores) % group_size:
        raise ValueError(
            f"scores of shape {tuple(scores.shape)} must be (n_prompts * group_size,) "
            f"with group_size={group_size}"
        )
    check_finite("scores", scores)
    groups = scores.view(-1, group_size)
    # No comparison within a group sees the shift, and equal scores become exactly 0: the mean of
    # eight times 0.1 is not 0.1 in float32, and what is left over would be divided by SMALLEST_STD.
    return groups - groups[:, :1]


def _check_real(mask: Tensor, **tensors: Tensor) -> None:
    for name, real in zip(tensors, real_elements(mask, **tensors), strict=True):
        check_finite(f"{name} of real tokens", real)
