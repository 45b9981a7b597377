"""The quiz in a terminal, where there is no notebook."""

import string
import textwrap
from collections.abc import Callable, Iterable

from course_utils.practice.quiz.bank import Question
from course_utils.practice.quiz.session import Response, Session
from course_utils.practice.review.record import keep_answer

_WIDTH = 88
_HOW_TO_ANSWER = {
    "single": "one letter",
    "multiple": "letters of all that are right, like ac",
    "numeric": "a number",
    "flash": "Enter turns the card over",
}


def ask_in_terminal(
    questions: Iterable[Question],
    ask: Callable[[str], str] = input,
    say: Callable[[str], None] = print,
    *,
    seed: int | None = None,
) -> Session:
    """Ask questions one after the other; an empty line skips one, ``q`` ends.

    Each answer is written to the reader's record, as in a notebook.

    Args:
        questions: What is asked.
        ask: Shows a prompt and returns the line typed.
        say: Shows a line of text.
        seed: Shuffles the questions and their options; without one, chance shuffles the options.

    Returns:
        The session with its grades and score.
    """
    session = Session(questions, seed, keep_answer)
    try:
        while question := session.current:
            _say_question(session, question, say)
            response = _ask_until_graded(session, question, ask, say)
            if response is not None:
                _say_feedback(session, question, say)
            session.move(1)
    except EOFError:
        say("")
    say(f"Score: {session.score} of {len(session.questions)}.")
    return session


def _say_question(session: Session, question: Question, say: Callable[[str], None]) -> None:
    say(f"\n{session.position + 1}/{len(session.questions)} · {question.topic}")
    say(textwrap.fill(question.prompt, _WIDTH))
    for letter, option in zip(string.ascii_lowercase, question.options, strict=False):
        say(_indented(f"{letter}) {option.text}"))


def _ask_until_graded(
    session: Session, question: Question, ask: Callable[[str], str], say: Callable[[str], None]
) -> Response | None:
    hint = _HOW_TO_ANSWER[question.type] + (f" in {question.unit}" if question.unit else "")
    while True:
        line = _read_line(ask, hint)
        if question.type == "flash":
            say(_indented(str(question.answer)))
            line = _read_line(ask, "did you know it? y or n")
        if not line:
            return None
        try:
            response = _read(question, line)
            session.answer(response)
        except ValueError as error:
            say(f"  {error}")
        else:
            return response


def _read_line(ask: Callable[[str], str], hint: str) -> str:
    line = ask(f"({hint}) > ").strip()
    if line.lower() in ("q", "quit"):
        raise EOFError
    return line


def _read(question: Question, line: str) -> Response:
    if question.type == "numeric":
        return line
    if question.type == "flash":
        return line.lower().startswith("y")
    known = string.ascii_lowercase[: len(question.options)]
    letters = [letter for letter in line.lower() if letter not in " ,;)."]
    if unknown := sorted(set(letters) - set(known)):
        raise ValueError(f"no option {', '.join(unknown)}: there are {', '.join(known)}")
    if question.type == "single" and len(letters) > 1:
        raise ValueError("choose one option")
    return frozenset(known.index(letter) for letter in letters)


def _say_feedback(session: Session, question: Question, say: Callable[[str], None]) -> None:
    say("Right." if session.grades[question.id] else "Not right.")
    for letter, option in zip(string.ascii_lowercase, question.options, strict=False):
        say(_indented(f"{'✓' if option.correct else '✗'} {letter}) {option.explanation}"))
    if question.type == "numeric":
        say(_indented(f"{question.answer:,} {question.unit}".strip() + f". {question.explanation}"))
    say(_indented(f"Source: {question.source}"))
    if session.notice:
        say(_indented(session.notice))


def _indented(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent="     ")
