"""``course review`` and ``course quiz``: questions in the terminal, written to the record."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from course_utils.cli.console import console, print_lines

if TYPE_CHECKING:
    from datetime import datetime

    from course_utils.practice.quiz.bank import Question, QuestionBank
    from course_utils.practice.review.memory import Memory

Number = Annotated[int, typer.Option("--number", "-n", min=1, help="Ask at most so many.")]


def review(
    number: Number = 20,
    is_list: Annotated[bool, typer.Option("--list", help="Show what is due; ask nothing.")] = False,
) -> None:
    """Ask again what is due: what you answered before and have probably begun to forget."""
    from course_utils.practice.review.selection import due_questions

    bank, memories, now = load_state()
    due = due_questions(bank, memories, now)
    if not due:
        print_lines(_nothing_due([memories[q.id] for q in bank if q.id in memories], now))
    elif is_list:
        console.print(_table_of(due, memories, now))
    else:
        _ask(due, number, "due")


def quiz(
    wanted: Annotated[
        str | None,
        typer.Argument(metavar="[CHAPTER|TOPIC|weak]", help="What to ask; of all by default."),
    ] = None,
    number: Number = 10,
) -> None:
    """Ask questions of a chapter, of a topic or of your weak spots: first what is due, then new."""
    from course_utils.practice.review.selection import quiz_questions

    bank, memories, now = load_state()
    questions = quiz_questions(bank, wanted, memories, now)
    if questions:
        _ask(questions, number, "to ask")
    else:
        print_lines("No weak spot on record: all that you were asked is likely remembered.")


def load_state() -> "tuple[QuestionBank, dict[str, Memory], datetime]":
    """Return the bank, what is remembered of it and the present; tell of a damaged record.

    Raises:
        OSError: If the record cannot be read.
        ValueError: If it is of a newer version of the course, or another program's.
    """
    from datetime import UTC, datetime

    from course_utils.practice.quiz.bank import QuestionBank
    from course_utils.practice.review.memory import memories_of
    from course_utils.practice.review.record import Record

    record, now = Record(), datetime.now(UTC)
    answers = record.answers()
    if record.notice:
        typer.echo(f"{record.notice}.", err=True)
    return QuestionBank.load(), memories_of(answers, now), now


def _ask(questions: "Sequence[Question]", number: int, what: str) -> None:
    from course_utils.practice.quiz.terminal import ask_in_terminal

    asked = questions[:number]
    of_all = f" of {len(questions)}" if len(asked) < len(questions) else ""
    print_lines(f"{len(asked)}{of_all} {what}. An empty line skips a question, q ends.")
    ask_in_terminal(asked, _read_line, print_lines)


def _read_line(prompt: str) -> str:
    return console.input(Text(prompt, style="bold"))


def _nothing_due(memories: "Sequence[Memory]", now: "datetime") -> str:
    if not memories:
        return "Nothing is due: you have answered no question yet. `course quiz` asks new ones."
    wait = min(memory.due for memory in memories) - now
    days = wait.days + 1
    return f"Nothing is due. The next question is in {days} day{'s' * (days > 1)} at most."


def _table_of(
    questions: "Sequence[Question]", memories: "dict[str, Memory]", now: "datetime"
) -> Table:
    table = Table("question", "topic", "likely recalled", "days late")
    for question in questions:
        memory = memories[question.id]
        late = (now - memory.due).days
        table.add_row(question.id, question.topic, f"{memory.recall(now):.0%}", str(late))
    return table
