"""What schematics are drawn with: boxes, arrows and words, in one grammar.

What trains is filled, what is frozen is a hollow grey box, data is rounded, and what is computed
on the way is hollow. One unit is a tenth of an inch; x runs to the right and y upward.
"""

from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon
from matplotlib.path import Path
from matplotlib.text import Text

from course_utils.show.axes import DescribedFigure, PlainAxes
from course_utils.show.palette import ACCENT, GRID, INK, MUTED, text_colour_on

Point = tuple[float, float]

WIDTH = 72.0
PAPER = "#FFFFFF"  # opaque, so that the drawing is read on a dark page as on a light one
_TITLE_HEIGHT = 3.4
_LINE = 1.85
_SIZE = 9.2
_FONT = "DejaVu Sans"
_DPI = 110


@dataclass(frozen=True)
class Look:
    """Fill, edge and words of a box.

    Args:
        fill: Colour inside.
        edge: Colour of the line around.
        ink: Colour of the words.
        rounding: Radius of the corners, in units.
        dashes: Style of the line.
    """

    fill: str
    edge: str
    ink: str
    rounding: float = 0.0
    dashes: str = "-"


TRAINED = Look(ACCENT, ACCENT, text_colour_on(ACCENT))
FROZEN = Look(PAPER, MUTED, MUTED)
COMPUTED = Look(PAPER, INK, INK)
PASSING = Look(PAPER, INK, INK, dashes="--")
DATA = Look(GRID, GRID, INK, rounding=0.9)
PADDING = Look(PAPER, "#9A9A9A", MUTED, rounding=0.9, dashes=":")


@dataclass(frozen=True)
class Box:
    """Where something stands: its centre and its size."""

    x: float
    y: float
    width: float
    height: float

    def at(self, right: float = 0.0, up: float = 0.0) -> Point:
        """Return a point of the box: the centre, and -1 and 1 are its edges."""
        return self.x + right * self.width / 2, self.y + up * self.height / 2

    @property
    def top(self) -> Point:
        """Return the middle of the upper edge."""
        return self.at(up=1)

    @property
    def bottom(self) -> Point:
        """Return the middle of the lower edge."""
        return self.at(up=-1)

    @property
    def left(self) -> Point:
        """Return the middle of the left edge."""
        return self.at(right=-1)

    @property
    def right(self) -> Point:
        """Return the middle of the right edge."""
        return self.at(right=1)


class Canvas:
    """An empty drawing.

    Args:
        title: What the drawing shows, as a sentence.
        height: Units.
        alt: The drawing in words, for who cannot see it.
    """

    def __init__(self, title: str, *, height: float, alt: str) -> None:
        whole = height + _TITLE_HEIGHT
        figure = plt.figure(
            FigureClass=DescribedFigure,
            figsize=(WIDTH / 10, whole / 10),
            dpi=_DPI,
            facecolor=PAPER,
        )
        figure.alt = alt
        self.ax = figure.add_axes((0, 0, 1, height / whole), axes_class=PlainAxes)
        self.ax.set(xlim=(0, WIDTH), ylim=(0, height), aspect="equal")
        self.ax.set_axis_off()
        look = {"size": 11.5, "weight": "bold", "family": _FONT, "color": INK}
        self.ax.set_title(title, loc="left", pad=8, **look)

    def box(
        self,
        look: Look,
        x: float,
        y: float,
        width: float,
        height: float,
        *words: str,
        mono: bool = False,
    ) -> Box:
        """Draw a box around (x, y); the first words are its name, each further line is smaller."""
        place, radius = Box(x, y, width, height), look.rounding
        style = f"round,pad=0,rounding_size={radius}" if radius else "square,pad=0"
        self.ax.add_patch(
            FancyBboxPatch(
                place.at(-1, -1),
                width,
                height,
                boxstyle=style,
                facecolor=look.fill,
                edgecolor=look.edge,
                linestyle=look.dashes,
                linewidth=1.2,
            )
        )
        self.words(x, y, *words, colour=look.ink, mono=mono, bold=len(words) > 1)
        return place

    def funnel(
        self, look: Look, x: float, y: float, below: float, above: float, height: float, *words: str
    ) -> Box:
        """Draw a layer that maps a width ``below`` to a width ``above``."""
        half = height / 2
        corners = [(-below / 2, -half), (below / 2, -half), (above / 2, half), (-above / 2, half)]
        shape = [(x + right, y + up) for right, up in corners]
        self.ax.add_patch(Polygon(shape, facecolor=look.fill, edgecolor=look.edge, linewidth=1.2))
        self.words(x, y, *words, colour=look.ink)
        return Box(x, y, min(below, above), height)

    def node(self, x: float, y: float, sign: str) -> Box:
        """Draw an operation: a sign in a circle."""
        radius = 1.3 if len(sign) < 3 else 1.7
        self.ax.add_patch(Circle((x, y), radius, facecolor=PAPER, edgecolor=INK, linewidth=1.2))
        self.words(x, y, sign)
        return Box(x, y, 2 * radius, 2 * radius)

    def arrow(self, *points: Point, colour: str = INK, head: str = "-|>") -> None:
        """Draw a thin arrow through points."""
        self.ax.add_patch(
            FancyArrowPatch(
                path=Path(points),
                arrowstyle=head,
                mutation_scale=9,
                linewidth=1.1,
                color=colour,
                joinstyle="miter",
                capstyle="butt",
            )
        )

    def line(self, *points: Point, colour: str = INK) -> None:
        """Draw a thin line through points."""
        self.arrow(*points, colour=colour, head="-")

    def words(
        self,
        x: float,
        y: float,
        *lines: str,
        colour: str = INK,
        align: str = "center",
        bold: bool = False,
        mono: bool = False,
    ) -> list[Text]:
        """Write lines around the height ``y``; ``bold`` is the first of them."""
        style: dict[str, Any] = {"ha": align, "va": "center_baseline", "color": colour}
        style |= {"size": _SIZE, "family": f"{_FONT} Mono" if mono else _FONT}
        first = y + (len(lines) - 1) * _LINE / 2
        return [
            self.ax.text(
                x, first - k * _LINE, line, weight="bold" if bold and k == 0 else "normal", **style
            )
            for k, line in enumerate(lines)
        ]

    def key(self, x: float, y: float, *entries: tuple[Look, str]) -> None:
        """Say from (x, y) to the right what the looks mean."""
        for look, meaning in entries:
            self.box(look, x + 1, y, 2, 1.4)
            self.words(x + 2.7, y, meaning, align="left", colour=INK)
            x += 5.5 + 0.78 * len(meaning)
