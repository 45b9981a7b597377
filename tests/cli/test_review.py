"""`course review`, `quiz`, `progress` and `reset`, with one record for terminal and notebook."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from course_utils.cli import app
from course_utils.practice.quiz import QuestionBank, Quiz
from course_utils.practice.quiz import bank as module
from course_utils.practice.review import Answer, Record, record_path
from tests.practice.predictions.test_record import ENTRY
from tests.practice.quiz.test_session import make

QUESTIONS = (
    make("flash", id="00-card", answer="The back."),
    make("numeric", id="00-number", topic="cost", answer=112, tolerance=3, unit="GB"),
    make("single", 1, id="01-single", prompt="Is [bold]this[/bold] `code`?"),
    make("multiple", 0, 2, id="01-several", topic="cost"),
)


@pytest.fixture(autouse=True)
def bank(state_dir, monkeypatch):
    monkeypatch.setattr(module.QuestionBank, "load", lambda: QuestionBank(QUESTIONS))


def course(*arguments, typed=""):
    return CliRunner().invoke(app, list(arguments), input=typed)


def said(*arguments, typed=""):
    result = course(*arguments, typed=typed)
    assert result.exit_code == 0, result.output
    return result.output


def progress():
    return json.loads(said("progress", "--json"))


def kept():
    return [(answer.question, answer.is_right) for answer in Record().answers()]


def answered(days_ago, question="00-card", is_right=True):
    time = datetime.now(UTC) - timedelta(days=days_ago)
    Record().add(Answer(question=question, is_right=is_right, time=time))


def test_terminal_and_notebook_write_one_record():
    assert "Score: 2 of 4." in said("quiz", typed="\ny\n14\nb\n\n")
    terminal = [("00-card", True), ("00-number", False), ("01-single", True)]
    assert kept() == terminal
    quiz = Quiz(QUESTIONS)
    quiz.answer(True)
    quiz.answer(True)
    assert kept() == [*terminal, ("00-card", True)]
    quiz.restart()
    quiz.answer(False)
    assert kept()[-1] == ("00-card", False)
    assert progress()["n_asked"] == 3


def test_what_cannot_be_graded_is_not_kept():
    said("quiz", "cost", typed="many\nq\n")
    assert kept() == []


def test_all_types_of_the_bank_are_asked_as_they_stand():
    out = said("quiz", typed="\ny\n112 GB\nb\nac\n")
    assert "Score: 4 of 4." in out
    assert "Is [bold]this[/bold] `code`?" in out
    assert kept() == [(question.id, True) for question in QUESTIONS]


def test_review_asks_what_is_due_and_nothing_twice():
    assert "you have answered no question yet" in said("review")
    answered(60)
    answered(0, "01-single", is_right=False)
    assert "00-card" in said("review", "--list")
    assert kept()[2:] == []
    assert "Score: 1 of 1." in said("review", typed="\ny\n")
    assert kept()[2:] == [("00-card", True)]
    assert "The next question is in 1 day at most" in said("review")


def test_a_quiz_is_chosen_by_chapter_topic_weakness_and_number():
    assert "1/2 · memory" in said("quiz", "1", typed="q\n")
    assert "2 to ask" in said("quiz", "cost", typed="q\n")
    assert "1 of 4 to ask" in said("quiz", "-n", "1", typed="q\n")
    assert "No weak spot" in said("quiz", "weak")
    answered(1, "01-several", is_right=False)
    assert "1 to ask" in said("quiz", "weak", typed="q\n")


@pytest.mark.parametrize(("wanted", "known"), [("lora", "'cost', 'memory'"), ("9", "'00', '01'")])
def test_an_unknown_topic_or_chapter_lists_the_known(wanted, known):
    result = course("quiz", wanted)
    assert (result.exit_code, result.stdout) == (1, "")
    assert known in result.stderr
    assert result.stderr.count("\n") == 1


def test_progress_tells_recall_and_forecast():
    assert "0 of 4 questions asked, 0 due." in said("progress")
    answered(60)
    answered(0, "00-number")
    answered(0, "00-vanished")
    out = said("progress")
    for part in ("2 of 4 questions asked, 1 due. 1 on record", "cost", "memory", "in 30 days"):
        assert part in out
    found = progress()
    assert [topic["topic"] for topic in found["topics"]] == ["memory", "cost"]
    assert (found["n_due"], found["n_vanished"], len(found["forecast"])) == (1, 1, 7)
    assert found["predictions"] == {"n_compared": 0, "n_right": 0}


def test_progress_counts_predictions(state_dir):
    from course_utils.practice.predictions.record import keep

    state_dir.mkdir()
    keep(ENTRY)
    assert "Predictions: 1 of 1 right." in said("progress")
    assert progress()["predictions"] == {"n_compared": 1, "n_right": 1}


def test_reset_asks_first():
    assert "nothing to forget" in said("reset")
    answered(1)
    for typed in ("n\n", "\n", ""):
        assert course("reset", typed=typed).exit_code == 1
        assert len(kept()) == 1
    assert "Answers forgotten: 1." in said("reset", typed="y\n")
    assert kept() == []
    answered(1)
    assert "Answers forgotten: 1." in said("reset", "--yes")


def test_a_damaged_record_is_told_apart_from_the_json():
    answered(1)
    record_path().write_bytes(b"nothing at all" * 100)
    result = course("progress", "--json")
    assert json.loads(result.stdout)["n_asked"] == 0
    assert "answers.damaged-1.sqlite" in result.stderr


@pytest.mark.parametrize("command", ["review", "quiz", "progress", "reset"])
def test_a_record_of_a_newer_version_is_one_sentence(command):
    answered(1)
    Record()._run(lambda db: db.execute("PRAGMA user_version=2"))
    result = course(command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "newer version" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["quiz", "review"])
def test_where_nothing_can_be_kept_the_quiz_goes_on_and_says_so(command, tmp_path, monkeypatch):
    answered(60)
    monkeypatch.setattr(Record, "add", lambda *_: (_ for _ in ()).throw(OSError("no place")))
    out = said(command, "-n", "1", typed="\ny\n")
    assert "Your answer could not be kept: no place." in out
    assert "Score: 1 of 1." in out
