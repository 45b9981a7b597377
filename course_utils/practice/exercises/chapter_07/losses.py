"""The loss on the answer: a mean over the tokens that are targets."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from course_utils.practice.exercises.check import Check, Wrong
from course_utils.practice.exercises.compare import expect_close
from course_utils.practice.exercises.material import draw

_VOCAB = 11
# Prompts and answers of several lengths, so that means taken in another order differ. In the
# second case every token is a label, the first too, which no token stands before.
_ANSWERS = torch.tensor(
    [
        [-100, -100, 4, 7, 2, 9, 3, 2],
        [-100, -100, -100, -100, -100, 5, 2, -100],
        [-100, 8, 6, 2, -100, -100, -100, -100],
    ]
)
_EVERYTHING = torch.tensor([[1, 4, 7, 2], [1, 9, 3, 10]])


def _verify_loss(answer_loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    for labels in (_ANSWERS, _EVERYTHING):
        logits = (2 * draw(*labels.shape, _VOCAB)).requires_grad_()
        loss = answer_loss(logits, labels.clone())
        value = loss.detach() if isinstance(loss, Tensor) else loss
        expected = _answer_loss(logits.detach(), labels).item()
        slips = [(slip(logits.detach(), labels), sentence) for slip, sentence in _SLIPS]
        expect_close(value, expected, what="the loss", rel=1e-4, slips=slips)
        if not isinstance(loss, Tensor) or loss.grad_fn is None:
            raise Wrong(
                "the number is right, but no gradient can flow back from it: return the tensor "
                "(no .item(), no detach, no torch.no_grad)"
            )


def _losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return each token's loss, 0 where it is no target, and whether it is one, (batch, seq-1)."""
    targets = labels[:, 1:]
    return cross_entropy(logits[:, :-1].mT, targets, reduction="none"), targets != -100


def _answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def _unshifted(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits.flatten(0, 1), labels.flatten())


def _shifted_back(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits[:, 1:].flatten(0, 1), labels[:, :-1].flatten())


def _rolled(logits: Tensor, labels: Tensor) -> Tensor:
    return _unshifted(logits, labels.roll(-1, dims=1))


def _shifted_twice(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits[:, :-2].flatten(0, 1), labels[:, 2:].flatten())


def _mean_of_rows(logits: Tensor, labels: Tensor) -> Tensor:
    losses, is_target = _losses(logits, labels)
    return (losses.sum(1) / is_target.sum(1)).mean()


def _sum(logits: Tensor, labels: Tensor) -> Tensor:
    return _losses(logits, labels)[0].sum()


def _mean_of_all(logits: Tensor, labels: Tensor) -> Tensor:
    return _losses(logits, labels)[0].mean()


def _masked_as_zero(logits: Tensor, labels: Tensor) -> Tensor:
    return _answer_loss(logits, labels.clamp(min=0))


def _without_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    targets = labels[:, 1:]
    chosen = logits[:, :-1].gather(2, targets.clamp(min=0)[..., None])[..., 0]
    return -chosen[targets != -100].mean()


def _over_the_batch(logits: Tensor, labels: Tensor) -> Tensor:
    return _sum(logits, labels) / len(labels)


def _over_every_place(logits: Tensor, labels: Tensor) -> Tensor:
    return _sum(logits, labels) / labels.numel()


_DILUTED = (
    "the masked tokens are in the mean, as zeros: divide by the number of targets, or the loss "
    "falls when a prompt grows longer"
)
_SLIPS = (
    (
        _unshifted,
        "nothing is shifted: the logits at a place are for the next token, so those at "
        "0 .. n-2 go with the labels at 1 .. n-1",
    ),
    (_shifted_back, "shifted the wrong way: the logits come first, the labels one place later"),
    (
        _shifted_twice,
        "shifted twice: the logits at a place are for the next token, not for the one after it",
    ),
    (_rolled, "rolling brings the first label round to the last place; cut it off instead"),
    (_mean_of_all, _DILUTED),
    (_over_every_place, _DILUTED),
    (_masked_as_zero, "where the label is -100 the loss of token 0 is counted: leave those out"),
    (
        _mean_of_rows,
        "that is the mean of the rows' means: a token of a short answer then weighs "
        "more than one of a long answer",
    ),
    (_sum, "that is the sum: it grows with the batch; divide by the number of targets"),
    (_over_the_batch, "the sum is divided by the number of rows, not by the number of targets"),
    (_without_softmax, "those are logits, not log-probabilities: take log_softmax first"),
    (
        lambda logits, labels: _answer_loss(logits, labels).exp(),
        "that is the perplexity, exp of the loss",
    ),
)

LOSS = Check(
    name="07-loss",
    verify=_verify_loss,
    solution=_answer_loss,
    rejects=(
        (_unshifted, "nothing is shifted"),
        (_shifted_back, "wrong way"),
        (_shifted_twice, "shifted twice"),
        (_rolled, "first label round"),
        (_mean_of_all, "masked tokens are in the mean"),
        (_over_every_place, "masked tokens are in the mean"),
        (_masked_as_zero, "token 0 is counted"),
        (_mean_of_rows, "rows' means"),
        (_sum, "that is the sum"),
        (_over_the_batch, "number of rows"),
        (_without_softmax, "take log_softmax"),
        (lambda logits, labels: -_answer_loss(logits, labels), "sign"),
        (lambda logits, labels: _answer_loss(logits, labels).exp(), "perplexity"),
        (lambda logits, labels: _losses(logits, labels)[0], "must be a number"),
        (lambda logits, labels: _answer_loss(logits, labels).item(), "no gradient"),
    ),
    insight="transformers computes the same from labels that are not shifted.",
)
