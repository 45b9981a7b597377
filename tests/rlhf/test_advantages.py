import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from course_utils.rlhf.advantages import gae, grpo_advantages, rloo_advantages, whiten
from course_utils.rlhf.masks import masked_mean, masked_var

GARBAGE = [math.nan, math.inf, -math.inf, 1e30, -7.0]


def answers(seed: int, batch: int = 4, length: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Random rewards and values, and the mask of answers that end at different places."""
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, batch, length, generator=generator)
    ends = torch.randint(2, length + 1, (batch,), generator=generator)
    return rewards, values, (torch.arange(length) < ends[:, None]).long()


# GAE


def test_gae_by_hand():
    # gamma = lam = 1/2, so A_t = delta_t + A_(t+1) / 4.
    # First row: delta = 1 + 4/2 - 2, 2 + 8/2 - 4, 4 - 8 = 1, 2, -4; A = 1 + 1/4, 2 - 4/4, -4.
    # Second row, of two tokens: delta = 1 + 4/2 - 2, 2 - 4 = 1, -2; A = 1 - 2/4, -2.
    rewards = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
    values = torch.tensor([[2.0, 4.0, 8.0], [2.0, 4.0, 8.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    advantages, returns = gae(rewards, values, mask, gamma=0.5, lam=0.5)
    assert advantages.tolist() == [[1.25, 1.0, -4.0], [0.5, -2.0, 0.0]]
    assert returns.tolist() == [[3.25, 5.0, 4.0], [2.5, 2.0, 0.0]]


@pytest.mark.parametrize("seed", range(3))
def test_with_gamma_and_lam_1_the_advantage_is_what_followed_less_the_value(seed: int):
    rewards, values, mask = answers(seed)
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    to_come = (rewards * mask).flip(1).cumsum(1).flip(1) * mask
    assert torch.allclose(returns, to_come, atol=1e-5)
    assert torch.allclose(advantages, to_come - values * mask, atol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.7, 1.0])
def test_with_lam_0_the_advantage_is_the_error_of_one_step(gamma: float):
    rewards, values, mask = answers(0)
    advantages, _ = gae(rewards, values, mask, gamma=gamma, lam=0.0)
    after = torch.cat([(values * mask)[:, 1:], torch.zeros(len(values), 1)], dim=1)
    assert torch.allclose(advantages, (rewards + gamma * after - values) * mask, atol=1e-6)


def test_gae_is_the_weighted_sum_of_errors_that_the_paper_defines():
    rewards, values, _ = answers(1)
    gamma, lam, length = 0.9, 0.8, rewards.shape[1]
    after = torch.cat([values[:, 1:], torch.zeros(len(values), 1)], dim=1)
    deltas = rewards + gamma * after - values
    expected = torch.stack(
        [
            sum((gamma * lam) ** k * deltas[:, t + k] for k in range(length - t))
            for t in range(length)
        ],
        dim=1,
    )
    advantages, _ = gae(rewards, values, torch.ones_like(rewards), gamma, lam)
    assert torch.allclose(advantages, expected, atol=1e-5)


def test_an_answer_gets_alone_what_it_gets_beside_longer_ones():
    rewards, values, mask = answers(2)
    together = gae(rewards, values, mask, 0.9, 0.95)
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        one = slice(row, row + 1)
        alone = gae(rewards[one, :length], values[one, :length], mask[one, :length], 0.9, 0.95)
        for ours, expected in zip(together, alone, strict=True):
            assert torch.equal(ours[row, :length], expected[0])


def test_two_answers_in_one_row_do_not_see_each_other():
    rewards, values = torch.randn(2, 1, 5)
    mask = torch.tensor([[1, 1, 0, 1, 1]])
    advantages, _ = gae(rewards, values, mask, 1.0, 0.9)
    first, _ = gae(rewards[:, :2], values[:, :2], mask[:, :2], 1.0, 0.9)
    assert torch.allclose(advantages[:, :2], first)
    assert advantages[0, 2] == 0


@pytest.mark.parametrize(
    ("gamma", "lam"),
    [(1.2, 0.9), (-0.1, 0.9), (1.0, 1.5), (math.nan, 1.0), ("1", 1.0), (1.0, True)],
)
def test_discounts_out_of_range_are_named(gamma: float, lam: float):
    with pytest.raises(ValueError, match=r"(gamma|lam)=\S+ must be .*in 0..1"):
        gae(*answers(0), gamma, lam)


# Means and whitening


def test_masked_moments_by_hand():
    # Of 1, 3, 8 and 100 the first three count: mean 4, variance (9 + 1 + 16) / 2 = 13.
    values, mask = torch.tensor([[1.0, 3.0], [8.0, 100.0]]), torch.tensor([[1, 1], [1, 0]])
    assert masked_mean(values, mask).item() == 4
    assert masked_var(values, mask).item() == 13


def test_whitening_by_hand():
    # Of 1 and 3 the mean is 2 and the variance 2: they become -+1 / sqrt(2), or 2 -+ 1 / sqrt(2).
    values, mask = torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[1, 1, 0]])
    root = 2**-0.5
    assert whiten(values, mask).tolist() == [pytest.approx([-root, root, 0])]
    kept = whiten(values, mask, shift_mean=False)
    assert kept.tolist() == [pytest.approx([2 - root, 2 + root, 0])]


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitening_leaves_variance_1_and_the_mean_as_told(shift_mean: bool):
    values, _, mask = answers(3)
    values = 5 * values + 2
    whitened = whiten(values, mask, shift_mean=shift_mean)
    assert masked_var(whitened, mask).item() == pytest.approx(1, abs=1e-5)
    mean = 0.0 if shift_mean else masked_mean(values, mask).item()
    assert masked_mean(whitened, mask).item() == pytest.approx(mean, abs=1e-5)


def test_equal_values_whiten_to_zero_and_not_to_nan():
    assert whiten(torch.full((2, 3), 4.0), torch.ones(2, 3)).tolist() == [[0.0] * 3] * 2


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.sampled_from(GARBAGE))
def test_what_stands_on_padding_never_counts(seed: int, garbage: float):
    rewards, values, mask = answers(seed)
    padding = mask == 0
    spoilt_rewards, spoilt_values = (t.masked_fill(padding, garbage) for t in (rewards, values))
    for ours, expected in zip(
        gae(spoilt_rewards, spoilt_values, mask, 0.9, 0.8),
        gae(rewards, values, mask, 0.9, 0.8),
        strict=True,
    ):
        assert torch.equal(ours, expected)
        assert not ours[padding].any()
    for of in (masked_mean, masked_var, whiten):
        assert torch.equal(of(spoilt_values, mask), of(values, mask))
    unshifted = whiten(spoilt_values, mask, shift_mean=False)
    assert torch.equal(unshifted, whiten(values, mask, shift_mean=False))
    assert not unshifted[padding].any()


def test_masks_may_be_boolean_whole_or_float():
    rewards, values, mask = answers(4)
    for kind in (mask.bool(), mask.float()):
        assert torch.equal(
            gae(rewards, values, kind, 1.0, 0.9)[0], gae(rewards, values, mask, 1.0, 0.9)[0]
        )
        assert torch.equal(whiten(values, kind), whiten(values, mask))


def test_too_few_values_and_other_shapes_are_refused():
    values = torch.ones(2, 3)
    with pytest.raises(ValueError, match="the mask leaves no token: at least one must be real"):
        masked_mean(values, torch.zeros(2, 3))
    one = torch.tensor([[1, 0, 0], [0, 0, 0]])
    with pytest.raises(ValueError, match="the mask leaves 1 value: a variance needs at least 2"):
        whiten(values, one)
    message = r"the shapes must be the same: mask \(2, 1\), rewards \(2, 3\), values \(2, 3\)"
    with pytest.raises(ValueError, match=message):
        gae(values, values, torch.ones(2, 1), 1.0, 1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_real_token_s_reward_and_value_are_numbers(bad: float):
    rewards, values, mask = answers(0)
    spoilt = values.clone()
    spoilt[2, 0] = bad
    for of in (lambda: gae(rewards, spoilt, mask, 1.0, 1.0), lambda: whiten(spoilt, mask)):
        with pytest.raises(ValueError, match=f"values of real tokens holds {bad}: it must be"):
            of()
    with pytest.raises(ValueError, match=f"rewards of real tokens holds {bad}"):
        gae(spoilt, values, mask, 1.0, 1.0)


def test_advantages_are_of_batches_of_answers():
    with pytest.raises(ValueError, match=r"mask of shape \(3,\) must be \(batch, seq\)"):
        gae(torch.ones(3), torch.ones(3), torch.ones(3), 1.0, 1.0)
    with pytest.raises(ValueError, match="there must be at least one number"):
        gae(*[torch.zeros(2, 0)] * 3, 1.0, 1.0)


# Groups


def test_rloo_by_hand():
    # The others' means: 4, 3.5 and 1.5 to the first prompt; 1.5, 1.5 and 0 to the second.
    scores = torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, 3.0])
    assert rloo_advantages(scores, 3).tolist() == [-3.0, -1.5, 4.5, -1.5, -1.5, 3.0]


def test_grpo_by_hand():
    # 1, 2 and 6 have mean 3 and variance (4 + 1 + 9) / 2 = 7; 5, 5 and 5 have no spread.
    scores = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0])
    root = 7**0.5
    expected = [-2 / root, -1 / root, 3 / root, 0, 0, 0]
    assert grpo_advantages(scores, 3).tolist() == pytest.approx(expected, rel=1e-4)
    assert grpo_advantages(scores, 3, scale=False).tolist() == [-2, -1, 3, 0, 0, 0]


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 10**6))
def test_groups_sum_to_zero_and_know_only_themselves(size: int, prompts: int, seed: int):
    scores = torch.randn(prompts * size, generator=torch.Generator().manual_seed(seed))
    for of in (rloo_advantages, grpo_advantages):
        advantages = of(scores, size)
        assert torch.allclose(
            advantages.view(prompts, size).sum(1), torch.zeros(prompts), atol=1e-3
        )
        alone = torch.cat([of(group, size) for group in scores.split(size)])
        assert torch.allclose(advantages, alone, atol=1e-5)
        assert torch.allclose(of(scores + 3, size), advantages, atol=1e-2)
    unscaled = grpo_advantages(scores, size, scale=False)
    assert torch.allclose(rloo_advantages(scores, size), size / (size - 1) * unscaled, atol=1e-5)


def test_grpo_does_not_see_the_unit_of_a_score():
    scores = torch.randn(12, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(grpo_advantages(50 * scores, 4), grpo_advantages(scores, 4), atol=1e-3)


@pytest.mark.parametrize("of", [rloo_advantages, grpo_advantages])
def test_groups_that_cannot_be_are_refused(of):
    with pytest.raises(ValueError, match="group_size=1 must be at least 2"):
        of(torch.zeros(4), 1)
    with pytest.raises(ValueError, match=r"group_size=2.0 must be a whole number, at least 2"):
        of(torch.zeros(4), 2.0)
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match=f"scores holds {bad}: it must be finite"):
            of(torch.tensor([1.0, bad]), 2)
    with pytest.raises(ValueError, match=r"scores of type torch.int64 must be floating-point"):
        of(torch.tensor([1, 2]), 2)
    with pytest.raises(ValueError, match=r"at least one number: scores \(0,\)"):
        of(torch.zeros(0), 2)
    with pytest.raises(ValueError, match=r"scores of shape \(5,\) must be .* with group_size=2"):
        of(torch.zeros(5), 2)
    with pytest.raises(ValueError, match=r"scores of shape \(2, 2\) must be"):
        of(torch.zeros(2, 2), 2)
