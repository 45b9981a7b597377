import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from course_utils.rlhf.advantages import running_baseline_advantages
from course_utils.rlhf.losses import clipped_policy_loss, kl_k3
from course_utils.rlhf.variants import (
    DAPO,
    DR_GRPO,
    GRPO,
    REINFORCE,
    RLOO,
    Variant,
    mean_over_tokens,
    mixed_groups,
    policy_loss,
)

VARIANTS = (GRPO, DR_GRPO, DAPO, RLOO, REINFORCE)
EVERY = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
LONGEST = 4


def toy(seed: int = 0, far: float = 0.1) -> dict[str, Tensor]:
    """Two groups of two answers, of one to four tokens; new, old and reference apart by ``far``."""
    generator = torch.Generator().manual_seed(seed)
    old, step, ref = (torch.randn(4, LONGEST, generator=generator).double() for _ in range(3))
    lengths = torch.tensor([4, 1, 3, 2])
    return {
        "logprobs": (-2 + 0.3 * old + far * step).requires_grad_(),
        "old_logprobs": -2 + 0.3 * old,
        "reference": -2 + 0.3 * old + far * ref,
        "advantages": torch.tensor([1.5, -0.5, 0.25, -1.0]).double(),
        "mask": torch.arange(LONGEST) < lengths[:, None],
    }


def loss_of(variant: Variant, tensors: dict[str, Tensor], **options: float):
    return policy_loss(variant, **tensors, longest=LONGEST, **options)


def gradient(variant: Variant, tensors: dict[str, Tensor], **options: float) -> Tensor:
    loss = loss_of(variant, tensors, **options).loss
    (found,) = torch.autograd.grad(loss, tensors["logprobs"])
    return found


# By hand


def test_advantages_by_hand():
    scores = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    earlier = [0.2, 0.4]
    centred = [0.75, -0.25, -0.25, -0.25, 0, 0, 0, 0]
    expected = {
        "GRPO": [a / (0.5 + 1e-4) for a in centred],  # the standard deviation of 1, 0, 0, 0
        "Dr. GRPO": centred,
        "DAPO": [a / (0.5 + 1e-4) for a in centred],
        "RLOO": [1, -1 / 3, -1 / 3, -1 / 3, 0, 0, 0, 0],
        "REINFORCE": [s - (0.9 * 0.2 + 0.4) / 1.9 for s in scores.tolist()],
    }
    for variant in VARIANTS:
        found = variant.advantages(scores, 4, earlier)
        assert found.tolist() == pytest.approx(expected[variant.name], abs=1e-6)


def test_losses_by_hand():
    # On policy every ratio is 1, so that a token's loss is minus its answer's advantage.
    tensors = toy(far=0.0)
    a, n = tensors["advantages"].tolist(), [4, 1, 3, 2]
    tokens = sum(x * k for x, k in zip(a, n, strict=True))
    expected = {
        "GRPO": -sum(a) / 4,
        "Dr. GRPO": -tokens / (4 * LONGEST),
        "DAPO": -tokens / 10,
        "RLOO": -sum(a) / 4,
        "REINFORCE": -sum(a) / 4,
    }
    for variant in VARIANTS:
        assert loss_of(variant, tensors).loss.item() == pytest.approx(expected[variant.name])


def test_what_a_token_weighs_by_hand():
    # The gradient of a token of an answer with advantage A and length n, in a batch of 4 and 10.
    tensors = toy(far=0.0)
    a, mask = tensors["advantages"][:, None], tensors["mask"]
    lengths = mask.sum(dim=1, keepdim=True)
    expected = {
        "GRPO": a / lengths / 4,
        "Dr. GRPO": a / (4 * LONGEST),
        "DAPO": a / 10,
        "RLOO": a / 4,
        "REINFORCE": a / 4,
    }
    for variant in VARIANTS:
        found = gradient(variant, tensors)
        torch.testing.assert_close(found, -expected[variant.name] * mask)


def test_the_running_baseline_by_hand():
    scores = torch.tensor([1.0, 3.0])
    assert running_baseline_advantages(scores, []).tolist() == [1, 3]
    assert running_baseline_advantages(scores, [2.0]).tolist() == [-1, 1]
    half = running_baseline_advantages(scores, [0.0, 3.0], momentum=0.5)
    assert half.tolist() == [-1, 1]
    latest = running_baseline_advantages(scores, [9.0, 1.0], momentum=0)
    assert latest.tolist() == [0, 2]
    with pytest.raises(ValueError, match=r"momentum=1.5 must be in 0..1"):
        running_baseline_advantages(scores, [], momentum=1.5)


def test_groups_that_are_kept_by_hand():
    scores = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.5, 0.25])
    assert mixed_groups(scores, 2).tolist() == [True, False, False, True]
    assert GRPO.keep(scores, 2).tolist() == [True] * 4


def test_rewards_by_hand():
    scores, kl = torch.tensor([1.0, 2.0]), torch.tensor([0.5, -1.0])
    assert RLOO.rewards(scores, kl, 0.1).tolist() == pytest.approx([0.95, 2.1])
    assert GRPO.rewards(scores, kl, 0.1).tolist() == [1, 2]
    assert RLOO.rewards(scores, None, 0.0).tolist() == [1, 2]


# Limit cases


@EVERY
@pytest.mark.parametrize("score", [0.0, 0.1, 1.0, 1000.1, -3.3])
@pytest.mark.parametrize("group_size", [3, 8])
def test_equal_answers_have_no_gradient(variant: Variant, score: float, group_size: int):
    scores = torch.full((2 * group_size,), score)
    advantages = variant.advantages(scores, group_size, [score, score])
    assert advantages.tolist() == pytest.approx([0] * len(scores), abs=1e-4)
    if variant is not REINFORCE:  # a running mean is rounded; the others are exactly 0
        assert not advantages.any()
        assert not gradient(variant, toy() | {"advantages": advantages[:4].double()}).any()


@EVERY
def test_with_a_clip_that_is_never_active_the_first_step_is_that_of_reinforce(variant: Variant):
    # The gradient of -A log p, each variant's own mean over tokens apart.
    tensors = toy(far=0.0)
    wide = replace(variant, clip_low=1e6, clip_high=1e6)
    logprobs, advantages = tensors["logprobs"], tensors["advantages"][:, None]
    losses, units = variant.unit(-advantages * logprobs, tensors["mask"].double())
    (expected,) = torch.autograd.grad(variant.reduce(losses, units, LONGEST), logprobs)
    torch.testing.assert_close(gradient(wide, tensors), expected)
    torch.testing.assert_close(gradient(variant, tensors), expected)


@EVERY
def test_far_from_the_old_policy_only_the_clip_ends_the_gradient(variant: Variant):
    tensors = toy(seed=1, far=1.0)
    wide = replace(variant, clip_low=1e6, clip_high=1e6)
    assert loss_of(wide, tensors).clip_fraction == 0
    assert loss_of(variant, tensors).clip_fraction > 0
    assert (gradient(wide, tensors)[tensors["mask"]] != 0).all()
    assert (gradient(variant, tensors)[tensors["mask"]] == 0).any()


def test_dapo_clips_higher_above_and_as_others_below():
    # One token, with the ratio 1.25: past 1.2, not past 1.28; and 0.75, past 0.8 for both.
    def cut(variant: Variant, ratio: float, advantage: float) -> float:
        one = {"old_logprobs": torch.zeros(1, 1), "mask": torch.ones(1, 1)}
        new = torch.full((1, 1), math.log(ratio))
        tensors = one | {"logprobs": new, "advantages": torch.tensor([advantage])}
        return loss_of(variant, tensors).clip_fraction.item()

    assert [cut(v, 1.25, 1.0) for v in (GRPO, DAPO)] == [1, 0]
    assert [cut(v, 1.3, 1.0) for v in (GRPO, DAPO)] == [1, 1]
    assert [cut(v, 0.75, -1.0) for v in (GRPO, DAPO)] == [1, 1]
    assert [cut(v, 1.25, -1.0) for v in (GRPO, DAPO)] == [0, 0]


def test_token_means_are_ppo_s_loss():
    tensors = toy(far=0.5)
    variant = replace(GRPO, reduce=mean_over_tokens)
    ours, ppo = (
        loss_of(variant, tensors),
        clipped_policy_loss(
            tensors["logprobs"],
            tensors["old_logprobs"],
            tensors["advantages"][:, None].expand(4, LONGEST),
            tensors["mask"],
            0.2,
        ),
    )
    for name, value in vars(ppo).items():
        torch.testing.assert_close(getattr(ours, name), value, check_dtype=False)


@EVERY
@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e30, -1e30])
def test_padding_reaches_neither_loss_nor_gradient(variant: Variant, garbage: float):
    clean, dirty = toy(), toy()
    for name in ("logprobs", "old_logprobs", "reference"):
        dirty[name] = dirty[name].detach().masked_fill(~dirty["mask"], garbage)
    dirty["logprobs"].requires_grad_()
    assert torch.equal(loss_of(variant, clean).loss, loss_of(variant, dirty).loss)
    assert torch.equal(gradient(variant, clean), gradient(variant, dirty))
    assert not gradient(variant, clean)[~clean["mask"]].any()


def test_kl_in_the_loss_is_a_mean_like_the_rest_and_has_its_price():
    tensors = toy()
    plain, priced = (loss_of(GRPO, tensors, kl_coef=c).loss for c in (0.0, 0.3))
    kl = kl_k3(tensors["logprobs"], tensors["reference"]) * tensors["mask"]
    expected = (kl.sum(dim=1) / tensors["mask"].sum(dim=1)).mean()
    torch.testing.assert_close(priced - plain, 0.3 * expected)
    assert expected > 1e-4
    for variant in (DR_GRPO, DAPO, RLOO, REINFORCE):
        assert loss_of(variant, tensors, kl_coef=0.3).loss == loss_of(variant, tensors).loss


# Composition and refusals


def test_variants_are_told_apart_by_what_they_are_made_of():
    facts = [variant.facts() for variant in VARIANTS]
    assert len({repr(f) for f in facts}) == len(VARIANTS)
    assert (
        facts[0] | {"reduce": "mean_over_tokens"} == replace(GRPO, reduce=mean_over_tokens).facts()
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"advantages": torch.zeros(3)}, r"advantages of shape \(3,\) must be \(batch,\)"),
        ({"mask": torch.zeros(4, LONGEST)}, "answer 0 has no real token"),
        ({"mask": torch.full((4, LONGEST), 0.5)}, "mask"),
        ({"old_logprobs": torch.zeros(4, 3)}, "old_logprobs"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        loss_of(GRPO, toy() | changes)


def test_a_group_of_one_has_nothing_to_be_compared_with():
    for variant in (GRPO, DR_GRPO, DAPO, RLOO):
        with pytest.raises(ValueError, match=r"group_size=1 must be .*2"):
            variant.advantages(torch.ones(4), 1, [])
    with pytest.raises(ValueError, match="clip_high=0 must be above 0"):
        replace(GRPO, clip_high=0)
