"""How far a reader is: what is remembered by topic, and what the next days will ask."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from statistics import mean

from course_utils.practice.quiz.bank import QuestionBank
from course_utils.practice.review.memory import Memory

FORECAST_DAYS = 7
LATER_DAYS = 30


@dataclass(frozen=True, kw_only=True)
class TopicProgress:
    """What is remembered on a topic.

    Args:
        topic: The topic.
        n_questions: Questions of the bank.
        n_asked: Those that were answered at least once.
        n_answers: Answers to them.
        n_right: Right ones among these.
        n_due: Questions that are due.
        recall: Chance to recall, now and on average over those asked, by FSRS's model.
        recall_later: The same in 30 days, if none is asked again.
    """

    topic: str
    n_questions: int
    n_asked: int
    n_answers: int
    n_right: int
    n_due: int
    recall: float
    recall_later: float


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a reader is.

    Args:
        topics: The topics of which something was asked, the least remembered first.
        n_questions: Questions of the bank.
        n_asked: Those that were answered at least once.
        n_due: Those that are due.
        n_vanished: Questions on record that the bank no longer has; their answers stay there.
        forecast: How many questions become due on each of the next days; the first day counts
            what is due already. Questions that are answered in between come again: not counted.
    """

    topics: list[TopicProgress]
    n_questions: int
    n_asked: int
    n_due: int
    n_vanished: int
    forecast: dict[date, int]


def progress_of(bank: QuestionBank, memories: Mapping[str, Memory], now: datetime) -> Progress:
    """Return how far a reader is.

    Args:
        bank: All questions.
        memories: What is remembered of each question, from the record.
        now: The present, in UTC.
    """
    by_topic: dict[str, list[Memory]] = defaultdict(list)
    for question in bank:
        if question.id in memories:
            by_topic[question.topic].append(memories[question.id])
    topics = [
        _topic_progress(topic, len(bank.by_topic(topic)), found, now)
        for topic, found in by_topic.items()
    ]
    known = [memory for found in by_topic.values() for memory in found]
    return Progress(
        topics=sorted(topics, key=lambda topic: (topic.recall, topic.topic)),
        n_questions=len(bank),
        n_asked=len(known),
        n_due=sum(memory.due <= now for memory in known),
        n_vanished=len(memories) - len(known),
        forecast=_forecast(known, now),
    )


def _topic_progress(
    topic: str, n_questions: int, memories: list[Memory], now: datetime
) -> TopicProgress:
    later = now + timedelta(days=LATER_DAYS)
    return TopicProgress(
        topic=topic,
        n_questions=n_questions,
        n_asked=len(memories),
        n_answers=sum(memory.n_answers for memory in memories),
        n_right=sum(memory.n_right for memory in memories),
        n_due=sum(memory.due <= now for memory in memories),
        recall=mean(memory.recall(now) for memory in memories),
        recall_later=mean(memory.recall(later) for memory in memories),
    )


def _forecast(memories: list[Memory], now: datetime) -> dict[date, int]:
    days = [now.date() + timedelta(days=k) for k in range(FORECAST_DAYS)]
    due = [max(memory.due, now).date() for memory in memories]
    return {day: due.count(day) for day in days}
