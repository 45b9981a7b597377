"""What is better than expected: by a critic, token by token, or by the other answers of a group."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from course_utils.practice.exercises.chapter_09.answers import answer_mask, two_results
from course_utils.practice.exercises.check import Check, Wrong
from course_utils.practice.exercises.compare import expect_tensor
from course_utils.practice.exercises.material import draw
from course_utils.rlhf.advantages import gae, grpo_advantages, rloo_advantages

Advantages = Callable[[Tensor, Tensor, Tensor, float, float], Tensor]


def _verify_gae(advantages: Advantages) -> None:
    mask = answer_mask()
    for seed, gamma, lam in ((0, 0.9, 0.7), (10, 0.6, 0.95)):
        # As in training: no reward on padding, but the critic has said something there, too.
        rewards, values = draw(3, 5, seed=seed) * mask, draw(3, 5, seed=seed + 1)
        expected, _ = gae(rewards, values, mask, gamma, lam)
        found = advantages(rewards.clone(), values.clone(), mask.clone(), gamma, lam)
        is_whole = isinstance(found, Tensor) and found.shape == mask.shape
        slips = [
            (slip(rewards, values, mask, gamma, lam) * mask, sentence)
            for slip, sentence in _GAE_SLIPS
        ]
        real = found.masked_fill(~mask, 0) if is_whole else found
        expect_tensor(real, expected, what="the advantages", slips=slips)
        if found[~mask].any():
            raise Wrong(
                "right on the real tokens, but padding must get 0: whatever takes a mean "
                "over the tensor would count it"
            )


def _backward(deltas: Tensor, factor: float) -> Tensor:
    """Return the sums of what follows, each step on multiplied by ``factor``."""
    advantages, following = torch.zeros_like(deltas), torch.zeros_like(deltas[:, 0])
    for t in reversed(range(deltas.shape[1])):
        following = deltas[:, t] + factor * following
        advantages[:, t] = following
    return advantages


def _forward(deltas: Tensor, factor: float) -> Tensor:
    return _backward(deltas.flip(1), factor).flip(1)


def _deltas(rewards: Tensor, values: Tensor, gamma: float) -> Tensor:
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    return rewards + gamma * following - values


def _gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    return _backward(_deltas(rewards * mask, values * mask, gamma), gamma * lam)


_ACROSS = (
    "it looks across the end of an answer: V and A of the token after the last real one are "
    "0, whatever the critic says about padding"
)
_GAE_SLIPS: tuple[tuple[Advantages, str], ...] = (
    (lambda r, v, m, g, lam: _backward(_deltas(r, v, g), g * lam), _ACROSS),
    (lambda r, v, m, g, lam: _backward(_deltas(r, v, g) * m, g * lam), _ACROSS),
    (
        lambda r, v, m, g, lam: _backward(_deltas(r, v * m, g), g),
        "gamma without lambda: the advantage that follows is multiplied by gamma and by lam",
    ),
    (
        lambda r, v, m, g, lam: _backward(_deltas(r, v * m, g), lam),
        "lambda without gamma: the advantage that follows is multiplied by gamma and by lam",
    ),
    (
        lambda r, v, m, g, lam: _backward(_deltas(r, v * m, 1), g * lam),
        "the value that follows is not discounted: delta has gamma times it",
    ),
    (
        lambda r, v, m, g, lam: _backward(_deltas(r, v * m, g * lam), g * lam),
        "lam belongs to the "
        "advantage that follows, not to the value that follows: delta has gamma alone",
    ),
    (
        lambda r, v, m, g, lam: _forward(_deltas(r, v * m, g), g * lam),
        "the recursion runs "
        "forwards, and credits a token with what came before it: begin at the last",
    ),
    (
        lambda r, v, m, g, lam: _deltas(r, v * m, g),
        "those are the deltas, lambda = 0: add gamma lam times the advantage that follows",
    ),
    (
        lambda r, v, m, g, lam: _gae(r, v, m, g, lam) + v * m,
        "those are the returns, advantage plus value: what the critic should have said",
    ),
    (
        lambda r, v, m, g, lam: _backward(r, g),
        "those are discounted rewards: nothing says what was "
        "to be expected, since the values are missing",
    ),
)

GAE = Check(
    name="09-gae",
    verify=_verify_gae,
    solution=_gae,
    rejects=(
        *_GAE_SLIPS,
        (lambda r, v, m, g, lam: _gae(r, v, m, g, lam) - v * ~m, "padding must get 0"),
        (lambda r, v, m, g, lam: -_gae(r, v, m, g, lam), "wrong sign"),
        (lambda r, v, m, g, lam: _gae(r, v, m, g, lam).sum(1), "has shape (3,)"),
        (lambda r, v, m, g, lam: gae(r, v, m, g, lam), "must be a tensor, not tuple"),
    ),
    insight="lam = 1 adds up all that followed and is noisy; lam = 0 believes the critic after one "
    "token.",
)


def _verify_groups(group_advantages: Callable[[Tensor, int], Any]) -> None:
    # Not as many prompts as answers, and in the second batch one prompt is scored alike throughout.
    tied = torch.cat([draw(4, seed=1), torch.full((4,), 0.5)])
    for scores in (draw(12) + torch.arange(12) // 4, tied):
        found = two_results(group_advantages(scores.clone(), 4), "RLOO's and GRPO's advantages")
        expected = (rloo_advantages(scores, 4), grpo_advantages(scores, 4))
        for k, name in enumerate(("RLOO's advantages", "GRPO's advantages")):
            slips = [(slip(scores, 4)[k], sentence) for slip, sentence in _GROUP_SLIPS]
            slips.append((expected[k].view(-1, 4), f"{name} are right, but in rows: flatten them"))
            _complain_of_ties(found[k], name)
            # Loose, so that it does not matter what is added to the standard deviation.
            expect_tensor(found[k], expected[k], what=name, rel=1e-3, slips=slips)


def _complain_of_ties(found: object, name: str) -> None:
    if isinstance(found, Tensor) and found.isnan().any():
        raise Wrong(
            f"{name} hold NaN: where all answers to a prompt score alike the standard "
            "deviation is 0, and 0 / 0 is NaN; add a small number to it"
        )


def _groups(scores: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    groups = scores.view(-1, group_size)
    others = (groups.sum(dim=1, keepdim=True) - groups) / (group_size - 1)
    centred = groups - groups.mean(dim=1, keepdim=True)
    scaled = centred / (groups.std(dim=1, keepdim=True) + 1e-4)
    return (groups - others).flatten(), scaled.flatten()


def _interleaved(scores: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    turned = scores.view(group_size, -1).T.flatten()
    return tuple(a.view(-1, group_size).T.flatten() for a in _groups(turned, group_size))


def _over_batch(scores: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    return _groups(scores, len(scores))


def _centred(scores: Tensor, group_size: int) -> Tensor:
    groups = scores.view(-1, group_size)
    return (groups - groups.mean(dim=1, keepdim=True)).flatten()


def _biased_std(scores: Tensor, group_size: int) -> Tensor:
    std = scores.view(-1, group_size).std(dim=1, correction=0)
    return _centred(scores, group_size) / (std.repeat_interleave(group_size) + 1e-4)


_GROUP_SLIPS: tuple[tuple[Callable[[Tensor, int], tuple[Tensor, Tensor]], str], ...] = (
    (
        lambda s, n: (_centred(s, n), _groups(s, n)[1]),
        "RLOO's baseline includes the answer itself: "
        "leave it out, and take the mean of the other group_size - 1",
    ),
    (
        lambda s, n: ((s - s.mean()), _groups(s, n)[1]),
        "RLOO's baseline is the mean of the batch: "
        "an easy prompt then makes all its answers look good; compare within a prompt",
    ),
    (
        lambda s, n: (_over_batch(s, n)[0], _groups(s, n)[1]),
        "RLOO's baseline is the mean of all "
        "other answers of the batch; only those to the same prompt count",
    ),
    (
        lambda s, n: (s - (_sums(s, n) - s) / n, _groups(s, n)[1]),
        "the sum of the others is divided by group_size, but there are group_size - 1 of them",
    ),
    (
        lambda s, n: (_groups(s, n)[0], _centred(s, n) / (s.std() + 1e-4)),
        "GRPO's standard "
        "deviation is that of the batch: each prompt's answers are scaled by their own",
    ),
    (
        lambda s, n: (_groups(s, n)[0], _over_batch(s, n)[1]),
        "GRPO's mean and standard deviation are those of the batch: take both within a prompt",
    ),
    (
        lambda s, n: (_groups(s, n)[0], _centred(s, n)),
        "GRPO's advantages are not divided by the "
        "standard deviation (Dr. GRPO leaves it out; here it is asked)",
    ),
    (
        lambda s, n: (_groups(s, n)[0], _groups(s, n)[0] * _groups(s, n)[1] / _centred(s, n)),
        "GRPO subtracts the mean of the whole group; leaving one out is RLOO",
    ),
    (
        lambda s, n: (_groups(s, n)[0], _biased_std(s, n)),
        "GRPO's standard deviation divides by n; torch's std divides by n - 1, and so does TRL",
    ),
    (
        _interleaved,
        "the groups are misread: the answers to a prompt stand together, so "
        "scores.view(-1, group_size) has one prompt a row",
    ),
    (lambda s, n: _groups(s, n)[::-1], "the two are swapped: RLOO first, GRPO second"),
)


def _sums(scores: Tensor, group_size: int) -> Tensor:
    return scores.view(-1, group_size).sum(dim=1).repeat_interleave(group_size)


def _without_epsilon(scores: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    std = scores.view(-1, group_size).std(dim=1).repeat_interleave(group_size)
    return _groups(scores, group_size)[0], _centred(scores, group_size) / std


GROUPS = Check(
    name="09-groups",
    verify=_verify_groups,
    solution=_groups,
    rejects=(
        *_GROUP_SLIPS,
        (_without_epsilon, "0 / 0 is NaN"),
        (lambda s, n: _groups(s, n)[0], "return two tensors"),
        (lambda s, n: tuple(a.view(-1, n) for a in _groups(s, n)), "flatten them"),
    ),
    insight="RLOO's advantage is group_size / (group_size - 1) times GRPO's before the division: "
    "they differ in the scale of each prompt, not in the order of its answers.",
)
