"""What a rollout teaches: one score an answer becomes an advantage for every token of it."""

from dataclasses import dataclass

from torch import Tensor, nn

from course_utils.rlhf.advantages import gae, whiten
from course_utils.rlhf.config import PPOConfig
from course_utils.rlhf.losses import kl_k1
from course_utils.rlhf.masks import last_token_index
from course_utils.rlhf.rollout import Rollout


@dataclass(frozen=True, kw_only=True)
class Experience:
    """What every token of an answer was worth; all (batch, new).

    Args:
        advantages: How much better than expected, whitened; 0 on padding.
        returns: What the critic should have expected.
        value_mask: Where it should have: on the answer, or one position longer.
        kl: Log-ratio of policy and reference, in nats; 0 on padding.
    """

    advantages: Tensor
    returns: Tensor
    value_mask: Tensor
    kl: Tensor


def weigh(rollout: Rollout, kl_coef: float, config: PPOConfig) -> Experience:
    """Turn one score an answer into an advantage for every token of it.

    A token's reward is ``-kl_coef (log p - log p_ref)``; the score is added at one place alone
    (Ziegler et al., 2019, arXiv:1909.08593, eq. 2, written token by token).
    """
    mask = value_mask = rollout.response_mask
    if config.score_after_end:
        value_mask = nn.functional.pad(mask, (1, 0), value=True)[:, :-1]
    kl = kl_k1(rollout.logprobs, rollout.reference_logprobs)
    last = last_token_index(value_mask)[:, None]
    rewards = (-kl_coef * kl).scatter_add(1, last, rollout.scores[:, None])
    if config.whiten_rewards:
        rewards = whiten(rewards, value_mask, shift_mean=False)
    advantages, returns = gae(rewards, rollout.values, value_mask, config.gamma, config.lam)
    return Experience(
        advantages=whiten(advantages, mask), returns=returns, value_mask=value_mask, kl=kl
    )


def next_kl_coef(kl_coef: float, kl: float, target_kl: float | None) -> float:
    """Return the next update's price of KL: higher if the policy went too far, by 2 % at the most.

    ``kl_coef (1 + 0.1 clip((kl - target) / target, -0.2, 0.2))``, a proportional controller
    (Ziegler et al., 2019, arXiv:1909.08593, section 2.2); fixed without a target.
    """
    if target_kl is None:
        return kl_coef
    error = (kl - target_kl) / target_kl
    return kl_coef * (1 + 0.1 * min(max(error, -0.2), 0.2))
