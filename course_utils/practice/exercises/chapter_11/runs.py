"""How long a run is: optimizer steps, and where early stopping ends it."""

import math
from collections.abc import Callable

from course_utils.practice.exercises.check import Check, Wrong
from course_utils.practice.exercises.compare import expect_equal

# Rows, rows a batch, accumulation, devices, epochs: with and without rests at either place.
_RUNS = (
    (1000, 8, 4, 1, 3),
    (1001, 8, 4, 1, 3),
    (1000, 8, 3, 2, 2),
    (24, 2, 2, 1, 8),
    (7, 2, 8, 2, 5),
    (97, 4, 1, 3, 1),
)
Steps = Callable[[int, int, int, int, int], int]


def _n_steps(rows: int, batch: int, accumulation: int, devices: int, epochs: int) -> int:
    rounds = math.ceil(rows / (batch * devices))
    return math.ceil(rounds / accumulation) * epochs


_STEP_SLIPS: tuple[tuple[Steps, str], ...] = (
    (
        lambda n, b, a, d, e: n // (b * d) // a * e,
        "short batches count: round up, not down",
    ),
    (
        lambda n, b, a, d, e: math.ceil(n / (b * d)) // a * e,
        "rounds left over at the end of an epoch make a step: round up the second time, too",
    ),
    (
        lambda n, b, a, d, e: math.ceil(n / (b * d)) * e,
        "that is the number of batches: the gradients of several of them make one step",
    ),
    (
        lambda n, b, a, d, e: math.ceil(math.ceil(n / b) / a) * e,
        "the devices work at the same time: a round takes a batch on each",
    ),
    (
        lambda n, b, a, d, e: math.ceil(math.ceil(n / (b * d)) / a),
        "that is one epoch",
    ),
    (
        lambda n, b, a, d, e: math.ceil(n * e / (b * d * a)),
        "each epoch begins anew, and so do its rests: round up within an epoch, then multiply",
    ),
    (
        lambda n, b, a, d, e: math.ceil(n / (b * d)) * a * e,
        "accumulation makes fewer steps, not more: divide by it",
    ),
)


def _verify_steps(n_steps: Steps) -> None:
    answers = [n_steps(*run) for run in _RUNS]
    for slip, sentence in _STEP_SLIPS:
        if answers == [slip(*run) for run in _RUNS]:
            raise Wrong(sentence)
    names = ("rows", "a batch", "accumulated", "devices", "epochs")
    for run, answer in zip(_RUNS, answers, strict=True):
        told = ", ".join(f"{n} {name}" for n, name in zip(run, names, strict=True))
        expect_equal(answer, _n_steps(*run), what=f"for {told} your number")


STEPS = Check(
    name="11-steps",
    verify=_verify_steps,
    solution=_n_steps,
    rejects=(*_STEP_SLIPS, (lambda n, b, a, d, e: n, "is not right")),
    insight="So counts the Trainer: its log says *total optimization steps*.",
)


# Losses and patience: an early best, the best at the end, a tie, a dip after the stop, one epoch.
_LOSSES = (
    ([4.0, 3.0, 2.5, 2.7, 2.9, 3.3], 2),
    ([4.0, 3.0, 2.5], 1),
    ([3.0, 3.0, 3.0, 2.0], 2),
    ([3.0, 2.0, 2.2, 2.1, 1.5, 1.0], 2),
    ([3.0, 2.0, 2.2, 2.1, 1.5, 1.0], 3),
    ([2.0, 3.0, 3.1, 3.2, 3.3, 1.0], 2),
    ([1.0, 2.0, 3.0], 5),
    ([2.0], 1),
)
Stop = Callable[[list[float], int], tuple[int, int]]


def _stop(losses: list[float], patience: int) -> tuple[int, int]:
    best, last = 1, len(losses)
    for epoch, loss in enumerate(losses, start=1):
        if loss < losses[best - 1]:
            best = epoch
        if epoch - best == patience:
            last = epoch
            break
    return best, last


def _from_zero(losses: list[float], patience: int) -> tuple[int, int]:
    best, last = _stop(losses, patience)
    return best - 1, last - 1


def _best_of_all(losses: list[float], patience: int) -> tuple[int, int]:
    return losses.index(min(losses)) + 1, _stop(losses, patience)[1]


def _against_the_last(losses: list[float], patience: int) -> tuple[int, int]:
    worse = 0
    for epoch in range(2, len(losses) + 1):
        worse = worse + 1 if losses[epoch - 1] >= losses[epoch - 2] else 0
        if worse == patience:
            return losses.index(min(losses[:epoch])) + 1, epoch
    return losses.index(min(losses)) + 1, len(losses)


def _a_tie_is_better(losses: list[float], patience: int) -> tuple[int, int]:
    best = 1
    for epoch, loss in enumerate(losses, start=1):
        if loss <= losses[best - 1]:
            best = epoch
        if epoch - best == patience:
            return best, epoch
    return best, len(losses)


def _one_too_late(losses: list[float], patience: int) -> tuple[int, int]:
    return _stop(losses, patience + 1)


def _last_one_kept(losses: list[float], patience: int) -> tuple[int, int]:
    _, last = _stop(losses, patience)
    return last, last


def _never(losses: list[float], patience: int) -> tuple[int, int]:
    return losses.index(min(losses)) + 1, len(losses)


_STOP_SLIPS: tuple[tuple[Stop, str], ...] = (
    (_from_zero, "epochs are counted from 1"),
    (_never, "training goes on to the end: stop once the best loss is `patience` epochs old"),
    (_best_of_all, "the best epoch lies behind the stop: it was never trained"),
    (_a_tie_is_better, "an equal loss is no improvement"),
    (_last_one_kept, "the checkpoint that is kept is the best one, not the last"),
    (_one_too_late, "it stops an epoch late"),
    (_against_the_last, "compare with the best loss so far, not with the epoch before"),
    (lambda losses, patience: _stop(losses, patience)[::-1], "(best, last): the order is swapped"),
)


def _verify_stop(stop: Stop) -> None:
    answers = [_as_epochs(stop(list(losses), patience)) for losses, patience in _LOSSES]
    for slip, sentence in _STOP_SLIPS:
        if answers == [slip(*case) for case in _LOSSES]:
            raise Wrong(sentence)
    for (losses, patience), answer in zip(_LOSSES, answers, strict=True):
        what = f"for losses {losses} and patience {patience} your answer"
        expect_equal(answer, _stop(losses, patience), what=what)


def _as_epochs(answer: object) -> tuple[int, ...]:
    try:
        return tuple(int(epoch) for epoch in answer)
    except (TypeError, ValueError) as error:
        raise Wrong("the answer must be two epochs, (best, last)") from error


STOP = Check(
    name="11-stop",
    verify=_verify_stop,
    solution=_stop,
    rejects=(*_STOP_SLIPS, (lambda losses, patience: 1, "two epochs")),
    insight="`EarlyStoppingCallback(early_stopping_patience=...)` does it in a Trainer.",
)
