"""`predict` in a notebook: controls while a kernel runs, one line of text where none does."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import ipywidgets
from IPython.display import display

from course_utils.practice.predictions.prediction import DEFAULT_FACTOR, Prediction, Question
from course_utils.practice.quiz.session import parse_number
from course_utils.show.markup import inline_html

_STYLE = Path(__file__).with_name("predictions.css")
_RULE = (
    f"Within a factor of {DEFAULT_FACTOR:g} counts as right, unless the question says otherwise."
)
_FULL_WIDTH = {"width": "100%"}
# The last prediction of each id in this kernel.
_current: dict[str, "AskedPrediction"] = {}


def predict(
    id: str, question: str, options: Sequence[str] = (), *, unit: str | None = None
) -> "AskedPrediction":
    """Ask the reader to commit to an answer before the result is shown; the question shows itself.

    What is committed cannot be changed. When the cell runs again, an open question goes on with its
    answer; after the result, a new try begins, which is not kept.

    Args:
        id: Chapter number, then a name, as in ``02-rates``; each is asked once.
        question: What is asked.
        options: What there is to choose from, at least two.
        unit: Instead of options: the unit of the number that is asked; empty for a plain number.

    Returns:
        The prediction; its ``check(value)`` compares it with the result.

    Raises:
        ValueError: If an argument breaks these rules, or there are both options and a unit.
    """
    asked = Question(
        id=id,
        text=question,
        options=tuple(options) if isinstance(options, list) else options,
        unit=unit,
    )
    last = _current.get(id)
    if last is None or last.is_checked or last.question != asked:
        is_known = last is not None and (last.is_checked or last.is_result_known)
        _current[id] = AskedPrediction(asked, is_result_known=is_known)
    display(_current[id])
    return _current[id]


class AskedPrediction(Prediction):
    """A prediction with controls to commit it by.

    Args:
        question: What is asked.
        is_result_known: Whether the reader has seen the result already.
    """

    def __init__(self, question: Question, *, is_result_known: bool = False) -> None:
        super().__init__(question, is_result_known=is_result_known)
        self.answer_input = _answer_input(question)
        levels = {f"{level} %": level for level in question.confidences}
        self.confidence_input = _choice("How sure?", levels)
        for choice in (self.answer_input, self.confidence_input):
            choice.observe(lambda _: self._tell_choice(), "value")
        self.commit_button = ipywidgets.Button(description="Commit")
        self.commit_button.add_class("cp-commit")
        self.commit_button.on_click(lambda _: self._commit())
        self._message = ipywidgets.HTML()
        style = ipywidgets.HTML(f"<style>{_STYLE.read_text(encoding='utf-8')}</style>")
        self._controls = ipywidgets.VBox(
            [self.answer_input, self.confidence_input, self.commit_button], layout=_FULL_WIDTH
        )
        rule = "" if question.options else f'<div class="cp-rule">{_RULE}</div>'
        prompt = ipywidgets.HTML(f"<b>Predict.</b> {inline_html(question.text)}{rule}")
        self.widget = ipywidgets.VBox([style, prompt, self._controls, self._message])
        self.widget.add_class("cp")

    @property
    def message(self) -> str:
        """What is said below the controls, as HTML."""
        return self._message.value

    def _commit(self) -> None:
        """Commit to what is chosen and typed, or say what is missing."""
        if self.is_committed:
            return
        try:
            answer, confidence = self.answer_input.value, self.confidence_input.value
            if answer in (None, "") or confidence is None:
                what = "give an answer" if answer in (None, "") else "choose how sure you are"
                raise ValueError(f"{what} first")
            if not self.question.options:
                answer = parse_number(answer, self.question.unit)
            self.commit(answer, confidence)
        except ValueError as error:
            said = str(error)
            self._say(f"{said[:1].upper()}{said[1:]}.", "cp-error")
        else:
            self._controls.children = ()
            self._say(f"{self.commitment} This stands. Run the next cells to see.", "cp-said")

    def _tell_choice(self) -> None:
        """Say what is chosen: how a pressed button looks is not told by a screen reader."""
        answer, confidence = self.answer_input.value, self.confidence_input.value
        chosen = [answer] if answer else []
        chosen += [f"{confidence} % sure"] if confidence else []
        self._say(f"Chosen: {', '.join(chosen) or 'nothing'}.", "cp-chosen", role="status")

    def _say(self, text: str, kind: str, role: str = "alert") -> None:
        self._message.value = f'<div role="{role}" class="{kind}">{inline_html(text)}</div>'

    def __repr__(self) -> str:
        return f"Predict: {self.question}"

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        # ipywidgets 7.7 and 8 build this entry in different ways; the format is the same.
        view = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        return {
            "application/vnd.jupyter.widget-view+json": view,
            "text/html": f"<p><b>Predict:</b> {inline_html(str(self.question))}</p>",
            "text/plain": repr(self),
        }


def _answer_input(question: Question) -> ipywidgets.Widget:
    if question.options:
        answers = {option.replace("`", ""): option for option in question.options}
        return _choice("Your answer", answers)
    unit = f" ({question.unit})" if question.unit else ""
    return ipywidgets.Text(
        description=f"Your answer{unit}",
        placeholder="a number",
        style={"description_width": "initial"},
        layout={"width": "50%", "min_width": "260px"},
        continuous_update=False,
    )


def _choice(name: str, values: Mapping[str, object]) -> ipywidgets.ToggleButtons:
    """Return buttons to choose one value by.

    JupyterLab takes the arrow keys from radio buttons and lists, to go from cell to cell; buttons
    need only Tab and Space.
    """
    return ipywidgets.ToggleButtons(
        description=name,
        options=list(values.items()),
        value=None,
        style={"description_width": "initial", "button_width": "auto"},
        layout=_FULL_WIDTH,
    )
