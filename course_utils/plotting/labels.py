"""Where to write a label next to what it names, so that a figure needs no legend.

All positions are in pixels of the drawn figure; the caller draws once, so that they are final.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

_GAP_POINTS = 7
_PLACES = (
    (1, 0, "left", "center"),
    (0, 1, "center", "bottom"),
    (0, -1, "center", "top"),
    (-1, 0, "right", "center"),
    (0.8, 0.8, "left", "bottom"),
    (0.8, -0.8, "left", "top"),
    (-0.8, 0.8, "right", "bottom"),
    (-0.8, -0.8, "right", "top"),
    (0, 2.6, "center", "bottom"),
    (0, -2.6, "center", "top"),
)


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Move positions as little as possible (least squares) until neighbours are ``gap`` apart.

    The order is kept. Subtracting ``gap * rank`` turns the constraint into monotonicity, so this
    is isotonic regression, solved by pooling adjacent violators (Ayer et al., 1955).

    Args:
        positions: Wished-for positions, in any order.
        gap: Smallest distance between two neighbours, not negative.

    Returns:
        New positions, in the order given.
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    blocks: list[list[float]] = []
    for rank, i in enumerate(order):
        blocks.append([positions[i] - gap * rank, 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (mean, size), (last, n) = blocks[-2], blocks.pop()
            blocks[-1] = [(mean * size + last * n) / (size + n), size + n]
    flat = [mean for mean, size in blocks for _ in range(int(size))]
    result = [0.0] * len(positions)
    for rank, i in enumerate(order):
        result[i] = flat[rank] + gap * rank
    return result


def label_line_ends(
    ax: "Axes", ends: Sequence[tuple[float, float]], labels: Sequence[str], colours: Sequence[str]
) -> None:
    """Write each label to the right of its line's last point, pushed apart where they crowd.

    Args:
        ax: Axes whose limits are final.
        ends: Last point of each line, in data coordinates.
        labels: What to write, one a line.
        colours: Colour of each label.
    """
    figure = ax.figure
    figure.draw_without_rendering()
    pixels = [ax.transData.transform(end) for end in ends]
    line_height = figure.dpi / 72 * 12.5
    heights = spread([y for _, y in pixels], line_height)
    right = max(x for x, _ in pixels)
    for end, (x, y), height, label, colour in zip(
        ends, pixels, heights, labels, colours, strict=True
    ):
        ax.annotate(
            label,
            xy=end,
            xytext=((right - x + 9) * 72 / figure.dpi, (height - y) * 72 / figure.dpi),
            textcoords="offset points",
            color=colour,
            va="center",
            fontweight="bold",
            annotation_clip=False,
        )


def label_points(
    ax: "Axes", points: Sequence[tuple[float, float]], labels: Sequence[str], colours: Sequence[str]
) -> None:
    """Write a label beside each point, on the side where it hides least.

    Args:
        ax: Axes whose limits are final.
        points: Positions in data coordinates.
        labels: What to write, one a point.
        colours: Colour of each label.
    """
    ax.figure.draw_without_rendering()
    radius = ax.figure.dpi / 72 * 5
    taken = [_box_around(ax.transData.transform(point), radius) for point in points]
    for point, label, colour in zip(points, labels, colours, strict=True):
        best = min(
            (_candidate(ax, point, label, colour, place) for place in _PLACES),
            key=lambda text: _cost(text, ax, taken),
        )
        taken.append(best.get_window_extent())
        for text in [text for text in ax.texts if text.get_gid() == "candidate"]:
            if text is not best:
                text.remove()
        best.set_gid("label")


def _candidate(
    ax: "Axes",
    point: tuple[float, float],
    label: str,
    colour: str,
    place: tuple[float, float, str, str],
) -> "Annotation":
    right, up, horizontal, vertical = place
    return ax.annotate(
        label, xy=point, xytext=(right * _GAP_POINTS, up * _GAP_POINTS),
        textcoords="offset points", ha=horizontal, va=vertical, color=colour, gid="candidate",
        fontweight="bold", annotation_clip=False,
    )  # fmt: skip


def _cost(text: "Annotation", ax: "Axes", taken: "Sequence[Bbox]") -> float:
    """Return the area hidden by a label plus what leaves the axes; earlier places win ties."""
    box, frame = text.get_window_extent(), ax.get_window_extent()
    hidden = sum(_overlap(box, other) for other in taken)
    outside = box.width * box.height - _overlap(box, frame)
    return hidden + 2 * outside


def _overlap(first: "Bbox", second: "Bbox") -> float:
    width = min(first.x1, second.x1) - max(first.x0, second.x0)
    height = min(first.y1, second.y1) - max(first.y0, second.y0)
    return max(width, 0.0) * max(height, 0.0)


def _box_around(centre: tuple[float, float], radius: float) -> "Bbox":
    from matplotlib.transforms import Bbox

    (x, y) = centre
    return Bbox.from_extents(x - radius, y - radius, x + radius, y + radius)
