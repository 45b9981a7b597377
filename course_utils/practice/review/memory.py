"""What is remembered of each question, by the model FSRS 6, from the record of answers.

The chance to recall falls with the days since the last answer and slower the more stable a memory
is; each answer changes stability and difficulty (Ye, Su and Cao, 2022, doi:10.1145/3534678.3539081;
the package ``fsrs`` with its default parameters, which were fitted to other people's reviews).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from fsrs import Card, Rating, Scheduler

from course_utils.practice.review.record import Answer

RETENTION = 0.9
"""A question is due when the chance to recall its answer has fallen to this."""

# Steps of whole days, as the model counts; fuzz would draw from the global random state.
_SCHEDULER = Scheduler(
    desired_retention=RETENTION,
    learning_steps=(),
    relearning_steps=(),
    maximum_interval=365,
    enable_fuzzing=False,
)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What is remembered of one question.

    Args:
        n_answers: How often it was answered.
        n_right: How often it was answered rightly.
        was_right: Whether the last answer was right.
        card: The state of the model.
    """

    n_answers: int
    n_right: int
    was_right: bool
    card: Card

    @property
    def due(self) -> datetime:
        """When it should be asked again, at least a day after the last answer."""
        return self.card.due

    def recall(self, now: datetime) -> float:
        """Return the chance, 0 to 1, to recall the answer; it falls by whole days."""
        return _SCHEDULER.get_card_retrievability(self.card, now)


def memories_of(answers: Iterable[Answer], now: datetime) -> dict[str, Memory]:
    """Return what is remembered of each question that was answered.

    Args:
        answers: The record, in its order.
        now: The present, in UTC.
    """
    memories: dict[str, Memory] = {}
    for answer in _in_time(list(answers), now):
        before = memories.get(answer.question)
        # The package would wait a millisecond to make an id of its own.
        card = before.card if before else Card(card_id=0, due=answer.time)
        rating = Rating.Good if answer.is_right else Rating.Again
        card, _ = _SCHEDULER.review_card(card, rating, answer.time)
        memories[answer.question] = Memory(
            n_answers=(before.n_answers if before else 0) + 1,
            n_right=(before.n_right if before else 0) + answer.is_right,
            was_right=answer.is_right,
            card=card,
        )
    return memories


def _in_time(answers: list[Answer], now: datetime) -> Iterator[Answer]:
    """Yield the answers with times in UTC that never run back and are never ahead of now.

    The order of the record is right, whatever the clock said: a time ahead of now, or before the
    answer before it, was a clock's mistake, and the time of the answer before stands in for it.
    """
    now = now.astimezone(UTC)
    times = [answer.time.astimezone(UTC) for answer in answers]
    last = min((time for time in times if time <= now), default=now)
    for answer, time in zip(answers, times, strict=True):
        last = time if last <= time <= now else last
        yield replace(answer, time=last)
