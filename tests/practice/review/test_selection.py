"""What is asked, and what the record says of the topics; with a bank that changes."""

from dataclasses import replace
from datetime import timedelta

import pytest

from course_utils.practice.quiz.bank import QuestionBank
from course_utils.practice.review.memory import memories_of
from course_utils.practice.review.progress import FORECAST_DAYS, progress_of
from course_utils.practice.review.selection import due_questions, quiz_questions, weak_questions
from tests.practice.quiz.test_session import make
from tests.practice.review.test_memory import START, answers

KINDS = ("single", "multiple", "numeric", "flash")
BANK = QuestionBank(
    tuple(
        make(KINDS[k % 4], id=f"{k // 4:02}-q{k}", topic=("memory", "bugs")[k % 2])
        for k in range(8)
    )
)
NOW = START + timedelta(days=10)
# Of q0 to q3: long ago and right, wrong, right a moment ago, right and wrong again.
RECORD = [
    *answers((0, True), question="00-q0"),
    *answers((5, False), question="00-q1"),
    *answers((9.9, True), question="00-q2"),
    *answers((0, True), (9.5, False), question="00-q3"),
]
MEMORIES = memories_of(sorted(RECORD, key=lambda answer: answer.time), NOW)


def ids(questions):
    return [question.id[3:] for question in questions]


def test_what_is_due_comes_in_the_order_of_what_is_least_remembered():
    assert ids(due_questions(BANK, MEMORIES, NOW)) == ["q1", "q0"]
    assert ids(due_questions(BANK, {}, NOW)) == []
    assert set(ids(due_questions(BANK, MEMORIES, NOW + timedelta(days=400)))) == {
        "q0",
        "q1",
        "q2",
        "q3",
    }


def test_weak_spots_are_what_was_wrong_and_what_is_likely_forgotten():
    assert ids(weak_questions(BANK, MEMORIES, NOW)) == ["q1", "q3", "q0"]
    assert quiz_questions(BANK, "weak", MEMORIES, NOW) == weak_questions(BANK, MEMORIES, NOW)
    assert quiz_questions(BANK, "weak", {}, NOW) == []


def test_a_quiz_asks_what_is_due_then_new_ones_then_the_rest():
    assert ids(quiz_questions(BANK, None, MEMORIES, NOW)) == [
        *("q1", "q0"),
        *("q4", "q5", "q6", "q7"),
        *("q2", "q3"),
    ]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("0", ["q1", "q0", "q2", "q3"]),
        ("01", ["q4", "q5", "q6", "q7"]),
        ("memory", ["q0", "q4", "q6", "q2"]),
    ],
)
def test_a_chapter_and_a_topic_are_chosen_by_name(wanted, expected):
    assert ids(quiz_questions(BANK, wanted, MEMORIES, NOW)) == expected


@pytest.mark.parametrize(
    ("wanted", "known"), [("lora", "'bugs', 'memory'"), ("7", "'00', '01'"), ("²", "'bugs'")]
)
def test_what_is_unknown_lists_what_there_is(wanted, known):
    with pytest.raises(ValueError, match=known):
        quiz_questions(BANK, wanted, MEMORIES, NOW)


# Progress


def test_topics_are_counted_the_least_remembered_first():
    found = progress_of(BANK, MEMORIES, NOW)
    counts = [
        (t.topic, t.n_questions, t.n_asked, t.n_answers, t.n_right, t.n_due) for t in found.topics
    ]
    assert counts == [("bugs", 4, 2, 3, 1, 1), ("memory", 4, 2, 2, 2, 1)]
    assert (found.n_questions, found.n_asked, found.n_due, found.n_vanished) == (8, 4, 2, 0)
    for topic in found.topics:
        assert 0 < topic.recall_later < topic.recall <= 1
    means = [
        sum(MEMORIES[f"00-{q}"].recall(NOW) for q in pair) / 2
        for pair in (("q1", "q3"), ("q0", "q2"))
    ]
    assert [topic.recall for topic in found.topics] == pytest.approx(means)


def test_the_forecast_counts_each_question_once_and_what_is_late_today():
    found = progress_of(BANK, MEMORIES, NOW)
    days = list(found.forecast)
    assert days == [(NOW + timedelta(days=k)).date() for k in range(FORECAST_DAYS)]
    assert found.forecast[NOW.date()] == 2
    assert sum(found.forecast.values()) == 4


def test_without_answers_there_is_nothing_to_tell():
    found = progress_of(BANK, {}, NOW)
    assert (found.topics, found.n_asked, found.n_due) == ([], 0, 0)
    assert set(found.forecast.values()) == {0}


# A bank that changes


def test_history_survives_a_bank_whose_questions_change_vanish_and_come_back():
    changed = [replace(BANK.questions[1], prompt="Why else?", type="flash", topic="myths")]
    new = [make("flash", id="02-new", topic="myths")]
    bank = QuestionBank((*changed, *BANK.questions[2:], *new))
    assert ids(due_questions(bank, MEMORIES, NOW)) == ["q1"]
    assert ids(quiz_questions(bank, "myths", MEMORIES, NOW)) == ["q1", "new"]
    found = progress_of(bank, MEMORIES, NOW)
    assert (found.n_asked, found.n_vanished) == (3, 1)
    assert progress_of(BANK, MEMORIES, NOW).n_vanished == 0, "it is back with its history"
