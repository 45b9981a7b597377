"""Axes that show every text as it is written, and figures that say in words what they show."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Annotation, Text

PLAIN = {"parse_math": False}
_MAX_NAMES = 10


class DescribedFigure(Figure):
    """A figure that a notebook saves with words for what it shows: its text, and its metadata.

    Where ``alt`` is empty the words are made of the title, the labels and the names in the figure.
    """

    alt = ""

    def _repr_mimebundle_(self, **kinds: object) -> tuple[dict[str, str], dict[str, object]]:
        """Return the text that stands in for the picture, and the picture's metadata."""
        words = self.alt or " ".join(in_words(ax) for ax in self.axes)
        return {"text/plain": words}, {"image/png": {"alt": words}}


def in_words(ax: Axes) -> str:
    """Return what axes show: the finding in the title, what lies along each side, what is drawn."""
    title = ax.get_title("left") or ax.get_title() or "Figure"
    texts = [text.get_text() for text in ax.texts]
    drawn = ax.get_legend_handles_labels()[1] + texts
    drawn += [label.get_text() for axis in (ax.xaxis, ax.yaxis) for label in axis.get_ticklabels()]
    names = [name for name in dict.fromkeys(drawn) if any(c.isalpha() for c in name)]
    sides = {"across": ax.get_xlabel(), "upward": ax.get_ylabel()}
    parts = [
        f"{title}.",
        *(f"{side.capitalize()}: {label}." for side, label in sides.items() if label),
    ]
    if names:
        more = ", …" if len(names) > _MAX_NAMES else ""
        parts.append(f"Drawn: {', '.join(names[:_MAX_NAMES])}{more}.")
    return " ".join(" ".join(parts).split())


class PlainAxes(Axes):
    """Axes on which a dollar sign in a text begins no mathematics.

    Texts come from readers and from models: what they are is no formula. A text that is one takes
    ``parse_math=True``; numbers that matplotlib itself writes at an axis stay formulas.
    """

    def clear(self) -> None:
        """Empty the axes; title and labels stay plain."""
        super().clear()
        for label in (self.title, self._left_title, self._right_title):
            label.set_parse_math(False)
        for axis in (self.xaxis, self.yaxis):
            axis.label.set_parse_math(False)

    def text(self, x: float, y: float, s: str, fontdict: Any = None, **style: Any) -> Text:  # noqa: ANN401
        """Write a text at a place."""
        return super().text(x, y, s, fontdict, **PLAIN | style)

    def annotate(self, text: str, xy: Sequence[float], *places: Any, **style: Any) -> Annotation:  # noqa: ANN401
        """Write a text that belongs to a place."""
        return super().annotate(text, xy, *places, **PLAIN | style)

    def set_xticks(self, ticks: Any, labels: Any = None, **style: Any) -> list:  # noqa: ANN401
        """Set the ticks of the horizontal axis, and their labels."""
        return super().set_xticks(ticks, labels, **_plain(labels, style))

    def set_yticks(self, ticks: Any, labels: Any = None, **style: Any) -> list:  # noqa: ANN401
        """Set the ticks of the vertical axis, and their labels."""
        return super().set_yticks(ticks, labels, **_plain(labels, style))

    def legend(self, *entries: Any, **style: Any) -> Legend:  # noqa: ANN401
        """Name the lines in a box."""
        return with_plain_texts(super().legend(*entries, **style))


def with_plain_texts(legend: Legend) -> Legend:
    """Return a legend whose names are shown as they are written."""
    for text in legend.get_texts():
        text.set_parse_math(False)
    return legend


def _plain(labels: object, style: dict[str, Any]) -> dict[str, Any]:
    """Return the style of a tick's label; without labels matplotlib writes them, and takes none."""
    return style if labels is None else PLAIN | style
