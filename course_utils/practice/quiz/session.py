"""A run through questions: responses, grades, score. Knows nothing of how it is shown."""

import random
import re
import secrets
from collections.abc import Callable, Iterable

from course_utils.practice.quiz.bank import Question

Response = frozenset[int] | str | bool

_NUMBER = re.compile(
    r"""(?P<number>[+-]?
        (?: \d{1,3}(?:,\d{3})+(?:\.\d*)?     # 1,024
          | \d{1,3}(?:[ _]\d{3})+(?:\.\d*)?  # 1 024
          | \d+(?:\.\d*)? | \.\d+ )
        (?:e[+-]?\d+)?)
        \s*(?P<unit>.*)""",
    re.VERBOSE | re.IGNORECASE,
)


def parse_number(text: str, unit: str = "") -> float:
    """Read a number as people type it: ``112``, ``112 GB``, ``1.1e2``, ``1,024``.

    Raises:
        ValueError: If it is no number, or carries another unit than ``unit``.
    """
    cleaned = re.sub(r"\s+", " ", text.strip().lstrip("~≈=").replace("\u2212", "-")).strip()
    match = _NUMBER.fullmatch(cleaned)
    if not match or re.match(r"[\d.,]", match["unit"]):
        raise ValueError(f"{text.strip()!r} is not a number: write it like 12, 0.5, 1,024 or 3e4")
    if match["unit"] and _bare(match["unit"]) != _bare(unit):
        wanted = f"in {unit}" if unit else "as a plain number"
        raise ValueError(f"the answer is asked {wanted}, not in {match['unit']!r}")
    return float(re.sub(r"[,_ ]", "", match["number"]))


def _bare(unit: str) -> str:
    return unit.strip().casefold().removesuffix("s")


def grade(question: Question, response: Response) -> bool:
    """Return whether a response is right.

    Args:
        question: The question.
        response: Positions of the chosen options; the text typed for a number; for a flash card
            whether the reader knew it. Several options count only as the exact set.

    Raises:
        ValueError: If no option is chosen, or the text is no number in the question's unit.
    """
    if question.type == "flash":
        return bool(response)
    if question.type == "numeric":
        distance = abs(parse_number(str(response), question.unit) - question.answer)
        return distance <= question.tolerance + 1e-9 * abs(question.answer)
    chosen = frozenset(response)
    if not chosen:
        raise ValueError("choose an option first")
    return chosen == question.correct_options


class Session:
    """Questions, the place among them, and what was answered.

    Args:
        questions: What is asked.
        seed: Shuffles the questions, and the options of each question anew for every try. Without
            one the questions keep their order, and chance shuffles the options.
        keep: Called with the question's id and whether the answer is right, once for each answer
            that counts; returns what the reader is to be told, or an empty text.

    Attributes:
        stored: The questions in the order of this session, their options as the bank has them.
        questions: The same with the options as this try shows them; responses refer to these.
        notice: What was to be told when the last answer was kept.

    Raises:
        ValueError: If there are no questions.
    """

    def __init__(
        self,
        questions: Iterable[Question],
        seed: int | None = None,
        keep: Callable[[str, bool], str] | None = None,
    ) -> None:
        self.stored = list(questions)
        if not self.stored:
            raise ValueError("a quiz needs at least one question")
        if seed is not None:
            random.Random(seed).shuffle(self.stored)
        self._seed = secrets.randbits(32) if seed is None else seed
        self._keep = keep
        self._n_tries = 0
        self.restart()

    def restart(self) -> None:
        """Forget all answers, shuffle the options anew and go to the first question."""
        self._n_tries += 1
        self.questions = [q.shuffled(f"{self._seed} {self._n_tries}") for q in self.stored]
        self.position = 0
        self.responses: dict[str, Response] = {}
        self.grades: dict[str, bool] = {}
        self.notice = ""

    @property
    def current(self) -> Question | None:
        """The question at this place; None behind the last, where the result stands."""
        return self.questions[self.position] if self.position < len(self.questions) else None

    @property
    def score(self) -> int:
        """Number of right answers."""
        return sum(self.grades.values())

    def move(self, step: int) -> None:
        """Go ``step`` questions on or back, at the furthest to the result."""
        self.position = min(max(self.position + step, 0), len(self.questions))

    def answer(self, response: Response) -> bool:
        """Grade the current question; its first answer counts.

        Raises:
            ValueError: If the response cannot be graded; nothing is recorded.
        """
        question = self.current
        if question is None:
            raise ValueError("there is no question at the result")
        if question.id not in self.grades:
            self.grades[question.id] = grade(question, response)
            self.responses[question.id] = response
            self.notice = self._keep(question.id, self.grades[question.id]) if self._keep else ""
        return self.grades[question.id]

    def by_topic(self) -> dict[str, tuple[int, int]]:
        """Return (right answers, questions) for each topic, the weakest first."""
        counts: dict[str, tuple[int, int]] = {}
        for question in self.questions:
            right, total = counts.get(question.topic, (0, 0))
            counts[question.topic] = (right + self.grades.get(question.id, False), total + 1)
        return dict(sorted(counts.items(), key=lambda item: item[1][0] / item[1][1]))
