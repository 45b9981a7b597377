"""The quiz in a notebook: buttons while a kernel runs, folded text where none does."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import ipywidgets
from IPython import get_ipython
from IPython.display import display

from course_utils.practice.quiz import render
from course_utils.practice.quiz.bank import Question
from course_utils.practice.quiz.session import Response, Session
from course_utils.practice.review.record import keep_answer

_STYLE = Path(__file__).with_name("quiz.css")


class Quiz:
    """Questions with feedback for every option, and a score.

    As the last expression of a cell it shows itself, followed by a folded listing of the questions
    that stays readable in a saved notebook. After an answer the focus is on *Next*, and screen
    readers are told the verdict. Each answer is written to the reader's record, as in a terminal.

    Args:
        questions: A question bank, or some of its questions.
        seed: Shuffles the questions and their options; without one, chance shuffles the options.

    Raises:
        ValueError: If there are no questions.
    """

    def __init__(self, questions: Iterable[Question], seed: int | None = None) -> None:
        self.session = Session(questions, seed, keep_answer)
        self._heading, self._text = ipywidgets.HTML(), ipywidgets.HTML()
        self._message = ipywidgets.HTML()
        self._inputs = ipywidgets.VBox()
        self._panels: dict[str, Sequence[ipywidgets.Widget]] = {}
        self._turned: set[str] = set()
        self.previous_button = _action("‹ Previous", lambda: self._move(-1))
        self.next_button = _action("Next ›", lambda: self._move(1))
        self.restart_button = _action("Restart", self.restart)
        buttons = [self.previous_button, self.next_button, self.restart_button]
        navigation = _classed(ipywidgets.HBox(buttons), "cq-nav")
        style = ipywidgets.HTML(f"<style>{_STYLE.read_text(encoding='utf-8')}</style>")
        rows = [style, self._heading, self._text, self._inputs, self._message, navigation]
        self.widget = _classed(ipywidgets.VBox(rows), "cq")
        self._show()

    @property
    def inputs(self) -> Sequence[ipywidgets.Widget]:
        """What the reader can press or type into for the current question."""
        return self._inputs.children

    @property
    def text(self) -> str:
        """All that is shown now, as HTML."""
        return self._heading.value + self._text.value + self._message.value

    def answer(self, response: Response) -> None:
        """Grade the current question and show the feedback, or what is wrong with the input."""
        try:
            self.session.answer(response)
        except ValueError as error:
            self._message.value = render.message_html(str(error))
        else:
            self._show()
            self._message.value = render.message_html(self.session.notice)
            _focus(self.next_button)

    def restart(self) -> None:
        """Begin again with the first question and no answers."""
        self.session.restart()
        for panel in self._panels.values():
            for widget in panel:
                widget.close()
        self._panels.clear()
        self._turned.clear()
        self._show()

    def _move(self, step: int) -> None:
        self.session.move(step)
        self._show()
        if self.next_button.disabled:
            _focus(self.restart_button)
        elif self.previous_button.disabled:
            _focus(self.next_button)

    def _show(self) -> None:
        session, question = self.session, self.session.current
        self._heading.value = render.heading_html(session)
        self._message.value = ""
        self.previous_button.disabled = session.position == 0
        self.next_button.disabled = question is None
        self.next_button.description = (
            "Result ›" if session.position >= len(session.questions) - 1 else "Next ›"
        )
        if question is None:
            self._text.value = render.result_html(session)
            self._inputs.children = ()
        elif question.id in session.grades:
            self._text.value = render.prompt_html(question) + render.feedback_html(
                session, question
            )
            self._inputs.children = ()
        else:
            back = render.answer_html(question) if question.id in self._turned else ""
            self._text.value = render.prompt_html(question) + back
            if question.id not in self._panels:
                self._panels[question.id] = self._make_inputs(question)
            self._inputs.children = self._panels[question.id]

    def _make_inputs(self, question: Question) -> Sequence[ipywidgets.Widget]:
        makers = {
            "single": self._single_inputs,
            "multiple": self._multiple_inputs,
            "numeric": self._numeric_inputs,
            "flash": self._flash_inputs,
        }
        return makers[question.type](question)

    def _single_inputs(self, question: Question) -> Sequence[ipywidgets.Widget]:
        return [
            _option_button(
                ipywidgets.Button, option.text, lambda _, i=i: self.answer(frozenset([i]))
            )
            for i, option in enumerate(question.options)
        ]

    def _multiple_inputs(self, question: Question) -> Sequence[ipywidgets.Widget]:
        toggles = [_option_button(ipywidgets.ToggleButton, o.text) for o in question.options]

        def check() -> None:
            self.answer(frozenset(i for i, toggle in enumerate(toggles) if toggle.value))

        return [*toggles, _action("Check", check, is_main=True)]

    def _numeric_inputs(self, question: Question) -> Sequence[ipywidgets.Widget]:
        # Without continuous_update the value arrives with Enter or when the field is left; that
        # is the one way to catch Enter that ipywidgets 7.7 and 8 share without a warning.
        field = ipywidgets.Text(
            placeholder=f"a number{f' in {question.unit}' if question.unit else ''}",
            continuous_update=False,
            description="Answer",
            style={"description_width": "initial"},
        )
        field.observe(lambda change: change.new.strip() and self.answer(change.new), "value")
        return [field, _action("Check", lambda: self.answer(field.value), is_main=True)]

    def _flash_inputs(self, question: Question) -> Sequence[ipywidgets.Widget]:
        # All three are drawn at once: a button that is not drawn yet cannot take the focus.
        def turn_over() -> None:
            self._turned.add(question.id)
            turn.layout.display = "none"
            knew.layout.display = missed.layout.display = None
            self._show()
            _focus(knew)

        turn = _action("Turn the card over", turn_over, is_main=True)
        knew = _action("I knew it", lambda: self.answer(True), is_main=True)
        missed = _action("Not yet", lambda: self.answer(False))
        knew.layout.display = missed.layout.display = "none"
        return [turn, knew, missed]

    def _ipython_display_(self) -> None:
        shell = get_ipython()
        if shell is None or not hasattr(shell, "kernel"):
            display({"text/plain": repr(self)}, raw=True)
            return
        display(self.widget)
        questions = self.session.stored
        listing = {"text/html": render.listing_html(questions), "text/plain": repr(self)}
        display(listing, raw=True)

    def __repr__(self) -> str:
        n = len(self.session.questions)
        return f"Quiz of {n} questions; in a terminal, ask_in_terminal(questions) asks them."


def _action(text: str, on_press: Callable[[], None], *, is_main: bool = False) -> ipywidgets.Button:
    button = _classed(ipywidgets.Button(description=text), "cq-action")
    button.on_click(lambda _: on_press())
    return _classed(button, "cq-main") if is_main else button


def _focus(widget: ipywidgets.Widget) -> None:
    """Put the focus on a control that is drawn already; ipywidgets 7 has no way to do so."""
    if hasattr(widget, "focus"):
        widget.focus()


def _option_button(
    kind: type, text: str, on_click: Callable[[object], None] | None = None
) -> ipywidgets.Widget:
    button = _classed(kind(description=text.replace("`", "")), "cq-option")
    if on_click:
        button.on_click(on_click)
    return button


def _classed(widget: ipywidgets.Widget, name: str) -> ipywidgets.Widget:
    widget.add_class(name)
    return widget
