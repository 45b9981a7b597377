"""One look for every figure: titles that state the finding, direct labels, one colour a method.

Each function draws one figure and returns its axes. Importing the module sets the look for a
reader's own figures too.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from course_utils.intervals import interval
from course_utils.show.axes import DescribedFigure, PlainAxes, with_plain_texts
from course_utils.show.palette import (
    GRID,
    INK,
    MUTED,
    MethodStyle,
    heat_colour,
    is_method,
    method_style,
    part_colours,
    text_colour_on,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from course_utils.memory.parts import MemoryParts

_STYLE = {
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.linewidth": 2.0,
    "lines.markersize": 6,
}
plt.rcParams.update(_STYLE)
_WIDTH = 7.2
_NEUTRAL = tuple(
    (MethodStyle(colour, marker, ""), dashes)
    for colour, marker, dashes in ((INK, "o", "-"), (MUTED, "s", "--"), ("#949494", "^", ":"))
)
_GB = 1e9


def new_axes(
    title: str, *, x: str = "", y: str = "", height: float = 3.6, width: float = _WIDTH
) -> "Axes":
    """Return empty axes in the course's look, on which every text is shown as it is written.

    Args:
        title: The finding, as a sentence.
        x: Label of the horizontal axis, with its unit.
        y: Label of the vertical axis, with its unit.
        height: Inches.
        width: Inches.
    """
    shape = {"figsize": (width, height), "layout": "constrained"}
    figure = plt.figure(FigureClass=DescribedFigure, **shape)
    ax = figure.add_subplot(axes_class=PlainAxes)
    ax.set(title=title, xlabel=x, ylabel=y)
    return ax


def plot_lines(
    series: Mapping[str, Mapping[float, Sequence[float]]],
    title: str,
    *,
    x: str,
    y: str,
    log_x: bool = False,
    log_y: bool = False,
    height: float = 3.8,
) -> "Axes":
    """Draw one line a method: means over seeds, every seed a dot, a 95 % interval of three or more.

    Args:
        series: For each method, the values of its seeds at each x.
        title: The finding.
        x: Horizontal label with unit.
        y: Vertical label with unit.
        log_x: Whether x is logarithmic.
        log_y: Whether y is logarithmic.
        height: Inches.
    """
    ax = new_axes(title, x=x, y=y, height=height)
    ax.set_xscale("log" if log_x else "linear")
    ax.set_yscale("log" if log_y else "linear")
    ends, styles = {}, _line_styles(series)
    for name, points in series.items():
        (style, dashes), places = styles[name], sorted(points)
        bands = [interval(points[place]) for place in places]
        means = [mean for mean, _, _ in bands]
        ax.plot(places, means, color=style.colour, marker=style.marker, linestyle=dashes)
        if min(map(len, points.values())) > 2:  # of two runs the dots say more
            ax.fill_between(
                places,
                [low for _, low, _ in bands],
                [high for _, _, high in bands],
                color=style.colour,
                alpha=0.12,
                linewidth=0,
            )
        for place in places:
            values = points[place]
            ax.plot([place] * len(values), values, ".", color=style.colour, alpha=0.5, markersize=4)
        ends[style.label or name] = (places[-1], means[-1], style.colour)
    places = sorted({place for points in series.values() for place in points})
    if log_x:
        _plain_ticks(ax, places)
    elif all(float(place).is_integer() for place in places):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _label_ends(ax, ends)
    return ax


def plot_methods(
    points: Mapping[str, tuple[float, Sequence[float]]],
    title: str,
    *,
    x: str,
    y: str,
    log_x: bool = True,
    height: float = 3.8,
) -> "Axes":
    """Draw one point a method, with its interval over seeds and its name beside it.

    Args:
        points: For each method, its x and the y of each seed.
        title: The finding.
        x: Horizontal label with unit.
        y: Vertical label with unit.
        log_x: Whether x is logarithmic.
        height: Inches.
    """
    from adjustText import adjust_text

    ax = new_axes(title, x=x, y=y, height=height)
    ax.set_xscale("log" if log_x else "linear")
    texts, bars = [], []
    for name, (place, values) in points.items():
        style = _style(name)
        mean, low, high = interval(values)
        bars += [(place, low + (high - low) * step / 8) for step in range(9)]
        ax.errorbar(
            place,
            mean,
            [[mean - low], [high - mean]],
            color=style.colour,
            capsize=3,
            marker=style.marker,
            markersize=8,
        )
        texts.append(ax.text(place, mean, style.label, color=style.colour, weight="bold"))
    ax.margins(0.25, 0.12)
    adjust_text(texts, *zip(*bars, strict=True), ax=ax, expand=(1.5, 1.7))
    return ax


def plot_bars(
    bars: Mapping[str, Sequence[float]],
    title: str,
    *,
    x: str,
    form: str = "{:.2f}",
    height: float | None = None,
) -> "Axes":
    """Draw horizontal bars of means over seeds, each with its value and every seed as a dot.

    Where a value is negative, as a log-likelihood is, zero is no place to measure a bar from:
    points are drawn then, and the axis shows where they lie.

    Args:
        bars: Values of each bar, the first at the top; methods take their own colour.
        title: The finding.
        x: Horizontal label with unit.
        form: Format of the number written beside a bar.
        height: Inches.
    """
    ax = new_axes(title, x=x, height=height or 1.3 + 0.42 * len(bars))
    are_amounts = min(map(min, bars.values()), default=0) >= 0
    for row, (name, values) in enumerate(bars.items()):
        style = _style(name)
        mean, low, high = interval(values)
        if are_amounts:
            ax.barh(row, mean, color=style.colour, height=0.62, alpha=0.85)
        else:
            ax.plot(mean, row, marker=style.marker or "o", color=style.colour, markersize=8)
        if len(values) > 1:
            ax.errorbar(mean, row, xerr=[[mean - low], [high - mean]], color=MUTED, capsize=3)
            ax.plot(values, [row] * len(values), ".", color=MUTED, markersize=5)
        ax.annotate(
            form.format(mean),
            (max(high, *values), row),
            xytext=(6, 0),
            va="center",
            textcoords="offset points",
        )
    ax.set_yticks(range(len(bars)), [_style(name).label for name in bars], color=INK)
    ax.set_ylim(len(bars) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.12)
    return ax


def plot_memory(
    bars: "Mapping[str, MemoryParts | Mapping[str, float]]",
    title: str,
    *,
    limit_gb: float | None = None,
    unit: str = "GB",
) -> "Axes":
    """Draw memory by part as stacked horizontal bars, with the parts named on the first.

    Args:
        bars: For each bar, an estimate, a measurement, or the bytes of each part by name.
        title: The finding.
        limit_gb: Memory of a card, drawn as a line.
        unit: ``GB`` (10^9 bytes) or ``MB`` (10^6 bytes).
    """
    scale = {"GB": _GB, "MB": 1e6}[unit]
    bars = {n: bar if isinstance(bar, Mapping) else bar.parts() for n, bar in bars.items()}
    ax = new_axes(title, x=f"memory ({unit})", height=1.7 + 0.55 * len(bars))
    names = list(dict.fromkeys(name for parts in bars.values() for name in parts))
    colours = part_colours(names)
    largest = max(sum(parts.values()) for parts in bars.values()) / scale
    for row, parts in enumerate(bars.values()):
        left = _stack(ax, row, {name: n / scale for name, n in parts.items()}, colours, largest)
        label = f"{left:,.0f}" if left >= 100 else f"{left:.3g}"
        ax.annotate(
            f"{label} {unit}",
            (left, row),
            xytext=(6, 0),
            va="center",
            weight="bold",
            textcoords="offset points",
        )
    if limit_gb is not None:
        ax.axvline(limit_gb * _GB / scale, color=INK, linestyle="--", linewidth=1.5)
        ax.text(limit_gb * _GB / scale, -0.42, f" card: {limit_gb:g} GB", va="bottom")
    ax.set_yticks(range(len(bars)), [_style(name).label for name in bars], color=INK)
    # The card's label stands above the first bar, inside the axes: above them is the title.
    ax.set_ylim(len(bars) - 0.5, -0.5 if limit_gb is None else -0.85)
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.14)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colours[name]) for name in names]
    legend = ax.figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=min(len(names), 5),
        frameon=False,
        handlelength=1,
        handleheight=1,
    )
    with_plain_texts(legend)
    return ax


def _stack(
    ax: "Axes", row: int, sizes: Mapping[str, float], colours: Mapping[str, str], largest: float
) -> float:
    """Draw one stacked bar, with the number of each part that is large enough; return its end."""
    left = 0.0
    for name, size in sizes.items():
        ax.barh(row, size, left=left, color=colours[name], edgecolor="white", height=0.66)
        if size > 0.07 * largest:
            ax.text(left + size / 2, row, f"{size:,.3g}", ha="center", va="center", color=INK)
        left += size
    return left


def plot_probabilities(tokens: Sequence[str], probabilities: Sequence[float], title: str) -> "Axes":
    """Draw the likeliest next tokens as bars, the likeliest at the top.

    Args:
        tokens: Token texts.
        probabilities: Their probabilities, in 0..1.
        title: The finding.
    """
    ax = new_axes(title, x="probability", height=1.2 + 0.3 * len(tokens))
    ax.barh(range(len(tokens)), probabilities, color=method_style("lora").colour, height=0.7)
    for row, probability in enumerate(probabilities):
        ax.annotate(
            f"{probability:.1%}",
            (probability, row),
            xytext=(5, 0),
            va="center",
            textcoords="offset points",
        )
    ax.set_yticks(range(len(tokens)), [repr(token) for token in tokens], color=INK)
    ax.tick_params(axis="y", labelfontfamily="DejaVu Sans Mono")
    ax.invert_yaxis()
    ax.set_xlim(0, min(1.08, 1.25 * max(probabilities, default=1.0)))
    ax.grid(axis="y", visible=False)
    return ax


def plot_heat(
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    *,
    x: str = "",
    y: str = "",
    form: str = "{:.2f}",
) -> "Axes":
    """Draw a table of numbers as coloured cells with the numbers in them.

    Args:
        values: Numbers, (rows, columns); colours run from the smallest to the largest.
        rows: Row labels.
        columns: Column labels.
        title: The finding.
        x: What the columns are.
        y: What the rows are.
        form: Format of a number.
    """
    ax = new_axes(title, x=x, y=y, height=1.3 + 0.42 * len(rows))
    flat = [value for row in values for value in row]
    low, span = min(flat), (max(flat) - min(flat)) or 1.0
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            colour = heat_colour((value - low) / span)
            ax.add_patch(plt.Rectangle((j - 0.5, i - 0.5), 1, 1, color=colour))
            ax.text(
                j, i, form.format(value), ha="center", va="center", color=text_colour_on(colour)
            )
    ax.set_xticks(range(len(columns)), columns, color=INK)
    ax.set_yticks(range(len(rows)), rows, color=INK)
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    ax.grid(visible=False)
    return ax


def _style(name: str) -> MethodStyle:
    """Return a method's style; what is no method is grey, so that no method's colour is lent."""
    return method_style(name) if is_method(name) else MethodStyle(MUTED, "o", name)


def _line_styles(names: Iterable[str]) -> dict[str, tuple[MethodStyle, str]]:
    """Return each line's style and dashes; lines that are no method differ in grey and dashes."""
    neutral = cycle(_NEUTRAL)
    return {name: (method_style(name), "-") if is_method(name) else next(neutral) for name in names}


def _plain_ticks(ax: "Axes", places: Sequence[float]) -> None:
    ax.set_xticks(places, minor=False)
    ax.minorticks_off()
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 1 else f"{v:.4g}"))


def _label_ends(ax: "Axes", ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Write each line's name right of its last point, moved up where it would hide another."""
    ax.figure.draw_without_rendering()
    line_height, wide = ax.figure.dpi / 72 * 13, ax.figure.dpi / 72 * 80
    placed: list[tuple[float, float]] = []
    for label, (x, y, colour) in sorted(ends.items(), key=lambda item: item[1][1]):
        right, up = ax.transData.transform((x, y))
        height = up
        while any(abs(right - a) < wide and abs(height - b) < line_height for a, b in placed):
            height += 1
        placed.append((right, height))
        offset = (9, (height - up) * 72 / ax.figure.dpi)
        text = ax.annotate(
            label,
            (x, y),
            xytext=offset,
            textcoords="offset points",
            color=colour,
            weight="bold",
            va="center",
            annotation_clip=False,
        )
        text.set_path_effects([withStroke(linewidth=4, foreground="white")])
