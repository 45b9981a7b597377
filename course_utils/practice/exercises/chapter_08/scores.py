"""Scores of a reward model: the loss of pairs, and the token that a score is read at."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from course_utils.practice.exercises.check import Check, Wrong
from course_utils.practice.exercises.compare import Slips, expect_close
from course_utils.practice.exercises.material import draw
from course_utils.rlhf.losses import bradley_terry_loss
from course_utils.rlhf.masks import last_token_index

Loss = Callable[[Tensor, Tensor], Tensor]
_PAIR = ("chosen", "rejected")


def _verify_loss(loss: Loss) -> None:
    for n in (6, 3):
        chosen, rejected = 1.5 * draw(n), draw(n, seed=1)
        value = loss(chosen.clone(), rejected.clone())
        if isinstance(value, Tensor) and value.numel() == n:
            raise Wrong("that is a loss for each pair; return their mean, one number")
        expected = bradley_terry_loss(chosen, rejected).item()
        expect_close(
            value,
            expected,
            what="the loss",
            slips=_loss_slips(chosen, rejected),
        )
    for difference in (-1000.0, 1000.0):
        _verify_extreme(loss, difference)


def _loss_slips(chosen: Tensor, rejected: Tensor) -> Slips:
    n, d = len(chosen), chosen - rejected
    expected = bradley_terry_loss(chosen, rejected).item()
    return (
        (n * expected, "that is the sum over pairs; the mean does not grow with the batch"),
        (
            bradley_terry_loss(rejected, chosen).item(),
            "the scores are swapped: this loss falls when the rejected answer scores higher",
        ),
        (
            -expected,
            "that is the mean log-probability, which is to be made large; a loss has the minus",
        ),
        (
            (1 - d).relu().mean().item(),
            "that is the hinge loss, which is 0 beyond a lead of 1; asked is the mean of "
            "minus the logarithm of the sigmoid",
        ),
        (
            -d.mean().item(),
            "the sigmoid is missing: minus the difference has no lower end, "
            "and pairs that are already right go on pulling",
        ),
        *(
            (
                wrong.mean().item(),
                "the logarithm is missing: a probability alone has hardly "
                "a gradient where the model is badly wrong",
            )
            for wrong in (d.sigmoid(), -d.sigmoid(), (-d).sigmoid())
        ),
        (
            -logsigmoid(d.mean()).item(),
            "that is the loss of the mean difference; take each pair's loss first, then the mean",
        ),
        (
            -(logsigmoid(chosen) + logsigmoid(-rejected)).mean().item(),
            "each score is judged on its own: only the difference within a pair means anything",
        ),
    )


def _verify_extreme(loss: Loss, difference: float) -> None:
    """Check value and gradient of a pair far on the one side or the other."""
    chosen, rejected = (
        torch.tensor([score], requires_grad=True)
        for score in (max(difference, 0.0), max(-difference, 0.0))
    )
    value, expected = loss(chosen, rejected), max(-difference, 0.0)
    number = torch.as_tensor(value).detach().item()
    where = f"for ordinary scores it is right, but at a difference of {difference:,.0f}"
    if not math.isfinite(number):
        raise Wrong(
            f"{where} it is {number}: an exponential is 0 or infinite there, and then comes its "
            "logarithm or quotient; take sigmoid and logarithm in one step"
        )
    if abs(number - expected) > 1e-3 * max(expected, 1):
        raise Wrong(
            f"{where} it is {number:.4g} and should be {expected:,.0f}: a clamp or an epsilon "
            "hides the infinity, and with it the gradient of the pairs that are most wrong"
        )
    if not isinstance(value, Tensor) or value.grad_fn is None:
        raise Wrong("the number is right, but no gradient reaches the scores: return a tensor")
    slope = -1.0 if difference < 0 else 0.0
    gradients = torch.autograd.grad(value.sum(), (chosen, rejected), allow_unused=True)
    for name, gradient, right in zip(_PAIR, gradients, (slope, -slope), strict=True):
        if gradient is None:
            raise Wrong(f"the number is right, but no gradient reaches the {name} scores")
        if not abs(gradient.item() - right) < 1e-3:
            raise Wrong(
                f"{where} the gradient of the {name} score is {gradient.item():.4g} and should be "
                f"{right:.0f}: torch.where differentiates the branch that it drops, too"
            )


def _loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    return -logsigmoid(chosen - rejected).mean()


def _loss_where(chosen: Tensor, rejected: Tensor) -> Tensor:
    d = chosen - rejected
    return torch.where(d < -50, -d, -d.sigmoid().log()).mean()


BRADLEY_TERRY = Check(
    name="08-bradley-terry",
    verify=_verify_loss,
    solution=_loss,
    rejects=(
        (lambda c, r: -(c - r).sigmoid().log().mean(), "in one step"),
        (lambda c, r: (1 + (r - c).exp()).log().mean(), "in one step"),
        (lambda c, r: -(c.exp() / (c.exp() + r.exp())).log().mean(), "in one step"),
        (lambda c, r: -(1 - r.exp() / (c.exp() + r.exp())).log().mean(), "it is nan"),
        (lambda c, r: -((c - r).sigmoid() + 1e-12).log().mean(), "a clamp or an epsilon"),
        (lambda c, r: -logsigmoid((c - r).clamp(-50, 50)).mean(), "a clamp or an epsilon"),
        (_loss_where, "torch.where"),
        (lambda c, r: _loss(r, c), "are swapped"),
        (lambda c, r: (1 - c + r).relu().mean(), "hinge loss"),
        (lambda c, r: (r - c).mean(), "the sigmoid is missing"),
        (lambda c, r: -logsigmoid(c - r).sum(), "the sum over pairs"),
        (lambda c, r: -logsigmoid(c - r), "one number"),
        (lambda c, r: logsigmoid(c - r).mean(), "has the minus"),
        (lambda c, r: -(c - r).sigmoid().mean(), "the logarithm is missing"),
        (lambda c, r: -logsigmoid((c - r).mean()), "of the mean difference"),
        (lambda c, r: -(logsigmoid(c) + logsigmoid(-r)).mean(), "on its own"),
        (lambda c, r: _loss(c, r).item(), "no gradient reaches the scores"),
        (lambda c, r: _loss(c, r.detach()), "the rejected scores"),
    ),
    insight="Far on the wrong side it is simply minus the difference, with a gradient of 1 that "
    "never fades; far on the right side it is 0.",
)


def _masks() -> tuple[tuple[str, Tensor], ...]:
    """Return masks of five positions; the last kind is a left-padded prompt and its answer."""
    right = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0]])
    both = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 1], [1, 1, 0, 0, 0]])
    return ("on the right", right), ("on the left", right.flip(1)), ("on both sides", both)


def _verify_last_token(last_token: Callable[[Tensor], Tensor]) -> None:
    for side, mask in _masks():
        found = torch.as_tensor(last_token(mask.clone()))
        if found.is_floating_point() or found.dtype == torch.bool:
            raise Wrong(f"an index is a whole number, not {found.dtype}")
        n_rows, seq = mask.shape
        if found.ndim == 0:
            found = found.expand(n_rows)
        if found.shape != (n_rows,):
            raise Wrong(f"one index for each row, ({n_rows},), not {tuple(found.shape)}")
        found, expected = torch.where(found < 0, found + seq, found), last_token_index(mask)
        if torch.equal(found, expected):
            continue
        for slip, sentence in _LAST_TOKEN_SLIPS:
            if torch.equal(found, slip(mask)):
                raise Wrong(f"with padding {side}: {sentence}")
        row = (found != expected).nonzero()[0].item()
        raise Wrong(
            f"with padding {side}: the last 1 of {mask[row].tolist()} is at {expected[row]}, "
            f"counted from 0, and yours is {found[row]}"
        )


_LAST_TOKEN_SLIPS = (
    (
        lambda mask: torch.full((len(mask),), mask.shape[1] - 1),
        "that is the last position of every "
        "row, and it is padding in the shorter ones: the score is read at nothing",
    ),
    (
        lambda mask: mask.sum(1),
        "that is one too far; a row of n tokens ends at n - 1, counted from 0",
    ),
    (lambda mask: mask.argmin(1), "that is the first padding token, and 0 in a row without any"),
    (lambda mask: mask.argmax(1), "that is the first real token"),
    (
        lambda mask: mask.sum(1) - 1,
        "the number of tokens tells where a row ends only if it begins "
        "at 0, and here padding comes first",
    ),
    (
        lambda mask: (mask.argmin(1) - 1) % mask.shape[1],
        "the token before the first padding is not the last one where padding comes first",
    ),
)


def _last_token(mask: Tensor) -> Tensor:
    positions = torch.arange(mask.shape[1])
    return (positions * mask).argmax(dim=1)


def _last_of_side(mask: Tensor) -> Tensor:
    """Decide the side once for the whole batch."""
    last = torch.full((len(mask),), mask.shape[1] - 1)
    return mask.sum(1) - 1 if mask[:, 0].all() else last


LAST_TOKEN = Check(
    name="08-last-token",
    verify=_verify_last_token,
    solution=_last_token,
    rejects=(
        (lambda mask: -1, "the last position of every row"),
        (lambda mask: torch.full((len(mask),), -1), "the last position of every row"),
        (lambda mask: mask.sum(1) - 1, "padding comes first"),
        (lambda mask: mask.sum(1), "one too far"),
        (lambda mask: mask.argmin(1), "the first padding token"),
        (lambda mask: mask.argmin(1) - 1, "where padding comes first"),
        (lambda mask: mask.argmax(1), "the first real token"),
        (_last_of_side, "the last position of every row"),
        (lambda mask: _last_token(mask).float(), "a whole number"),
        (lambda mask: _last_token(mask)[:, None], "one index for each row"),
        (lambda mask: (mask.shape[1] - 1 - mask.flip(1).argmax(1)).clamp(max=3), "yours is 3"),
    ),
    insight="A prompt padded on the left and its answer padded on the right make rows with padding "
    "on both sides; chapter 09 has them in every rollout.",
)
