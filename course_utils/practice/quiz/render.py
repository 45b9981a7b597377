"""Questions, feedback and results as HTML."""

import html
import string
from collections.abc import Iterable, Sequence

from course_utils.practice.quiz.bank import Question
from course_utils.practice.quiz.session import Session
from course_utils.show.markup import inline_html

_KINDS = {
    "single": "one answer",
    "multiple": "all that are right",
    "numeric": "a number",
    "flash": "flash card",
}


def heading_html(session: Session) -> str:
    """Return the line of dots, one a question and each with its text, and the score so far."""
    dots = "".join(_dot(session, i) for i in range(len(session.questions)))
    total, answered = len(session.questions), len(session.grades)
    score = f"{session.score} right of {answered} answered"
    place = "Result" if session.current is None else f"Question {session.position + 1} of {total}"
    return (
        f'<div class="cq-head"><b>{place}</b><ul class="cq-dots">{dots}</ul>'
        f"<span>{score}</span></div>"
    )


def _dot(session: Session, index: int) -> str:
    grade = session.grades.get(session.questions[index].id)
    state, told = {None: ("", "open"), True: ("cq-right", "right"), False: ("cq-wrong", "wrong")}[
        grade
    ]
    if index == session.position:
        state, told = f"{state} cq-here", f"{told}, shown now"
    text = f"Question {index + 1}: {told}"
    return f'<li class="cq-dot {state}" title="{text}"><span class="cq-unseen">{text}</span></li>'


def prompt_html(question: Question) -> str:
    """Return the question with its topic, difficulty and kind."""
    stars = "●" * question.difficulty + "○" * (3 - question.difficulty)
    about = f"{html.escape(question.topic)} · {stars} · {_KINDS[question.type]}"
    return (
        f'<div class="cq-about">{about}</div>'
        f'<div class="cq-prompt">{inline_html(question.prompt)}</div>'
    )


def answer_html(question: Question) -> str:
    """Return the back of a flash card."""
    return f'<div class="cq-card cq-back">{inline_html(str(question.answer))}</div>'


def message_html(text: str) -> str:
    """Return a short remark on input that cannot be graded."""
    return (
        f'<div class="cq-message" role="alert">{html.escape(text[:1].upper() + text[1:])}</div>'
        if text
        else ""
    )


def feedback_html(session: Session, question: Question) -> str:
    """Return what is said after an answer: verdict, each option or the solution, source."""
    is_right, response = session.grades[question.id], session.responses[question.id]
    if question.type == "flash":
        verdict, body = ("You knew it." if is_right else "To be seen again."), answer_html(question)
    else:
        verdict, body = ("Right." if is_right else "Not right."), _solution(question, response)
    mark, state = ("✓", "cq-right") if is_right else ("✗", "cq-wrong")
    return (
        f'{body}<div class="cq-verdict {state}" role="alert">'
        f'<span class="cq-mark">{mark}</span>{verdict}</div>'
        f'<div class="cq-source">Source: {inline_html(question.source)}</div>'
    )


def _solution(question: Question, response: object) -> str:
    if question.type == "numeric":
        given = html.escape(str(response).strip())
        return (
            f'<div class="cq-card"><b>{number_text(question)}</b> '
            f'<span class="cq-chosen">you wrote {given}</span>'
            f'<div class="cq-why">{inline_html(question.explanation)}</div></div>'
        )
    cards = []
    for i, option in enumerate(question.options):
        mark, state = ("✓", "cq-right") if option.correct else ("✗", "")
        if i in response and not option.correct:
            state = "cq-wrong"
        chosen = '<span class="cq-chosen">your choice</span>' if i in response else ""
        cards.append(
            f'<div class="cq-card {state}"><span class="cq-mark">{mark}</span>'
            f"<b>{inline_html(option.text)}</b> {chosen}"
            f'<div class="cq-why">{inline_html(option.explanation)}</div></div>'
        )
    return "".join(cards)


def number_text(question: Question) -> str:
    """Return a numeric question's answer with its unit and, unless exact, its tolerance."""
    within = f" ± {question.tolerance:,g}" if question.tolerance else ""
    return f"{_plain(question.answer)}{within} {html.escape(question.unit)}".strip()


def _plain(number: float) -> str:
    return f"{number:,}" if abs(number) < 1e9 else f"{number:.4g}"


def result_html(session: Session) -> str:
    """Return the score and, topic by topic, where the weak spots are."""
    total = len(session.questions)
    rows = "".join(
        f'<div class="cq-topic"><span>{html.escape(topic)}</span>'
        f'<span class="cq-bar"><span style="width:{100 * right / n:.0f}%"></span></span>'
        f"<span>{right} of {n}</span></div>"
        for topic, (right, n) in session.by_topic().items()
    )
    open_questions = total - len(session.grades)
    left = f" {open_questions} not answered." if open_questions else ""
    return (
        f'<div class="cq-prompt">{session.score} of {total} right.{left}</div>'
        f'<div class="cq-about">By topic, weakest first</div>{rows}'
    )


def listing_html(questions: Sequence[Question]) -> str:
    """Return all questions as plain HTML with folded answers, for pages without a kernel."""
    items = "".join(f"<li>{_listed(question)}</li>" for question in questions)
    return (
        f"<details><summary>The {len(questions)} questions as text, answers folded</summary>"
        f"<ol>{items}</ol></details>"
    )


def _listed(question: Question) -> str:
    if question.options:
        options = _letters(option.text for option in question.options)
        answer = _letters(
            f"{'✓' if option.correct else '✗'} {option.explanation}" for option in question.options
        )
    else:
        options = ""
        answer = inline_html(str(question.answer))
        if question.type == "numeric":
            answer = f"<b>{number_text(question)}</b>. {inline_html(question.explanation)}"
    return (
        f"{inline_html(question.prompt)}{options}"
        f"<details><summary>Answer</summary>{answer}"
        f"<br><i>Source: {inline_html(question.source)}</i></details>"
    )


def _letters(texts: Iterable[str]) -> str:
    pairs = zip(string.ascii_lowercase, texts, strict=False)
    return "".join(f"<br>{letter}) {inline_html(text)}" for letter, text in pairs)
