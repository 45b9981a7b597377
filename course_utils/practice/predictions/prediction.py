"""A prediction: a question, what the reader commits to, and the comparison with the result."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from course_utils.practice.predictions.record import ID_PATTERN, Entry, keep
from course_utils.show.markup import inline_html
from course_utils.show.tables import Shown
from course_utils.validation import check_choice, check_names, check_number, check_text, shown

DEFAULT_FACTOR = 2.0
_LOOKS = {None: ("○", "128,128,128"), True: ("✓", "0,158,115"), False: ("✗", "213,94,0")}


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the reader is asked before a result is shown: an option, or a number.

    Args:
        id: Chapter number, then a name, as in ``02-rates``.
        text: The question.
        options: What there is to choose from, at least two; none where a number is asked.
        unit: The number's unit; empty for a plain number; None where there are options.

    Raises:
        ValueError: If one of them breaks these rules, or there are both options and a unit.
    """

    id: str
    text: str
    options: Sequence[str] = ()
    unit: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not re.fullmatch(ID_PATTERN, self.id, re.ASCII):
            raise ValueError(f"id={shown(self.id)} must be like '02-rates'")
        check_text("question", self.text)
        if bool(self.options) == (self.unit is not None):
            raise ValueError(f"{self.id}: give either options, or the unit of a number")
        if self.unit is not None:
            check_text("unit", self.unit)
            return
        check_names("options", self.options)
        if len(set(self.options)) < max(2, len(self.options)):
            raise ValueError(f"options={shown(self.options)} must be at least 2, all different")
        for option in self.options:
            check_text("option", option)

    @property
    def confidences(self) -> tuple[int, ...]:
        """How sure one can be, in percent: from chance, rounded up to tens, to 100.

        Of a number the chance is next to nothing, so that its levels begin at 10.
        """
        lowest = 10 * math.ceil(10 / len(self.options)) if self.options else 10
        return tuple(range(lowest, 101, 10))

    def __str__(self) -> str:
        if self.options:
            return f"{self.text} ({' | '.join(self.options)})"
        return f"{self.text} (a number{f'; unit: {self.unit}' if self.unit else ''})"

    def say(self, answer: str | float) -> str:
        """Return an answer as a reader writes it, with its unit."""
        return answer if self.options else f"{_as_text(answer)} {self.unit}".strip()

    def check_answer(self, name: str, answer: object) -> None:
        """Check that an answer is one of the options, or a finite number.

        Raises:
            ValueError: If it is not; the message gives value and rule.
        """
        if self.options:
            check_choice(name, answer, self.options)
        else:
            check_number(name, answer)


class Prediction:
    """What a reader says before a result is shown, and how it compares.

    Args:
        question: What is asked.
        is_result_known: Whether the reader has seen the result already.
    """

    def __init__(self, question: Question, *, is_result_known: bool = False) -> None:
        self.question, self.is_result_known = question, is_result_known
        self.answer: str | float | None = None
        self.confidence: int | None = None
        self.is_checked = self._is_kept = False

    @property
    def is_committed(self) -> bool:
        """Whether the reader has committed to an answer."""
        return self.answer is not None

    @property
    def commitment(self) -> str:
        """The answer and how sure it was, as a sentence begins."""
        return f"You said {self.question.say(self.answer)} ({self.confidence} % sure)."

    def commit(self, answer: str | float, confidence: int) -> None:
        """Commit to an answer, once.

        Args:
            answer: One of the options, or a number in the question's unit.
            confidence: How sure the reader is, in percent; one of the question's levels.

        Raises:
            ValueError: If there is an answer already, or one of the two is not allowed.
        """
        if self.is_committed:
            raise ValueError("a prediction that was committed cannot be changed")
        self.question.check_answer("answer", answer)
        if confidence not in self.question.confidences:
            levels = ", ".join(map(str, self.question.confidences))
            raise ValueError(f"confidence={shown(confidence)} must be one of {levels}")
        self.answer, self.confidence = answer, confidence

    def check(
        self, value: str | float, *, within: float | None = None, tolerance: float | None = None
    ) -> Shown:
        """Compare the prediction with the result, and keep it with the reader's record.

        Only a prediction made before the result was shown is kept, and once. If it cannot be
        written, the comparison still shows.

        Args:
            value: What was measured: one of the options, or a number in the question's unit.
            within: Largest factor between answer and value that counts as right, 2 by default.
            tolerance: Largest distance that counts as right, in the question's unit, instead of
                a factor: for percentages, and for numbers that may be near or below zero.

        Returns:
            What the reader said, what was measured, and the verdict.

        Raises:
            ValueError: If the value is no option or no finite number, or the limits are no limits.
        """
        self.question.check_answer("value", value)
        _check_limits(self.question, within, tolerance)
        value = value if self.question.options else float(value)
        measured = f"Measured: {self.question.say(value)}."
        if not self.is_committed:
            self.is_checked = self.is_result_known = True
            return _verdict(f"{measured} You made no prediction.", None)
        is_right, rule = _compare(self.answer, value, within, tolerance)
        rule = f"{rule} {self.question.unit}".strip() if tolerance is not None else rule
        parts = [self.commitment, measured, "Right." if is_right else f"Not right{rule}."]
        parts.append(self._keep(value, is_right))
        self.is_checked = True
        return _verdict(" ".join(filter(None, parts)), is_right)

    def _keep(self, value: str | float, is_right: bool) -> str:
        """Keep the comparison, and say so where that is not possible."""
        if self.is_result_known:
            return "This try is not kept: you had seen the result."
        if self._is_kept:
            return ""
        question = self.question
        entry = Entry(
            id=question.id,
            question=question.text,
            options=list(question.options),
            unit=question.unit or "",
            answer=self.answer,
            value=value,
            right=is_right,
            confidence=self.confidence,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        try:
            keep(entry)
        except OSError as error:
            return f"It could not be kept: {error}."
        self._is_kept = True
        return ""


def _check_limits(question: Question, within: float | None, tolerance: float | None) -> None:
    n_limits = (within is not None) + (tolerance is not None)
    if n_limits > (0 if question.options else 1):
        raise ValueError(
            f"{question.id}: within={shown(within)}, tolerance={shown(tolerance)}: "
            "a number takes at most one of them, an option none"
        )
    check_number("within", within, at_least=1, is_none_ok=True)
    check_number("tolerance", tolerance, at_least=0, is_none_ok=True)


def _compare(
    answer: str | float, value: str | float, within: float | None, tolerance: float | None
) -> tuple[bool, str]:
    """Return whether an answer is right, and the rule for a number, as a sentence goes on."""
    if isinstance(value, str):
        return answer == value, ""
    slack = 1 + 1e-9
    if tolerance is not None:
        is_near = abs(answer - value) <= tolerance + (slack - 1) * abs(value)
        return is_near, f": right is within {_as_text(tolerance)}"
    factor = DEFAULT_FACTOR if within is None else within
    small, large = sorted((abs(answer), abs(value)))
    is_near = (answer < 0) == (value < 0) and large <= factor * small * slack
    return is_near, f": right is within a factor of {_as_text(factor)}"


def _as_text(number: float) -> str:
    return f"{number:,.0f}" if 1000 <= abs(number) < 1e9 else f"{number:.3g}"


def _verdict(text: str, is_right: bool | None) -> Shown:
    mark, colour = _LOOKS[is_right]
    markup = (
        f'<div role="status" style="max-width:736px;box-sizing:border-box;margin:6px 0;'
        f"padding:9px 14px;border:1px solid rgba({colour},.45);border-left:5px solid rgb({colour});"
        f'border-radius:7px;background:rgba({colour},.10);line-height:1.5">'
        f'<span aria-hidden="true">{mark}</span> {inline_html(text)}</div>'
    )
    return Shown(markup, text)
