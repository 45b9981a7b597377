"""What is remembered: the model's bounds and limits, and a clock that is wrong."""

import random
from datetime import UTC, datetime, timedelta

import fsrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils.practice.review.memory import RETENTION, memories_of
from course_utils.practice.review.record import Answer

START = datetime(2026, 11, 27, 12, tzinfo=UTC)


def answers(*days_and_grades, question="00-q"):
    return [
        Answer(question=question, is_right=is_right, time=START + timedelta(days=day))
        for day, is_right in days_and_grades
    ]


def memory(*days_and_grades, now=1000):
    return memories_of(answers(*days_and_grades), START + timedelta(days=now))["00-q"]


def days_until_due(found):
    return (found.due - found.card.last_review).days


def test_the_numbers_are_the_packages_own():
    scheduler = fsrs.Scheduler(learning_steps=(), relearning_steps=(), enable_fuzzing=False)
    card = fsrs.Card(card_id=7)
    for answer in answers((0, True), (3, True), (9, False), (9.5, True), (12, True)):
        rating = fsrs.Rating.Good if answer.is_right else fsrs.Rating.Again
        card, _ = scheduler.review_card(card, rating, answer.time)
    ours = memory((0, True), (3, True), (9, False), (9.5, True), (12, True))
    assert (ours.card.stability, ours.card.difficulty) == (card.stability, card.difficulty)
    assert ours.due == card.due
    assert (ours.n_answers, ours.n_right, ours.was_right) == (5, 4, True)


def test_a_right_answer_waits_longer_than_a_wrong_one_and_each_at_least_a_day():
    wrong, right = memory((0, False)), memory((0, True))
    assert 1 == days_until_due(wrong) < days_until_due(right)
    assert not wrong.was_right


def test_spaced_right_answers_are_asked_ever_less_often():
    given_so_far, gaps, day = [], [], 0
    for _ in range(5):
        given_so_far.append((day, True))
        gaps.append(days_until_due(memory(*given_so_far, now=day)))
        day += gaps[-1]
    assert gaps == sorted(set(gaps))
    assert gaps[-1] == 365, "the longest gap is a year"


def test_recall_falls_from_one_to_the_rate_at_which_it_is_asked_again():
    found = memory((0, True), (2, True))
    last = found.card.last_review
    falling = [found.recall(last + timedelta(days=day)) for day in range(40)]
    assert falling[0] == 1
    assert falling == sorted(falling, reverse=True)
    assert falling[days_until_due(found)] == pytest.approx(RETENTION, abs=0.02)


def test_chance_has_no_part_in_it():
    random.seed(1)
    before = random.getstate()
    first = memory((0, True), (2, True), (12, True))
    assert random.getstate() == before
    random.seed(2)
    assert memory((0, True), (2, True), (12, True)) == first


def test_questions_do_not_mix():
    mixed = answers((0, True), question="00-a") + answers((1, False), question="00-b")
    found = memories_of(mixed, START + timedelta(days=9))
    assert found["00-a"] == memories_of(mixed[:1], START + timedelta(days=9))["00-a"]
    assert set(found) == {"00-a", "00-b"}


# A wrong clock


def test_a_clock_set_back_by_hours_counts_as_standing_still():
    found = memory((0, True), (3, True), (2.5, True))
    assert found == memory((0, True), (3, True), (3, True))
    assert found.n_answers == 3


def test_a_clock_that_was_ahead_does_not_put_off_a_question_for_years():
    now = 4
    found = memory((0, True), (4000, True), now=now)
    assert found == memory((0, True), (0, True), now=now)
    assert found.due < START + timedelta(days=60)
    assert memory((4000, True), now=now).due < START + timedelta(days=now + 60)


def test_a_clock_that_was_far_behind_does_not_age_the_other_answers():
    assert memory((0, True), (-20_000, True), (3, True)) == memory((0, True), (0, True), (3, True))


@given(st.lists(st.tuples(st.integers(-9000, 9000), st.booleans()), min_size=1, max_size=12))
def test_any_record_gives_a_memory_of_now(record):
    now = START + timedelta(days=10)
    found = memories_of(answers(*record), now)["00-q"]
    assert found.n_answers == len(record)
    assert found.card.last_review <= now
    assert 0 < found.recall(now) <= 1
    assert timedelta(days=1) <= found.due - found.card.last_review <= timedelta(days=365)
