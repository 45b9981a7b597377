"""The win rate of a judge that is asked in both orders."""

import math
from collections.abc import Callable

from course_utils.practice.exercises.check import Check, Wrong
from course_utils.practice.exercises.compare import expect_close

Verdicts = list[bool]
# A judge that likes the first answer, a fair one, one that likes neither place, one question.
_CASES: tuple[tuple[Verdicts, Verdicts], ...] = (
    ([True, True, True, True, False], [False, True, False, False, False]),
    ([True, False, True, True], [True, False, True, False]),
    ([False, False, True], [True, True, True]),
    ([True], [True]),
    ([False, False], [False, True]),
)
Fair = Callable[[Verdicts, Verdicts], float]


def _fair_win_rate(first: Verdicts, second: Verdicts) -> float:
    points = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    return sum(points) / len(points)


_SLIPS: tuple[tuple[Fair, str], ...] = (
    (lambda a, b: sum(a) / len(a), "that is the first order alone"),
    (lambda a, b: sum(b) / len(b), "that is the second order alone"),
    (
        lambda a, b: sum(x and y for x, y in zip(a, b, strict=True)) / len(a),
        "ties count half, and you count them as lost",
    ),
    (
        lambda a, b: sum(x or y for x, y in zip(a, b, strict=True)) / len(a),
        "ties count half, and you count them as won",
    ),
    (
        lambda a, b: sum(x == y for x, y in zip(a, b, strict=True)) / len(a),
        "that is how often the two orders agree",
    ),
    (lambda a, b: float(sum(a) + sum(b)) / 2, "that is a number of questions: divide by all"),
    (
        lambda a, b: (sum(a) + len(b) - sum(b)) / (2 * len(a)),
        "in both lists True stands for our answer, wherever it stood",
    ),
    (lambda a, b: 1 - _fair_win_rate(a, b), "that is the share that the other side wins"),
)


def _verify_fair(fair_win_rate: Fair) -> None:
    rates = [fair_win_rate(list(first), list(second)) for first, second in _CASES]
    for slip, sentence in _SLIPS:
        if all(isinstance(rate, int | float) for rate in rates) and all(
            math.isclose(slip(*case), rate) for case, rate in zip(_CASES, rates, strict=True)
        ):
            raise Wrong(sentence)
    for (first, second), rate in zip(_CASES, rates, strict=True):
        what = f"for verdicts {first} and {second} the rate"
        expect_close(rate, _fair_win_rate(first, second), what=what)


FAIR = Check(
    name="11-fair",
    verify=_verify_fair,
    solution=_fair_win_rate,
    rejects=(*_SLIPS, (lambda a, b: 100 * _fair_win_rate(a, b), "too large")),
    insight="How often the two orders disagree tells how much the place counts for this judge.",
)
