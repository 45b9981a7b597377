"""Chapter 09's checks take right answers in any form, and agree with what PPO's loop does."""

import pytest
import torch
from torch import tensor
from torch.nn.functional import softplus

from course_utils.practice.exercises import attempt
from course_utils.practice.exercises.chapter_09 import CLIP, DPO, GAE, GROUPS, KL, REWARDS
from course_utils.rlhf.advantages import gae
from course_utils.rlhf.config import PPOConfig
from course_utils.rlhf.experience import weigh
from course_utils.rlhf.rollout import Rollout

MASK = tensor([[True, True, True], [True, False, False]])


def rewards_by_loop(logprobs, reference, scores, mask, kl_coef):
    rewards = torch.zeros_like(logprobs)
    for i in range(len(scores)):
        n = int(mask[i].sum())
        for t in range(n):
            rewards[i, t] = kl_coef * (reference[i, t] - logprobs[i, t])
        rewards[i, n - 1] = rewards[i, n - 1] + scores[i]
    return rewards


def rewards_in_place(logprobs, reference, scores, mask, kl_coef):
    logprobs -= reference
    logprobs *= -kl_coef
    logprobs[~mask] = 0
    last = mask.long().cumsum(1).argmax(1, keepdim=True)
    return logprobs.scatter_add_(1, last, scores[:, None])


def rewards_by_where(logprobs, reference, scores, mask, kl_coef):
    is_last = mask & (mask.cumsum(1) == mask.sum(1, keepdim=True))
    fine = torch.where(mask, kl_coef * (logprobs - reference), 0.0)
    return torch.where(is_last, scores[:, None], 0.0).double() - fine


def gae_by_sums(rewards, values, mask, gamma, lam):
    """Equation 16 as it is written, a sum over all that follows."""
    advantages = torch.zeros_like(rewards)
    for i, n in enumerate(mask.sum(1).tolist()):
        v = [*values[i, :n].tolist(), 0.0]
        deltas = [rewards[i, t] + gamma * v[t + 1] - v[t] for t in range(n)]
        for t in range(n):
            advantages[i, t] = sum((gamma * lam) ** k * d for k, d in enumerate(deltas[t:]))
    return advantages


def gae_with_is_next(rewards, values, mask, gamma, lam):
    n_tokens, following, columns = rewards.shape[1], 0.0, []
    for t in range(n_tokens - 1, -1, -1):
        is_next = mask[:, t + 1].float() if t + 1 < n_tokens else torch.zeros(len(mask))
        next_value = values[:, min(t + 1, n_tokens - 1)] * is_next
        following = rewards[:, t] + gamma * next_value - values[:, t] + gamma * lam * following
        following = following * mask[:, t]
        columns.insert(0, following)
    return torch.stack(columns, dim=1)


def loss_by_max(logprobs, old_logprobs, advantages, mask, clip_range):
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
    losses = torch.max(-advantages * ratio, -advantages * clipped)
    return (losses * mask).sum() / mask.sum()


def loss_by_cases(logprobs, old_logprobs, advantages, mask, clip_range):
    ratio = (logprobs - old_logprobs).exp()
    up, down = ratio.clamp(max=1 + clip_range), ratio.clamp(min=1 - clip_range)
    objective = torch.where(advantages > 0, up, down) * advantages
    return -objective.masked_select(mask).mean()


def estimates_from_ratio(logprobs, reference):
    q = reference.exp() / logprobs.exp()
    return [-q.log(), q - torch.ones_like(q) - q.log()]


def estimates_by_expm1(logprobs, reference):
    log_q = (reference - logprobs).double()
    return -log_q, log_q.expm1() - log_q


def groups_by_loop(scores, group_size):
    rloo, grpo = [], []
    for group in scores.split(group_size):
        for i, score in enumerate(group):
            others = torch.cat([group[:i], group[i + 1 :]])
            rloo.append(score - others.mean())
            grpo.append((score - group.mean()) / (group.std() + 1e-8))
    return torch.stack(rloo), torch.stack(grpo)


def groups_by_factor(scores, group_size):
    groups = scores.reshape(-1, group_size)
    centred = groups - groups.mean(-1, keepdim=True)
    std = groups.std(-1, keepdim=True).clamp(min=1e-6)
    return (centred * group_size / (group_size - 1)).reshape(-1), (centred / std).reshape(-1)


def dpo_by_softplus(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta):
    policy = policy_chosen.sum(-1) - policy_rejected.sum(-1)
    reference = reference_chosen.sum(-1) - reference_rejected.sum(-1)
    return softplus(-beta * (policy - reference)).mean()


def dpo_by_rewards(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta):
    chosen = beta * (policy_chosen - reference_chosen).sum(1)
    rejected = beta * (policy_rejected - reference_rejected).sum(1)
    pairs = zip(chosen, rejected, strict=True)
    return sum(-torch.log_softmax(torch.stack(pair), dim=0)[0] for pair in pairs) / len(chosen)


RIGHT = [
    *((REWARDS, f) for f in (rewards_by_loop, rewards_in_place, rewards_by_where)),
    *((GAE, f) for f in (gae_by_sums, gae_with_is_next)),
    *((CLIP, f) for f in (loss_by_max, loss_by_cases)),
    *((KL, f) for f in (estimates_from_ratio, estimates_by_expm1)),
    *((GROUPS, f) for f in (groups_by_loop, groups_by_factor)),
    *((DPO, f) for f in (dpo_by_softplus, dpo_by_rewards)),
]


@pytest.mark.parametrize(("check", "answer"), RIGHT, ids=lambda value: getattr(value, "name", None))
def test_a_right_answer_may_be_written_in_any_way(check, answer):
    verdict = attempt(check, answer)
    assert verdict, verdict


@pytest.mark.parametrize("check", [REWARDS, GAE, CLIP, KL, GROUPS, DPO], ids=lambda c: c.name)
def test_every_mistake_has_a_message_of_its_own(check):
    messages = {attempt(check, wrong).message for wrong, _ in check.rejects}
    assert len(messages) == len({fragment for _, fragment in check.rejects})


def test_the_rewards_of_two_short_answers():
    logprobs, reference = (
        tensor([[-1.0, -2, -3], [-1, -9, -9]]),
        tensor([[-2.0, -2, -1], [-3, 0, 0]]),
    )
    rewards = REWARDS.solution(logprobs, reference, tensor([5.0, -1]), MASK, 0.5)
    # -0.5 times 1, 0 and -2, and of the other answer times 2; the scores are added at the end.
    torch.testing.assert_close(rewards, tensor([[-0.5, 0, 1 + 5], [-1 - 1, 0, 0]]))


def test_the_advantages_of_two_short_answers():
    rewards, values = tensor([[0.0, 0, 1], [2, 0, 0]]), tensor([[0.5, 0.25, 0.5], [1, 7, 7]])
    advantages = GAE.solution(rewards, values, MASK, 1.0, 0.5)
    # The deltas are -0.25, 0.25 and 0.5; the critic's 7 stands after the end and is nobody's.
    torch.testing.assert_close(advantages, tensor([[0, 0.5, 0.5], [1, 0, 0]]))


def test_rewards_and_advantages_are_those_that_ppo_learns_from():
    draws = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0))
    logprobs, reference, values, scores = *draws, tensor([1.0, -2])
    rollout = Rollout(
        sequences=torch.zeros(2, 4),
        attention_mask=torch.ones(2, 4),
        response_mask=MASK,
        logprobs=logprobs * MASK,
        reference_logprobs=reference * MASK,
        values=values,
        scores=scores,
        texts=["", ""],
    )
    config = PPOConfig(gamma=0.9, lam=0.8)
    rewards = REWARDS.solution(logprobs, reference, scores, MASK, 0.1)
    advantages = GAE.solution(rewards, values, MASK, 0.9, 0.8)
    returns = weigh(rollout, 0.1, config).returns
    torch.testing.assert_close(advantages + values * MASK, returns)
    torch.testing.assert_close(advantages, gae(rewards, values, MASK, 0.9, 0.8)[0])


def test_both_estimates_average_to_the_kl():
    # Each token as often as the policy samples it, so that the mean is exact.
    policy, reference = tensor([0.5, 0.3, 0.2]).double(), tensor([0.2, 0.2, 0.6]).double()
    samples = torch.arange(3).repeat_interleave(tensor([5, 3, 2]))
    k1, k3 = KL.solution(policy.log()[samples], reference.log()[samples])
    kl = (policy * (policy / reference).log()).sum()
    torch.testing.assert_close(k1.mean(), kl)
    torch.testing.assert_close(k3.mean(), kl)
    assert k1.min() < 0 <= k3.min()
