"""From scores to odds, and what labels that are sometimes wrong make of them."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from course_utils.practice.exercises.check import Check, Wrong
from course_utils.practice.exercises.compare import Slips, expect_close

Pair = Callable[[Tensor, Tensor, Tensor], Sequence[float] | Tensor]


def _two_numbers(found: object, what: str) -> Sequence[float] | Tensor:
    if not isinstance(found, tuple | list | Tensor) or len(torch.as_tensor(found).shape) != 1:
        raise Wrong(f"return two numbers: {what}")
    if len(found) != 2:
        raise Wrong(f"return two numbers, not {len(found)}: {what}")
    return found


def _scalars(*numbers: float) -> tuple[Tensor, ...]:
    """Return tensors of one number, which ``math`` takes as well as ``torch``."""
    return torch.tensor(numbers, dtype=torch.float64).unbind()


def _verify_win(odds: Pair) -> None:
    for a, b, p in ((2.0, 0.5, 0.9), (1.0, 3.0, 0.3), (-0.5, -1.2, 0.5)):
        found = _two_numbers(odds(*_scalars(a, b, p)), "the probability and the difference")
        _expect_win(found[0], a, b, p)
        _expect_difference(found[1], a, b, p)


def _expect_win(found: object, a: float, b: float, p: float) -> None:
    expect_close(
        found,
        _sigmoid(a - b),
        what=f"the probability for scores of {a:g} and {b:g}",
        slips=_win_slips(a, b, p),
    )


def _win_slips(a: float, b: float, p: float) -> Slips:
    d = a - b
    win = _sigmoid(d)
    return (
        (1 - win, "that is the probability that b is the better one: the difference is a - b"),
        (
            a / (a + b),
            "a ratio needs strengths above 0, and a score can be negative: a "
            "score is the logarithm of a strength",
        ),
        (math.log(p / (1 - p)), "that is the difference for p; return the probability first"),
        (d, "that is the difference itself; a sigmoid makes a probability of it"),
        (float(a > b), "that only tells who leads: a lead of 0.1 is no certainty"),
        *(
            (
                1 / (1 + base**-d),
                "another base: the scores of this loss are natural "
                "logarithms, so it is e^(-difference)",
            )
            for base in (2, 10, 10 ** (1 / 400))
        ),
        (1 / (1 + math.exp(-a)), "b is left out: a score alone means nothing"),
        (
            math.exp(a) / (1 + math.exp(a) + math.exp(b)),
            "that is a softmax with a third answer of score 0; there are two",
        ),
        (
            _sigmoid(a) / (_sigmoid(a) + _sigmoid(b)),
            "the sigmoid is taken of each score; take it of their difference",
        ),
        (
            0.5 * (1 + math.erf(d / math.sqrt(2))),
            "that is the normal distribution; Bradley and Terry have the logistic one, the sigmoid",
        ),
    )


def _expect_difference(found: object, a: float, b: float, p: float) -> None:
    odds_of_p = p / (1 - p)
    needed = math.log(odds_of_p)
    expect_close(
        found,
        needed,
        what=f"the difference for a probability of {p:g}",
        slips=(
            (odds_of_p, "these are the odds; the difference of scores is their logarithm"),
            (
                math.log(p),
                "that is the logarithm of the probability; it is that of the odds, p / (1 - p)",
            ),
            (-needed, "the sign is wrong: above one half, a must lead"),
            *(
                (
                    needed / math.log(base),
                    "another base: take the natural logarithm, as the probability takes e",
                )
                for base in (2, 10)
            ),
            (
                _sigmoid(p),
                "that goes on from p to another probability; here the way back is "
                "asked, the inverse of the sigmoid",
            ),
            (
                needed - (a - b),
                "that is what is still missing beside the two scores; asked is the "
                "whole difference that gives p",
            ),
            (b + needed, "that is the score a would need; asked is the difference"),
        ),
    )


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _win(a: Tensor, b: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    return torch.sigmoid(a - b), torch.log(p / (1 - p))


WIN = Check(
    name="08-win",
    verify=_verify_win,
    solution=_win,
    rejects=(
        (lambda a, b, p: (1 / (1 + 10 ** (b - a)), torch.logit(p)), "another base"),
        (lambda a, b, p: (1 / (1 + 10 ** ((b - a) / 400)), torch.logit(p)), "another base"),
        (lambda a, b, p: (torch.sigmoid(a - b), torch.logit(p) / math.log(10)), "another base"),
        (lambda a, b, p: (torch.sigmoid(a - b), torch.log2(p / (1 - p))), "another base"),
        (lambda a, b, p: (a / (a + b), torch.logit(p)), "needs strengths above 0"),
        (lambda a, b, p: (torch.stack([a, b, 0 * a]).softmax(0)[0], torch.logit(p)), "third"),
        (lambda a, b, p: (a.sigmoid() / (a.sigmoid() + b.sigmoid()), torch.logit(p)), "of each"),
        (lambda a, b, p: (torch.sigmoid(a), torch.logit(p)), "b is left out"),
        (lambda a, b, p: (torch.special.ndtr(a - b), torch.logit(p)), "normal distribution"),
        (lambda a, b, p: (a - b, torch.logit(p)), "difference itself"),
        (lambda a, b, p: (float(a > b), torch.logit(p)), "who leads"),
        (lambda a, b, p: _win(b, a, p), "b is the better one"),
        (lambda a, b, p: (torch.sigmoid(a - b), p / (1 - p)), "the odds"),
        (lambda a, b, p: (torch.sigmoid(a - b), p.log()), "logarithm of the probability"),
        (lambda a, b, p: (torch.sigmoid(a - b), torch.logit(1 - p)), "a must lead"),
        (lambda a, b, p: (torch.sigmoid(a - b), p.sigmoid()), "the way back"),
        (lambda a, b, p: (torch.sigmoid(a - b), torch.logit(p) - (a - b)), "still missing"),
        (lambda a, b, p: (torch.sigmoid(a - b), torch.logit(p) + b), "a would need"),
        (lambda a, b, p: _win(a, b, p)[::-1], "probability first"),
        (lambda a, b, p: _win(a, b, p)[0], "two numbers"),
    ),
    insight="A lead of 1.1 is three to one, a lead of 2.2 nine to one, wherever the scores lie.",
)


def _verify_noise(noisy: Pair) -> None:
    for a, q, d in ((0.85, 0.1, 1.5), (0.76, 0.25, -0.8), (1.0, 0.2, 3.0)):
        found = _two_numbers(noisy(*_scalars(a, q, d)), "the accuracy and the loss")
        measured = a * (1 - q) + (1 - a) * q
        _expect_measured(found[0], measured, a, q)
        _expect_soft_loss(found[1], measured, q, d)


def _expect_measured(found: object, measured: float, a: float, q: float) -> None:
    expect_close(
        found,
        measured,
        what=f"the accuracy measured for {a:g} and labels flipped at {q:g}",
        slips=(
            (
                a - q,
                "flipped labels do not only take away: where the model is wrong, a "
                "flipped label counts as a hit",
            ),
            (
                a * (1 - q),
                "that counts the pairs where model and label are both right; where "
                "both are wrong they agree as well",
            ),
            (1 - measured, "that is how often model and label differ"),
            (
                1 - q,
                f"that is what a perfect model gets; this one is right with probability {a:g} only",
            ),
            (
                (a - q) / (1 - 2 * q),
                "that goes the other way, from a measured accuracy to the true one",
            ),
            (a, "labels that are sometimes wrong must cost a good model something"),
        ),
    )


def _expect_soft_loss(found: object, measured: float, q: float, d: float) -> None:
    hard, flipped = (-math.log(_sigmoid(x)) for x in (d, -d))
    expect_close(
        found,
        (1 - q) * hard + q * flipped,
        what=f"the loss at a difference of {d:g}",
        slips=_soft_loss_slips(measured, q, d),
    )


def _soft_loss_slips(measured: float, q: float, d: float) -> Slips:
    hard, flipped = (-math.log(_sigmoid(x)) for x in (d, -d))
    win = _sigmoid(d)
    return (
        (
            hard,
            "that trusts the label fully, a target of 1; it is right with probability 1 - q",
        ),
        (
            q * hard + (1 - q) * flipped,
            "the two are swapped: the label as it stands has the weight 1 - q",
        ),
        (
            (1 - q) * hard,
            "that only makes the loss smaller; the other order has to count with the weight q",
        ),
        (
            (1 - q / 2) * hard + q / 2 * flipped,
            "the target is 1 - q, not 1 - q/2: q is "
            "how often a label is flipped, not how often it is drawn at random",
        ),
        (
            -math.log((1 - q) * win + q * (1 - win)),
            "the two probabilities are mixed inside "
            "the logarithm; a soft target mixes the two losses",
        ),
        (
            ((1 - q) * hard - q * flipped) / (1 - 2 * q),
            "that is the unbiased estimate of "
            "the loss without noise, another remedy; a soft target adds both with weights "
            "1 - q and q",
        ),
        (-(1 - q) * hard - q * flipped, "the minus of the logarithm is missing"),
        (
            measured * hard + (1 - measured) * flipped,
            "the accuracy has no place in the target: it is the label that is flipped",
        ),
    )


def _noisy(accuracy: Tensor, q: Tensor, difference: Tensor) -> tuple[Tensor, Tensor]:
    measured = accuracy * (1 - q) + (1 - accuracy) * q
    return measured, -(1 - q) * logsigmoid(difference) - q * logsigmoid(-difference)


def _with_target(target: Callable[[Tensor, Tensor], Tensor]) -> Pair:
    return lambda a, q, d: (
        _noisy(a, q, d)[0],
        -target(a, q) * logsigmoid(d) - (1 - target(a, q)) * logsigmoid(-d),
    )


def _mixed_inside(a: Tensor, q: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    win = d.sigmoid()
    return _noisy(a, q, d)[0], -torch.log((1 - q) * win + q * (1 - win))


def _unbiased(a: Tensor, q: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    loss = (q * logsigmoid(-d) - (1 - q) * logsigmoid(d)) / (1 - 2 * q)
    return _noisy(a, q, d)[0], loss


NOISE = Check(
    name="08-noise",
    verify=_verify_noise,
    solution=_noisy,
    rejects=(
        (lambda a, q, d: (a - q, _noisy(a, q, d)[1]), "do not only take away"),
        (lambda a, q, d: (a * (1 - q), _noisy(a, q, d)[1]), "both are wrong they agree"),
        (lambda a, q, d: (1 - _noisy(a, q, d)[0], _noisy(a, q, d)[1]), "differ"),
        (lambda a, q, d: (1 - q, _noisy(a, q, d)[1]), "a perfect model"),
        (lambda a, q, d: ((a - q) / (1 - 2 * q), _noisy(a, q, d)[1]), "the other way"),
        (lambda a, q, d: (a, _noisy(a, q, d)[1]), "must cost"),
        (_with_target(lambda a, q: torch.ones_like(q)), "trusts the label fully"),
        (_with_target(lambda a, q: q), "swapped"),
        (_with_target(lambda a, q: 1 - q / 2), "not 1 - q/2"),
        (_with_target(lambda a, q: a * (1 - q) + (1 - a) * q), "no place in the target"),
        (lambda a, q, d: (_noisy(a, q, d)[0], -(1 - q) * logsigmoid(d)), "the other order"),
        (lambda a, q, d: (_noisy(a, q, d)[0], -_noisy(a, q, d)[1]), "minus of the logarithm"),
        (_mixed_inside, "inside the logarithm"),
        (_unbiased, "unbiased"),
        (lambda a, q, d: _noisy(a, q, d)[0], "two numbers"),
        (lambda a, q, d: (*_noisy(a, q, d), 1 - q), "not 3"),
    ),
    insight="A model that is always right measures 1 - q, and the soft loss is least where the "
    "sigmoid of the difference is 1 - q: both stop where the labels do.",
)
