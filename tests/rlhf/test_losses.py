import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.data import IGNORED
from course_utils.rlhf.losses import (
    clipped_policy_loss,
    clipped_value_loss,
    dpo_loss,
    entropy,
    kl_k1,
    kl_k3,
    selected_logprobs,
    sequence_logprobs,
)

GARBAGE = [math.nan, math.inf, -math.inf, 1e30, -7.0]
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


def draw(n: int, *, seed: int = 0, shape: tuple = (4, 6)) -> torch.Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def ends(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.arange(6) < torch.randint(1, 7, (4, 1), generator=generator)).long()


# Log-probabilities, entropy, KL


def test_logprobs_and_entropy_by_hand():
    # Probabilities 1/2, 1/4, 1/4: entropy 1/2 log 2 + 2/4 log 4 = 3/2 log 2. At temperature 1/2
    # they are squared and go as 4 : 1 : 1.
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log() + 7
    for token, p, p_cold in ((0, 1 / 2, 4 / 6), (2, 1 / 4, 1 / 6)):
        tokens = torch.tensor([token])
        assert selected_logprobs(logits, tokens).exp().item() == pytest.approx(p)
        cold = selected_logprobs(logits, tokens, temperature=0.5)
        assert cold.exp().item() == pytest.approx(p_cold)
    assert entropy(logits).item() == pytest.approx(1.5 * math.log(2))


def test_entropy_lies_between_certainty_and_chance_with_a_gradient_at_both_ends():
    logits = torch.stack([torch.zeros(8), torch.tensor([1e4, *[0.0] * 7])]).requires_grad_()
    assert entropy(logits).tolist() == pytest.approx([math.log(8), 0])
    entropy(logits).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_a_token_of_probability_0_adds_nothing_to_the_entropy():
    logits = torch.tensor([[0.0, -math.inf, 0.0], [1.0, -math.inf, -math.inf]], requires_grad=True)
    assert entropy(logits).tolist() == pytest.approx([math.log(2), 0])
    entropy(logits).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_sixteen_bit_logits_are_summed_in_thirty_two():
    logits, tokens = 10 * draw(1, shape=(3, 500))[0], torch.arange(3)
    half = logits.bfloat16()
    assert selected_logprobs(half, tokens).dtype == entropy(half).dtype == torch.float32
    assert torch.allclose(selected_logprobs(half, tokens), selected_logprobs(half.float(), tokens))


def test_the_kl_is_what_both_estimators_are_on_average():
    # 3 tokens: the average over the policy is exact. k1 has both signs, k3 does not.
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    kl = (p * (p / q).log()).sum().item()
    assert (p * kl_k1(p.log(), q.log())).sum().item() == pytest.approx(kl)
    assert (p * kl_k3(p.log(), q.log())).sum().item() == pytest.approx(kl)
    assert (kl_k1(p.log(), q.log()) < 0).any()


def test_k3_by_hand():
    # q / p = 2: 2 - 1 - log 2; q / p = 1/2: 1/2 - 1 + log 2.
    logprobs, reference = torch.tensor([0.25, 0.5]).log(), torch.tensor([0.5, 0.25]).log()
    expected = [1 - math.log(2), math.log(2) - 0.5]
    assert kl_k3(logprobs, reference).tolist() == pytest.approx(expected)
    assert kl_k1(logprobs, reference).tolist() == pytest.approx([-math.log(2), math.log(2)])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6))
def test_k3_is_never_negative_and_both_are_zero_between_equals(seed: int):
    logprobs, reference = -draw(2, seed=seed).abs()
    assert (kl_k3(logprobs, reference) >= 0).all()
    assert not kl_k1(logprobs, logprobs).any()
    assert not kl_k3(logprobs, logprobs).any()


def test_an_answers_logprob_is_the_sum_over_its_tokens():
    # Three tokens, two samples. The logits at a place predict the next token: of the first sample
    # tokens 1 and 2 are the answer, with 1/2 and 1/4; of the second only token 1, with 1/4.
    logits = torch.tensor([0.25, 0.5, 0.25]).log().expand(2, 3, 3)
    labels = torch.tensor([[IGNORED, 1, 2], [IGNORED, 0, IGNORED]])
    expected = [math.log(1 / 8), math.log(1 / 4)]
    assert sequence_logprobs(logits, labels).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("garbage", GARBAGE)
def test_logits_that_predict_no_answer_never_count(garbage: float):
    logits = draw(1, shape=(2, 5, 7))[0]
    labels = torch.tensor([[IGNORED, IGNORED, 3, 1, IGNORED], [IGNORED, 2, 2, 0, 5]])
    spoilt = logits.clone()
    spoilt[0, 0] = spoilt[0, 3:] = spoilt[1, 4] = garbage
    assert torch.equal(sequence_logprobs(spoilt, labels), sequence_logprobs(logits, labels))


def test_logprobs_of_nothing_are_refused():
    with pytest.raises(ValueError, match="row 1 of the labels has no token of an answer"):
        sequence_logprobs(
            torch.zeros(2, 3, 4), torch.tensor([[IGNORED, 1, 1], [3, *[IGNORED] * 2]])
        )
    with pytest.raises(ValueError, match="temperature=0 must be above 0"):
        selected_logprobs(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long), temperature=0)
    for token in (4, -1, IGNORED):
        with pytest.raises(ValueError, match=rf"token {token} must be in 0..3, the vocabulary"):
            selected_logprobs(torch.zeros(2, 4), torch.tensor([0, token]))
    with pytest.raises(ValueError, match=r"tokens of type torch.float32 must be whole numbers"):
        selected_logprobs(torch.zeros(2, 4), torch.zeros(2))
    message = r"the shapes must be the same: tokens \(3,\), logits_without_vocab \(2,\)"
    with pytest.raises(ValueError, match=message):
        selected_logprobs(torch.zeros(2, 4), torch.zeros(3, dtype=torch.long))


# The policy's loss


def test_the_clipped_policy_loss_by_hand():
    # Ratios, advantages, -A ratio, -A clip(ratio, 0.8, 1.2), the larger:
    #   1.5,  1: -1.5, -1.2 -> -1.2 (clipped)       1.5, -1: 1.5, 1.2 -> 1.5
    #   0.5,  1: -0.5, -0.8 -> -0.5                 0.5, -1: 0.5, 0.8 -> 0.8 (clipped)
    #   1.1, -1:  1.1,  1.1 ->  1.1                 padding
    # Their mean is (-1.2 - 0.5 + 1.1 + 1.5 + 0.8) / 5 = 0.34.
    ratio = torch.tensor([[1.5, 0.5, 1.1], [1.5, 0.5, 9.0]])
    advantages = torch.tensor([[1.0, 1.0, -1.0], [-1.0, -1.0, 5.0]])
    old = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0]])
    logprobs = (old + ratio.log()).requires_grad_()
    result = clipped_policy_loss(logprobs, old, advantages, MASK, 0.2)
    assert result.loss.item() == pytest.approx(0.34)
    assert result.clip_fraction.item() == pytest.approx(2 / 5)
    assert result.ratio.item() == pytest.approx(5.1 / 5)
    squares = 2 * math.log(1.5) ** 2 + 2 * math.log(0.5) ** 2 + math.log(1.1) ** 2
    assert result.approx_kl.item() == pytest.approx(squares / 10)
    # Where the clip holds there is no gradient; elsewhere it is -A ratio over five tokens.
    result.loss.backward()
    expected = [[0, -0.1, 0.22], [0.3, 0, 0]]
    assert torch.allclose(logprobs.grad, torch.tensor(expected), atol=1e-6)


def test_a_clip_that_never_acts_leaves_the_plain_objective():
    logprobs, old, advantages = draw(3)
    mask = ends(0)
    result = clipped_policy_loss(logprobs, old, advantages, mask, 1e30)
    plain = -((logprobs - old).exp() * advantages * mask).sum() / mask.sum()
    assert torch.allclose(result.loss, plain)
    assert result.clip_fraction == 0


def test_at_ratio_1_the_gradient_is_the_policy_gradient():
    old, advantages = draw(2, seed=1)
    logprobs, mask = old.clone().requires_grad_(), ends(1)
    result = clipped_policy_loss(logprobs, old, advantages, mask, 0.2)
    (ours,) = torch.autograd.grad(result.loss, logprobs)
    (expected,) = torch.autograd.grad(-(logprobs * advantages * mask).sum() / mask.sum(), logprobs)
    assert torch.allclose(ours, expected)
    assert (result.ratio, result.approx_kl, result.clip_fraction) == (1, 0, 0)


def test_the_clip_only_ever_takes_gain_away():
    for seed in range(20):
        logprobs, old, advantages = draw(3, seed=seed)
        mask = ends(seed)
        wide, narrow = (
            clipped_policy_loss(logprobs, old, advantages, mask, eps) for eps in (0.5, 0.1)
        )
        assert narrow.loss >= wide.loss
        assert narrow.clip_fraction >= wide.clip_fraction


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.sampled_from(GARBAGE))
def test_padding_reaches_neither_losses_nor_gradients(seed: int, garbage: float):
    mask = ends(seed)
    clean = draw(3, seed=seed)
    spoilt = clean.masked_fill(mask == 0, garbage)
    for loss in (clipped_policy_loss, clipped_value_loss):
        results, gradients = [], []
        for first, *others in (clean, spoilt):
            trained = first.clone().requires_grad_()
            results.append(loss(trained, *others, mask, 0.2))
            results[-1].loss.backward()
            gradients.append(trained.grad)
        assert vars(results[0]) == vars(results[1])
        assert torch.equal(*gradients)
        assert not gradients[1][mask == 0].any()


# The critic's loss


def test_the_clipped_value_loss_by_hand():
    # Value, old value, return; squared error; the same at most 0.2 from the old value:
    #   2.0, 1, 3: 1.00, (1.2 - 3)^2 = 3.24 (clipped)    0, 0,  2: 4, 4
    #   0.5, 1, 1: 0.25, (0.8 - 1)^2 = 0.04             -1, 0, -2: 1, (-0.2 + 2)^2 = 3.24 (clipped)
    #   1.1, 1, 0: 1.21, 1.21                            padding
    # Half the mean of the larger: (3.24 + 0.25 + 1.21 + 4 + 3.24) / 10 = 1.194.
    values = torch.tensor([[2.0, 0.5, 1.1], [0.0, -1.0, 9.0]], requires_grad=True)
    old = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    returns = torch.tensor([[3.0, 1.0, 0.0], [2.0, -2.0, 5.0]])
    result = clipped_value_loss(values, old, returns, MASK, 0.2)
    assert result.loss.item() == pytest.approx(1.194)
    assert result.clip_fraction.item() == pytest.approx(2 / 5)
    result.loss.backward()
    expected = [[0, -0.1, 0.22], [-0.4, 0, 0]]
    assert torch.allclose(values.grad, torch.tensor(expected), atol=1e-6)


def test_without_a_clip_the_value_loss_is_half_the_squared_error():
    values, old, returns = draw(3, seed=2)
    mask = ends(2)
    result = clipped_value_loss(values, old, returns, mask, 1e30)
    assert torch.allclose(result.loss, 0.5 * (values - returns)[mask.bool()].square().mean())
    assert result.clip_fraction == 0


@pytest.mark.parametrize("loss", [clipped_policy_loss, clipped_value_loss])
def test_losses_refuse_what_they_cannot_use(loss):
    whole = torch.zeros(2, 3)
    for clip_range in (0, -0.1, math.nan, math.inf, None, "0.2"):
        with pytest.raises(ValueError, match=rf"clip_range={clip_range!r} must be .*above 0"):
            loss(whole, whole, whole, MASK, clip_range)
    with pytest.raises(ValueError, match=r"mask holds 0.5: it must be 0 or 1 everywhere"):
        loss(whole, whole, whole, MASK / 2, 0.2)
    with pytest.raises(ValueError, match="the mask leaves no token"):
        loss(whole, whole, whole, torch.zeros(2, 3), 0.2)
    with pytest.raises(ValueError, match=r"the shapes must be the same: .*\(2, 1\)"):
        loss(whole, whole, torch.zeros(2, 1), MASK, 0.2)


# DPO


def test_dpo_by_hand():
    # Implicit rewards, beta 1/2: chosen (2 - 1)/2 and 0, rejected (2 - 3)/2 and (3 - 2)/2.
    # Margins 1 and -1/2: the loss is (log(1 + e^-1) + log(1 + e^(1/2))) / 2.
    result = dpo_loss(
        torch.tensor([-1.0, -2.0]),
        torch.tensor([-3.0, -2.0]),
        torch.tensor([-2.0, -2.0]),
        torch.tensor([-2.0, -3.0]),
        beta=0.5,
    )
    assert result.chosen_rewards.tolist() == [0.5, 0.0]
    assert result.rejected_rewards.tolist() == [-0.5, 0.5]
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(0.5))) / 2
    assert result.loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("beta", [0.01, 0.1, 5.0])
def test_dpo_between_equal_policies_is_log_2_and_pushes_both_answers_alike(beta: float):
    reference = draw(2, shape=(4,))
    policy = reference.clone().requires_grad_()
    result = dpo_loss(*policy, *reference, beta=beta)
    assert result.loss.item() == pytest.approx(math.log(2))
    result.loss.backward()
    # Each of four pairs pulls with half of beta: eq. 7's gradient, weighed by sigmoid(0).
    pull = torch.full((4,), beta / 2 / 4)
    assert torch.allclose(policy.grad, torch.stack([-pull, pull]))


def test_dpo_stays_finite_where_the_sigmoid_underflows():
    policy = torch.tensor([-1e4], requires_grad=True)
    zero = torch.zeros(1)
    result = dpo_loss(policy, zero, zero, zero, beta=1.0)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(1e4)
    assert policy.grad.item() == pytest.approx(-1)


def test_dpo_refuses_bad_input():
    pair = torch.zeros(2)
    for beta in (0, math.inf, math.nan, True):
        with pytest.raises(ValueError, match=f"beta={beta} must be .*above 0"):
            dpo_loss(pair, pair, pair, pair, beta=beta)
    with pytest.raises(ValueError, match=r"at least one number: policy_chosen \(0,\)"):
        dpo_loss(*[torch.zeros(0)] * 4, beta=0.1)
    with pytest.raises(
        ValueError, match=r"the shapes must be the same: .*reference_chosen \(2, 1\)"
    ):
        dpo_loss(pair, pair, pair[:, None], pair, beta=0.1)
