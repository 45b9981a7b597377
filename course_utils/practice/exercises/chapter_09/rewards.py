"""What an answer earns, token by token: the score at its end and the KL along the way."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from course_utils.practice.exercises.chapter_09.answers import answer_mask, two_results
from course_utils.practice.exercises.check import Check
from course_utils.practice.exercises.compare import expect_tensor
from course_utils.practice.exercises.material import draw
from course_utils.rlhf.losses import kl_k1, kl_k3

PerToken = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


def _verify_rewards(per_token_rewards: PerToken) -> None:
    for seed, kl_coef in ((0, 0.1), (10, 0.5)):
        logprobs, reference = -draw(3, 5, seed=seed).abs(), -draw(3, 5, seed=seed + 1).abs()
        rollout = (logprobs, reference, draw(3, seed=seed + 2), answer_mask())
        slips = [(slip(*rollout, kl_coef), sentence) for slip, sentence in _REWARD_SLIPS]
        found = per_token_rewards(*(tensor.clone() for tensor in rollout), kl_coef)
        expect_tensor(found, _rewards(*rollout, kl_coef), what="the rewards", slips=slips)


def _rewards(
    logprobs: Tensor, reference: Tensor, scores: Tensor, mask: Tensor, kl_coef: float
) -> Tensor:
    rewards = -kl_coef * (logprobs - reference) * mask
    rewards[torch.arange(len(scores)), mask.sum(dim=1) - 1] += scores
    return rewards


def _with_score(rewards: Tensor, scores: Tensor, places: Tensor) -> Tensor:
    return rewards + scores[:, None] * (torch.arange(rewards.shape[1]) == places[:, None])


def _overwrite(
    logprobs: Tensor, reference: Tensor, scores: Tensor, mask: Tensor, kl_coef: float
) -> Tensor:
    rewards = -kl_coef * (logprobs - reference) * mask
    rewards[torch.arange(len(scores)), mask.sum(dim=1) - 1] = scores
    return rewards


def _sum_up(
    logprobs: Tensor, reference: Tensor, scores: Tensor, mask: Tensor, kl_coef: float
) -> Tensor:
    kl = ((logprobs - reference) * mask).sum(dim=1)
    return _with_score(torch.zeros_like(logprobs), scores - kl_coef * kl, mask.sum(dim=1) - 1)


_EVERYWHERE = (
    "the score stands on every token: an answer then earns it once a token, and the "
    "policy learns to write long ones"
)
_LAST_COLUMN = (
    "the score is in the last column, which in a short answer is padding; it belongs "
    "to the last real token, column mask.sum(1) - 1"
)
_REWARD_SLIPS: tuple[tuple[PerToken, str], ...] = (
    (lambda p, q, s, m, c: -c * (p - q) * m + s[:, None] * m, _EVERYWHERE),
    (lambda p, q, s, m, c: -c * (p - q) + s[:, None], _EVERYWHERE),
    (lambda p, q, s, m, c: _with_score(-c * (p - q) * m, s, m.sum(1) * 0 + 4), _LAST_COLUMN),
    (lambda p, q, s, m, c: _with_score(-c * (p - q), s, m.sum(1) * 0 + 4), _LAST_COLUMN),
    (
        lambda p, q, s, m, c: _rewards(q, p, s, m, c),
        "the sign of the KL is wrong: this pays for "
        "leaving the reference; a token that the policy likes better than the reference costs",
    ),
    (
        lambda p, q, s, m, c: _with_score(-c * (p - q), s, m.sum(1) - 1),
        "the KL of the padding "
        "counts: what stands after the end was not written by the policy, set it to 0",
    ),
    (
        lambda p, q, s, m, c: _with_score(-c * (p - q) * m, s, m.sum(1).clamp(max=4)),
        "the score "
        "comes one token late: the last of n tokens is in column n - 1 (TRL pays it on the token "
        "after the end, and has its critic value that one, too)",
    ),
    (
        lambda p, q, s, m, c: _with_score(-c * kl_k3(p, q) * m, s, m.sum(1) - 1),
        "that charges k3; each token pays the plain difference of its log-probabilities, k1",
    ),
    (_overwrite, "the score has overwritten the KL of the last token: add the two"),
    (
        _sum_up,
        "the whole KL is charged at the end: leave each token its own, which tells the "
        "policy where it left the reference",
    ),
    (lambda p, q, s, m, c: -c * (p - q) * m, "the scores are missing"),
    (lambda p, q, s, m, c: _rewards(p, q, s, m, 1.0), "the KL is not multiplied by kl_coef"),
    (
        lambda p, q, s, m, c: _rewards(p, torch.zeros_like(q), s, m, c),
        "the reference is missing: "
        "that charges for every unlikely token, not for the distance from the reference",
    ),
)

REWARDS = Check(
    name="09-rewards",
    verify=_verify_rewards,
    solution=_rewards,
    rejects=(
        *_REWARD_SLIPS,
        (lambda p, q, s, m, c: _rewards(p, q, s, m, c).sum(1), "has shape (3,), not (3, 5)"),
        (lambda p, q, s, m, c: _rewards(p, q, s, m, 0.1), "right shape, but is off"),
    ),
    insight="One score for the whole answer, and a price at every token for leaving the reference: "
    "GAE has to spread the first, the second is already where it belongs.",
)


def _verify_kl(kl_estimates: Callable[[Tensor, Tensor], Any]) -> None:
    for seed in (0, 10):
        p, q = -draw(4, 6, seed=seed).abs(), -draw(4, 6, seed=seed + 1).abs()
        found = two_results(kl_estimates(p.clone(), q.clone()), "k1 and k3")
        expected = (kl_k1(p, q), kl_k3(p, q))
        for k, name in enumerate(("k1", "k3")):
            slips = [(slip(p, q)[k], sentence) for slip, sentence in _KL_SLIPS]
            expect_tensor(found[k], expected[k], what=name, slips=slips)


def _estimates(logprobs: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    log_ratio = reference - logprobs
    return -log_ratio, log_ratio.exp() - 1 - log_ratio


def _k3_with(k3: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return a right k1 beside another function of log(p_ref / p)."""
    return lambda p, q: (p - q, k3(q - p))


_KL_SLIPS: tuple[tuple[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], str], ...] = (
    (
        lambda p, q: (q - p, _estimates(p, q)[1]),
        "k1 has the ratio upside down: policy minus reference, as it is the policy that the "
        "samples come from; on average yours is minus the KL",
    ),
    (
        _k3_with(lambda x: (-x).exp() - 1 + x),
        "k3 has the ratio upside down: its q is reference "
        "over policy; over the policy's samples policy over reference does not average to 1",
    ),
    (
        lambda p, q: ((p - q).abs(), _estimates(p, q)[1]),
        "the absolute value makes k1 positive, "
        "and its mean too large; single tokens may be negative, the KL is their mean",
    ),
    (
        lambda p, q: ((p - q).square(), _estimates(p, q)[1]),
        "a square makes k1 positive, but its mean is not the KL; k1 is the plain difference",
    ),
    (
        lambda p, q: ((p - q).square() / 2, _estimates(p, q)[1]),
        "half the square is k2, which is "
        "near the KL only where policy and reference are near; k1 is the plain difference",
    ),
    (
        _k3_with(lambda x: x.square() / 2),
        "half the square is k2, another estimator, and off on "
        "average; k3 is q - 1 - log q with q = reference over policy",
    ),
    (
        _k3_with(lambda x: x.exp() - x),
        "in k3 the 1 is not subtracted: at equal probabilities it must be 0",
    ),
    (_k3_with(lambda x: x.exp() - 1 + x), "in k3 log q is subtracted, not added"),
    (
        _k3_with(lambda x: x.exp() - 1),
        "k3 is q - 1 - log q, and log q is missing; q - 1 alone is 0 on average whatever the KL is",
    ),
    (_k3_with(lambda x: -x), "both are k1; k3 adds q - 1, which is 0 on average"),
    (lambda p, q: _estimates(p, q)[::-1], "the two are swapped: k1 first, k3 second"),
    (
        lambda p, q: (p.exp() * (p - q), _estimates(p, q)[1]),
        "k1 is weighted by the probability: "
        "sampling has done that already, as likely tokens come up more often",
    ),
)

KL = Check(
    name="09-kl",
    verify=_verify_kl,
    solution=_estimates,
    rejects=(
        *_KL_SLIPS,
        (lambda p, q: p - q, "two tensors: k1 and k3"),
        (lambda p, q: tuple(k.mean() for k in _estimates(p, q)), "k1 has shape (), not (4, 6)"),
    ),
    insight="Over the policy's own samples both average to the KL; k1 is negative for many tokens, "
    "k3 for none.",
)
