"""The loss of PPO's policy, and that of direct preference optimisation."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from course_utils.practice.exercises.chapter_09.answers import answer_mask
from course_utils.practice.exercises.check import Check, Wrong
from course_utils.practice.exercises.compare import expect_close, expect_tensor
from course_utils.practice.exercises.material import draw
from course_utils.rlhf.losses import clipped_policy_loss, dpo_loss

PolicyLoss = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
PreferenceLoss = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


# Beyond the clip and within it, up and down, with advantages of both signs; then padding.
_RATIOS = torch.tensor(
    [[1.5, 0.5, 1.7, 0.4, 1.1], [0.9, 2.0, 0.3, 0.2, 1.9], [0.55, 1.6, 0.1, 3.0, 0.5]]
)
_SIGNS = torch.tensor([[1, 1, -1, -1, 1], [-1, 1, -1, 1, 1], [-1, -1, 1, 1, -1]])


def _verify_clip(policy_loss: PolicyLoss) -> None:
    mask = answer_mask()
    for seed, clip_range in ((0, 0.2), (10, 0.4)):
        old = -draw(3, 5, seed=seed).abs()
        new = (old + _RATIOS.log()).requires_grad_()
        rest = (old, _SIGNS * draw(3, 5, seed=seed + 1).abs(), mask, clip_range)
        expected = clipped_policy_loss(new, *rest).loss
        found = policy_loss(new, *(tensor.clone() for tensor in rest[:3]), clip_range)
        slips = [(slip(new, *rest).item(), sentence) for slip, sentence in _CLIP_SLIPS]
        _expect_loss(found, expected, (new,), slips, "the mean over the real tokens")


def _expect_loss(
    found: object,
    expected: Tensor,
    inputs: tuple[Tensor, ...],
    slips: list[tuple[float, str]],
    what: str,
) -> None:
    """Require the value of a loss, and the gradients that it gives its inputs."""
    number = found.detach() if isinstance(found, Tensor) else found
    if isinstance(number, Tensor) and number.numel() != 1:
        raise Wrong(f"return one number, {what}, not a tensor of shape {tuple(number.shape)}")
    expect_close(number, expected.item(), what="the loss", rel=1e-4, slips=slips)
    if not isinstance(found, Tensor) or found.grad_fn is None:
        raise Wrong(
            "no gradient leads back from your loss: return the tensor itself, without "
            ".item(), detach or no_grad"
        )
    gradients = (
        torch.autograd.grad(loss.sum(), inputs, allow_unused=True, materialize_grads=True)
        for loss in (found, expected)
    )
    for ours, theirs in zip(*gradients, strict=True):
        expect_tensor(ours, theirs, what="the loss is right, but its gradient")


def _parts(
    new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip_range: float
) -> tuple[Tensor, Tensor]:
    """Return the objective of each real token, without the clip and with it."""
    ratio, advantages = (new - old).exp()[mask], advantages[mask]
    return ratio * advantages, ratio.clamp(1 - clip_range, 1 + clip_range) * advantages


def _policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip_range: float
) -> Tensor:
    return -torch.minimum(*_parts(logprobs, old_logprobs, advantages, mask, clip_range)).mean()


def _one_sided(low: float, high: float) -> PolicyLoss:
    """Return the loss with the ratio cut ``low`` and ``high`` times the clip range from 1."""

    def loss(new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, eps: float) -> Tensor:
        ratio, advantages = (new - old).exp()[mask], advantages[mask]
        cut = ratio.clamp(1 - low * eps, 1 + high * eps)
        return -torch.minimum(ratio * advantages, cut * advantages).mean()

    return loss


def _mean_of_rows(
    new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip_range: float
) -> Tensor:
    rows = zip(new, old, advantages, mask, strict=True)
    return torch.stack([_policy_loss(*row, clip_range) for row in rows]).mean()


_NEVER = 1e6
_CLIP_SLIPS: tuple[tuple[PolicyLoss, str], ...] = (
    (
        lambda *a: -torch.maximum(*_parts(*a)).mean(),
        "you take the larger of the two: the objective "
        "is the smaller, which never promises more than the clip allows (of losses, the larger)",
    ),
    (
        lambda *a: -_parts(*a)[1].mean(),
        "the clip alone: a token that has gone the wrong way beyond "
        "it gets no gradient to come back; take the smaller of both",
    ),
    (
        _one_sided(_NEVER, 1),
        "the ratio is cut at 1 + eps only: where the advantage "
        "is negative the policy gains by lowering it, and 1 - eps is what stops that",
    ),
    (
        _one_sided(1, _NEVER),
        "the ratio is cut at 1 - eps only: where the advantage "
        "is positive the policy gains by raising it, and 1 + eps is what stops that",
    ),
    (
        lambda *a: -_policy_loss(*a),
        "the minus is missing: an optimizer minimises, and the objective is to grow",
    ),
    (lambda *a: -_parts(*a)[0].mean(), "nothing is clipped"),
    (lambda new, old, *a: _policy_loss(old, new, *a), "the ratio is upside down: new over old"),
    (
        lambda new, old, adv, m, eps: _policy_loss(new, old, adv, torch.ones_like(m), eps),
        "the padding counts: take the mean over the real tokens only",
    ),
    (
        lambda new, old, adv, m, eps: _policy_loss(new, old, adv, m, eps) * m.sum() / m.numel(),
        "the sum over the real tokens is divided by the number of all, padding and all",
    ),
    (
        lambda *a: _policy_loss(*a) * a[3].sum(),
        "that is the sum over the real tokens; divide it by their number",
    ),
    (
        _mean_of_rows,
        "that is the mean over answers of the mean over their tokens, where a token of "
        "a short answer weighs more; here every real token weighs the same",
    ),
    (
        lambda new, old, *a: _policy_loss((new - old + 1).clamp(min=1e-6).log(), 0 * old, *a),
        "1 + log-ratio in the place of the ratio: take the exponential",
    ),
)

CLIP = Check(
    name="09-clip",
    verify=_verify_clip,
    solution=_policy_loss,
    rejects=(
        *_CLIP_SLIPS,
        (lambda *a: _policy_loss(*a).item(), "no gradient leads back"),
        (lambda *a: -torch.minimum(*_parts(*a)), "return one number"),
        (lambda *a: _policy_loss(*a).detach() + _parts(*a)[0].mean() * 0, "its gradient"),
    ),
    insight="Beyond the clip the gradient is 0 on the side that the advantage pulls to, and only "
    "there: the way back stays open.",
)


def _verify_dpo(loss: PreferenceLoss) -> None:
    # In the last case the policy has all but given up the chosen answers.
    for seed, beta, how_far in ((0, 0.1, 1), (10, 0.5, 1), (20, 0.5, 500)):
        chosen, reference_chosen = _tokens(6, seed)
        rejected, reference_rejected = _tokens(4, seed + 2)
        policy = ((how_far * chosen).requires_grad_(), rejected.requires_grad_())
        given = (*policy, reference_chosen, reference_rejected)
        expected = dpo_loss(*(tokens.sum(dim=1) for tokens in given), beta).loss
        found = loss(*policy, reference_chosen.clone(), reference_rejected.clone(), beta)
        if isinstance(found, Tensor) and found.isinf().any():
            raise Wrong(
                "for a pair that is far off, your loss is infinite: the sigmoid is 0 in "
                "float32, and so its logarithm is lost; use logsigmoid"
            )
        slips = [(slip(*given, beta).item(), sentence) for slip, sentence in _DPO_SLIPS]
        _expect_loss(found, expected, policy, slips, "the mean over pairs")


def _tokens(seq: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of three answers under policy and reference, 0 on padding."""
    mask = torch.arange(seq) < torch.tensor([seq, 3, 1])[:, None]
    policy, reference = (-draw(3, seq, seed=s).abs() * mask for s in (seed, seed + 1))
    return policy, reference


def _margin(pc: Tensor, pr: Tensor, rc: Tensor, rr: Tensor) -> Tensor:
    return (pc - rc).sum(dim=1) - (pr - rr).sum(dim=1)


def _dpo(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> Tensor:
    chosen = (policy_chosen - reference_chosen).sum(dim=1)
    rejected = (policy_rejected - reference_rejected).sum(dim=1)
    return -logsigmoid(beta * (chosen - rejected)).mean()


def _mean_by_length(tokens: Tensor) -> Tensor:
    """Return means over real tokens as (batch, 1), so that summing over tokens returns them."""
    return tokens.sum(dim=1, keepdim=True) / (tokens != 0).sum(dim=1, keepdim=True)


_MEAN = (
    "the log-probability of an answer is the sum over its tokens; a mean over tokens is "
    "another method's (SimPO)"
)
_DPO_SLIPS: tuple[tuple[PreferenceLoss, str], ...] = (
    (
        lambda pc, pr, rc, rr, b: _dpo(pc, pr, 0 * rc, 0 * rr, b),
        "the reference is missing: without "
        "it nothing holds the policy, and an answer counts as good because it is likely",
    ),
    (
        lambda pc, pr, rc, rr, b: b * _dpo(pc, pr, rc, rr, 1.0),
        "beta is outside: it scales the difference inside the sigmoid, not the loss",
    ),
    (lambda pc, pr, rc, rr, b: _dpo(pc, pr, rc, rr, 1.0), "beta is missing"),
    (
        lambda pc, pr, rc, rr, b: _dpo(pr, pc, rr, rc, b),
        "chosen and rejected are swapped, or "
        "policy and reference: the loss must fall as the policy gains on the reference for the "
        "chosen answer",
    ),
    (
        lambda pc, pr, rc, rr, b: _dpo(pc, pr, rr.sum(1)[:, None] / 6, rc.sum(1)[:, None] / 4, b),
        "the references are swapped: each answer is compared with the reference's view of itself",
    ),
    (lambda *a: _dpo(*(_mean_by_length(tokens) for tokens in a[:4]), a[4]), _MEAN),
    (lambda *a: _dpo(*(tokens.mean(1, keepdim=True) for tokens in a[:4]), a[4]), _MEAN),
    (lambda *a: -_dpo(*a), "the minus is missing: the loss falls as the margin grows"),
    (lambda *a: 3 * _dpo(*a), "that is the sum over the pairs; take the mean"),
    (
        lambda *a: -logsigmoid(a[4] * _margin(*a[:4]).mean()),
        "the mean is taken inside the sigmoid, of the margins; each pair has a loss of its own",
    ),
    (
        lambda *a: -(a[4] * _margin(*a[:4])).sigmoid().mean(),
        "the logarithm of the sigmoid is missing: a pair that is far off would get no gradient",
    ),
)


def _dpo_by_log(*given: Tensor) -> Tensor:
    return -(given[4] * _margin(*given[:4])).sigmoid().log().mean()


DPO = Check(
    name="09-dpo",
    verify=_verify_dpo,
    solution=_dpo,
    rejects=(
        *_DPO_SLIPS,
        (_dpo_by_log, "use logsigmoid"),
        (lambda *a: _dpo(*a).item(), "no gradient leads back"),
        (lambda *a: -logsigmoid(a[4] * _margin(*a[:4])), "return one number"),
    ),
    insight="The Bradley-Terry loss of chapter 08, with beta log(policy / reference) in the place "
    "of a reward model's score.",
)
