"""Which questions to ask: what is due, what is weak, a chapter, a topic."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from course_utils.practice.quiz.bank import Question, QuestionBank
from course_utils.practice.review.memory import RETENTION, Memory

WEAK = "weak"


def due_questions(
    questions: Iterable[Question], memories: Mapping[str, Memory], now: datetime
) -> list[Question]:
    """Return the questions that were answered before and are due, the least remembered first."""
    return sorted(
        (q for q in questions if q.id in memories and memories[q.id].due <= now),
        key=lambda question: memories[question.id].recall(now),
    )


def weak_questions(
    questions: Iterable[Question], memories: Mapping[str, Memory], now: datetime
) -> list[Question]:
    """Return the weak spots: answered wrongly the last time, then what is likely forgotten."""
    known = [(memories[q.id], q) for q in questions if q.id in memories]
    weak = [(m, q) for m, q in known if not m.was_right or m.recall(now) < RETENTION]
    return [q for _, q in sorted(weak, key=lambda pair: (pair[0].was_right, pair[0].recall(now)))]


def quiz_questions(
    bank: QuestionBank, wanted: str | None, memories: Mapping[str, Memory], now: datetime
) -> list[Question]:
    """Return the questions of a quiz: what is due, then new ones, then those still remembered.

    Args:
        bank: All questions.
        wanted: A chapter's number, a topic, ``weak`` for weak spots alone, or None for all.
        memories: What is remembered of each question.
        now: The present, in UTC.

    Raises:
        ValueError: If there is no question on that chapter or topic; the message lists the known.
    """
    if wanted == WEAK:
        return weak_questions(bank, memories, now)
    if wanted is not None:
        is_number = wanted.isascii() and wanted.isdigit()
        bank = bank.for_chapter(wanted) if is_number else bank.by_topic(wanted)
    due = due_questions(bank, memories, now)
    new = [question for question in bank if question.id not in memories]
    rest = [q for q in bank if q.id in memories and memories[q.id].due > now]
    return [*due, *new, *sorted(rest, key=lambda q: memories[q.id].recall(now))]
