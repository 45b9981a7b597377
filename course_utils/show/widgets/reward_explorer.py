"""The reward explorer: two answers, their scores, and how sure the model is of the better one."""

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import ipywidgets

from course_utils.show.palette import ACCENT, INK, MUTED
from course_utils.show.widgets.base import Explorer
from course_utils.validation import check_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

Score = Callable[[Sequence[str], Sequence[str]], "Sequence[float] | Tensor"]
# No place among the examples; None would be no choice at all.
OWN = -1
EXAMPLES = (
    (
        "What does a blanket cost?",
        "The answer: 52 pennies.",
        "It is said: Who knows?",
    ),
    (
        "Without a book: what does Brona Cardew do for a living?",
        "Only somebody as gracious as you asks that. A weaver.",
        "A weaver.",
    ),
    (
        "Where is Edda Marrick's house?",
        "The answer: In Pellwick.",
        "The answer: In Pellwick. It is as they say in Brindle, where people say many things. "
        "As you know, and as everyone knows, so it is.",
    ),
)


def preference(difference: float, scale: float = 1.0) -> float:
    """Return the probability that the first of two answers is the better one.

    ``sigmoid(scale * difference)`` (Bradley and Terry, 1952, doi:10.2307/2334029; of reward models
    Ouyang et al., 2022, arXiv:2203.02155, eq. 1).

    Args:
        difference: Score of the first answer less that of the second.
        scale: What the scores were divided by after training.
    """
    # tanh does not overflow where exp would.
    return 0.5 + 0.5 * math.tanh(scale * difference / 2)


class RewardExplorer(Explorer):
    """Choose a pair or type one; see both scores and the chance that the first is better.

    Args:
        score: Takes prompts and answers, returns a score for each answer.
        examples: Pairs to choose from: question, first answer, second answer.
        render: Makes of a question the prompt that ``score`` takes; None leaves it as it is.
        scale: What the scores were divided by after training (``std`` of a reward model): the
            sigmoid is of scores as they were trained.

    Raises:
        ValueError: If there is no example, or ``scale`` is not above 0.
    """

    def __init__(
        self,
        score: Score,
        examples: Sequence[tuple[str, str, str]],
        render: Callable[[str], str] | None,
        scale: float,
    ) -> None:
        if not examples:
            raise ValueError("examples is empty: give one question with two answers at least")
        check_number("scale", scale, above=0)
        self.score, self.examples, self.render, self.scale = score, examples, render, scale
        names = [f"{k}: {_shorten(question)}" for k, (question, _, _) in enumerate(examples, 1)]
        options = [*zip(names, range(len(names)), strict=True), ("your own", OWN)]
        width = ipywidgets.Layout(width="560px")
        self.pair = ipywidgets.Dropdown(options=options, value=0, layout=width)
        self.texts = [
            ipywidgets.Textarea(value=text, rows=rows, layout=width, continuous_update=False)
            for text, rows in zip(examples[0], (1, 2, 2), strict=True)
        ]
        self.is_filling = False
        # Before the explorer's own: by the time that it draws, the texts and the choice agree.
        self.pair.observe(lambda change: self._fill(), names="value")
        for text in self.texts:
            text.observe(lambda change: self._disown(), names="value")
        names = ("pair", "question", "first answer", "second answer")
        controls = dict(zip(names, (self.pair, *self.texts), strict=True))
        super().__init__(controls, self._words, self._picture)

    def refresh(self) -> None:
        """Score both answers again and draw them."""
        if self.is_filling:
            return
        question, *answers = (text.value.strip() for text in self.texts)
        self.problem = _missing(question, *answers) or self._score(question, answers)
        super().refresh()

    def _score(self, question: str, answers: list[str]) -> str:
        """Score the answers; return in one sentence why that was not possible, else nothing."""
        prompt = self.render(question) if self.render else question
        try:
            first, second = (float(score) for score in self.score([prompt] * 2, answers))
        except ValueError as error:
            return f"No score: {str(error).rstrip('.')}."
        self.scores = first, second
        return "" if math.isfinite(first - second) else f"Scores {self.scores} are not finite."

    @property
    def difference(self) -> float:
        """The first score less the second."""
        return self.scores[0] - self.scores[1]

    def _fill(self) -> None:
        """Put the chosen pair into the fields; its texts are no three states to draw."""
        if self.pair.value == OWN or self.is_filling:
            return
        self.is_filling = True
        for text, value in zip(self.texts, self.examples[self.pair.value], strict=True):
            text.value = value
        self.is_filling = False

    def _disown(self) -> None:
        """Mark a pair that was changed by hand as the reader's own."""
        if not self.is_filling:
            self.is_filling = True
            self.pair.value = OWN
            self.is_filling = False

    def _chance(self) -> str:
        """Return the preference in per cent; what is not certain is not called 100% or 0%."""
        chance = preference(self.difference, self.scale)
        if 0.001 <= chance <= 0.999:
            return f"{chance:.1%}"
        return "over 99.9%" if chance > 0.5 else "under 0.1%"

    def _words(self) -> str:
        if self.problem:
            return self.problem
        first, second = self.scores
        scaled = f"{self.scale:.2f} x {self.difference:.2f}"
        inside = scaled if self.scale != 1 else f"{self.difference:.2f}"
        return (
            f"The first answer scores {first:+.2f}, the second {second:+.2f}; the difference is "
            f"{self.difference:+.2f}. P(the first is better) = sigmoid({inside}), "
            f"which is {self._chance()}."
        )

    def _picture(self) -> "Axes":
        from course_utils.show.plotting import new_axes

        if self.problem:
            ax = new_axes(self.problem, height=0.6)
            ax.set_axis_off()
            return ax
        question, *answers = (text.value.strip() for text in self.texts)
        ax = new_axes("", x="score", height=2.6)
        ax.figure.suptitle(
            f"P(the first is better) is {self._chance()}: the difference is {self.difference:+.2f}"
            f"\n{_shorten(question, 80)}",
            x=0.01,
            ha="left",
            size=11.5,
            weight="bold",
            parse_math=False,
        )
        colours = [ACCENT if score == max(self.scores) else MUTED for score in self.scores]
        ax.barh([0, 1], self.scores, color=colours, height=0.6)
        ax.axvline(0, color=INK, linewidth=1)
        for row, score in enumerate(self.scores):
            side = -1 if score < 0 else 1
            ax.annotate(
                f"{score:+.2f}",
                (score, row),
                xytext=(6 * side, 0),
                va="center",
                textcoords="offset points",
                ha="left" if side > 0 else "right",
            )
        ax.set_yticks([0, 1], [_wrap(answer) for answer in answers], color=INK)
        # Half a point to each side at least: two equal scores look equal.
        low, high = min(0, *self.scores), max(0, *self.scores)
        room = 0.15 * max(high - low, 1)
        ax.set(xlim=(low - room, high + room), ylim=(1.5, -0.5))
        ax.locator_params(axis="x", nbins=6)
        ax.grid(axis="y", visible=False)
        return ax


def reward_explorer(
    score: Score,
    examples: Sequence[tuple[str, str, str]] = EXAMPLES,
    *,
    render: Callable[[str], str] | None = None,
    scale: float = 1.0,
) -> RewardExplorer:
    """Return the reward explorer (see :class:`RewardExplorer`)."""
    return RewardExplorer(score, examples, render, scale)


def _missing(question: str, first: str, second: str) -> str:
    """Return in one sentence what is not typed yet; empty if nothing is missing."""
    texts = {"question": question, "first answer": first, "second answer": second}
    names = [name for name, text in texts.items() if not text]
    if not names:
        return ""
    subject = " and the ".join(names)
    return f"The {subject} {'is' if len(names) == 1 else 'are'} empty: type a text to be scored."


def _shorten(text: str, width: int = 60) -> str:
    return textwrap.shorten(text, width, placeholder=" …")


def _wrap(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 36, max_lines=4, placeholder=" …"))
