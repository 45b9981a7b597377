"""A text of a reader or a model is shown as it is written: it is no formula, whatever is in it."""

import html
import io
import re

import matplotlib.pyplot as plt
import pytest
from matplotlib.text import Text

from course_utils.show import (
    coloured_tokens,
    new_axes,
    plot_bars,
    plot_heat,
    plot_lines,
    plot_memory,
    plot_methods,
    plot_probabilities,
    side_by_side,
    table,
)
from course_utils.show.markup import plain_html

TEXTS = [r"$\frac{1$", "It costs $5_ and $6^", r"a\$b$ \alpha", "$x$"]
FIGURES = {
    "lines": lambda t: plot_lines({t: {1: [1.0], 2: [2.0]}}, t, x=t, y=t),
    "methods": lambda t: plot_methods({t: (2.0, [1.0, 2.0]), "b": (4.0, [1.0])}, t, x=t, y=t),
    "bars": lambda t: plot_bars({t: [1.0, 2.0, 3.0]}, t, x=t),
    "memory": lambda t: plot_memory({t: {t: 2e9, "b": 1e9}}, t, limit_gb=4),
    "probabilities": lambda t: plot_probabilities([t, "b"], [0.5, 0.2], t),
    "heat": lambda t: plot_heat([[1.0, 2.0]], [t], [t, "b"], t, x=t, y=t),
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("plot", FIGURES.values(), ids=FIGURES)
def test_no_figure_reads_a_text_as_mathematics(plot, text):
    ax = plot(text)
    ax.figure.savefig(io.BytesIO(), format="png")
    written = [t for t in ax.figure.findobj(Text) if t.get_text() in (text, repr(text))]
    assert len(written) >= 2
    assert not any(t.get_parse_math() for t in written)
    plt.close(ax.figure)


def test_what_is_added_to_a_figure_is_plain_unless_it_asks(monkeypatch):
    ax = new_axes("")
    ax.plot([1, 2], label=TEXTS[0])
    added = [
        ax.text(0, 0, TEXTS[0]),
        ax.annotate(TEXTS[0], (0, 0), (1, 1)),
        ax.set_title(TEXTS[0]),
        ax.set_xlabel(TEXTS[0]),
        *ax.legend().get_texts(),
    ]
    ax.set_xticks([0, 1], TEXTS[:2])
    ax.figure.savefig(io.BytesIO(), format="png")
    assert not any(t.get_parse_math() for t in [*added, *ax.get_xticklabels()])
    assert ax.text(0, 0, "$x$", parse_math=True).get_parse_math()
    plt.close(ax.figure)


def test_numbers_at_an_axis_and_figures_of_others_keep_their_formulas():
    ax = new_axes("")
    ax.set_yscale("log")
    ax.set_ylim(1, 1e6)
    ax.set_xticks([0, 1])
    ax.figure.draw_without_rendering()
    labels = [label for label in ax.get_yticklabels() if label.get_text()]
    assert labels
    assert all(label.get_parse_math() for label in labels if "$" in label.get_text())
    own = plt.figure()
    assert own.text(0, 0, "$x$").get_parse_math()
    plt.close("all")


@pytest.mark.parametrize("text", [*TEXTS, r"\(x\)", r"\begin{x}", "<b> & '"])
def test_html_breaks_formulas_and_keeps_the_text(text):
    shown = [
        table([{text: text}], caption=text),
        side_by_side({text: text}),
        coloured_tokens([text], [0.5], caption=text),
    ]
    for markup in (plain_html(text), *(s.data for s in shown)):
        pieces = re.split(r"<[^>]*>", markup)
        assert not any(re.search(r"\$.*\$|\\.", piece) for piece in pieces)
        assert text in html.unescape("".join(pieces))
