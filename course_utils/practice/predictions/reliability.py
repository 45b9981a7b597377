"""The calibration of a reader: how often predictions were right, against how sure they were."""

import re
from collections.abc import Sequence

from course_utils.practice.predictions.record import Entry, load_entries
from course_utils.show.markup import inline_html
from course_utils.show.tables import Shown
from course_utils.validation import shown

FEW = 20


def calibration(chapter: str) -> Shown:
    """Show how often the reader's predictions were right, against how sure they were.

    The first try at each prediction counts. A level of confidence is kept if the share that was
    right equals it (Guo et al., 2017, arXiv:1706.04599, section 2).

    Args:
        chapter: The chapter's number, as in ``02``.

    Returns:
        A figure of this chapter and of all chapters, and the same in words; one sentence without
        a figure where the chapter has no prediction on record.

    Raises:
        ValueError: If the chapter is no number of two digits.
    """
    if not isinstance(chapter, str) or not re.fullmatch(r"\d{2}", chapter, re.ASCII):
        raise ValueError(f"chapter={shown(chapter)} must be two digits, as in '02'")
    everything = load_entries()
    here = [entry for entry in everything if entry.id.startswith(f"{chapter}-")]
    if not here:
        text = f"There is no prediction of yours on record for chapter {chapter}."
        return Shown(f"<p>{text}</p>", text)
    words = f"Chapter {chapter}: {describe(here)}"
    if len(everything) > len(here):
        words += f" All chapters: {describe(everything)}"
    if len(everything) < FEW:
        words += f" Fewer than {FEW} predictions say little."
    markup = (
        f'<img src="data:image/png;base64,{_picture(chapter, here, everything)}" '
        f'alt="{words}" style="max-width:100%;background:white">'
        f'<p style="max-width:760px;line-height:1.5">{inline_html(words)}</p>'
    )
    return Shown(markup, words)


def describe(entries: Sequence[Entry]) -> str:
    """Say how often predictions were right, and how sure they were."""
    n, n_right = len(entries), sum(entry.right for entry in entries)
    sure = _mean_confidence(entries)
    return f"{n_right} of {n} right ({100 * n_right / n:.0f} %), {sure:.0f} % sure on average."


def _picture(chapter: str, here: Sequence[Entry], everything: Sequence[Entry]) -> str:
    """Draw the share that was right at each level of confidence, as base64 PNG."""
    from course_utils.show.palette import ACCENT, MUTED
    from course_utils.show.plotting import new_axes
    from course_utils.show.widgets.base import png

    n_right, sure = sum(entry.right for entry in here), _mean_confidence(here)
    ax = new_axes(
        f"Chapter {chapter}: {n_right} of {len(here)} right, {sure:.0f} % sure on average",
        x="how sure (%)",
        y="how often right (%)",
        height=3.8,
        width=6.4,
    )
    ax.plot([0, 100], [0, 100], color=MUTED, linestyle="--", linewidth=1)
    ax.annotate("well judged", (22, 25), color=MUTED, rotation=24, ha="center")
    others = {"all chapters": (everything, MUTED, "s", "white", -13)}
    series = others if len(everything) > len(here) else {}
    for name, (entries, colour, marker, fill, down) in {
        **series,
        f"chapter {chapter}": (here, ACCENT, "o", ACCENT, 8),
    }.items():
        points = _points(entries)
        sures, rights, counts = zip(*points, strict=True)
        sizes = [30 + 12 * count for count in counts]
        ax.scatter(
            sures, rights, sizes, color=fill, edgecolors=colour, marker=marker, label=name, zorder=3
        )
        for level, right, count in points:
            ax.annotate(
                str(count),
                (level, right),
                xytext=(0, down),
                textcoords="offset points",
                color=colour,
                ha="center",
                size=8,
            )
    ax.set(xlim=(0, 106), ylim=(-10, 112), xticks=range(0, 101, 20), yticks=range(0, 101, 20))
    ax.legend(loc="upper left", frameon=False, title="numbers count predictions", alignment="left")
    return png(ax)


def _mean_confidence(entries: Sequence[Entry]) -> float:
    return sum(entry.confidence for entry in entries) / len(entries)


def _points(entries: Sequence[Entry]) -> list[tuple[float, float, int]]:
    """Return (percent sure, percent right, predictions) of each level that was used."""
    import torch

    from course_utils.evaluation.calibration import reliability

    confidences = torch.tensor([entry.confidence for entry in entries], dtype=torch.float64)
    bins = reliability(confidences / 100, torch.tensor([entry.right for entry in entries]))
    rows = zip(bins.predicted.tolist(), bins.observed.tolist(), bins.count.tolist(), strict=True)
    return [(100 * sure, 100 * right, n) for sure, right, n in rows if n]
