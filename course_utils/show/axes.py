"""Axes that show every text as it is written."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.legend import Legend
from matplotlib.text import Annotation, Text

PLAIN = {"parse_math": False}


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
