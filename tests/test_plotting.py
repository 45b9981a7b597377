import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils.intervals import can_tell_apart, interval
from course_utils.palette import heat_colour, method_names, method_style, text_colour_on
from course_utils.plotting import (
    plot_bars,
    plot_heat,
    plot_lines,
    plot_memory,
    plot_methods,
    plot_probabilities,
)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_lines_carry_their_names_values_and_the_finding():
    ax = plot_lines({"full": {10: [0.5, 0.6], 100: [0.8, 0.9]}, "head": {10: [0.4], 100: [0.5]}},
                    "Full gains more", x="examples", y="accuracy", log_x=True)  # fmt: skip
    assert ax.get_title(loc="left") == "Full gains more"
    assert {"full", "head only"} <= set(texts(ax))
    means = next(line for line in ax.lines if len(line.get_xdata()) == 2)
    assert list(means.get_ydata()) == pytest.approx([0.55, 0.85])
    assert means.get_color() == method_style("full").colour


def test_a_method_has_one_colour_in_every_figure():
    lines = plot_lines({"norms": {1: [1.0], 2: [2.0]}}, "t", x="x", y="y")
    bars = plot_bars({"norms": [0.5]}, "t", x="x")
    colour = matplotlib.colors.to_hex(bars.patches[0].get_facecolor()[:3])
    assert lines.lines[0].get_color().lower() == colour == method_style("norms").colour.lower()


def test_bars_say_their_means():
    ax = plot_bars({"full": [0.9, 0.8], "what is told often": [0.5]}, "t", x="share")
    assert {"0.85", "0.50"} <= set(texts(ax))
    assert [patch.get_width() for patch in ax.patches[:2]] == pytest.approx([0.85, 0.5])
    assert ax.get_yticklabels()[1].get_text() == "what is told often"


def test_memory_bars_add_up_and_show_the_card():
    ax = plot_memory({"7B": {"weights": 14e9, "optimizer": 84e9}}, "t", limit_gb=16)
    assert "98 GB" in texts(ax)
    assert any("card: 16 GB" in text for text in texts(ax))
    assert sum(patch.get_width() for patch in ax.patches) == pytest.approx(98)


def test_methods_are_named_beside_their_points():
    ax = plot_methods({"full": (4e6, [0.9, 0.92]), "head": (768, [0.6, 0.61])}, "t", x="n", y="a")
    assert {"full", "head only"} <= set(texts(ax))


def test_probabilities_and_heat_show_their_numbers():
    assert "60.0%" in texts(plot_probabilities([" the", "\n"], [0.6, 0.4], "t"))
    assert {"1.00", "4.00"} <= set(texts(plot_heat([[1, 2], [3, 4]], "ab", "xy", "t")))


def test_unknown_methods_are_told_which_there_are():
    with pytest.raises(ValueError, match=r"no colour for method 'lorra': known are base, "):
        method_style("lorra")


def test_colours_differ_between_methods_that_are_not_relatives():
    main = [n for n in method_names() if n not in ("biases", "dylora", "qdora", "p_tuning_v2")]
    assert len({method_style(name).colour for name in main}) == len(main)


@given(st.floats(0, 1))
def test_text_on_a_heat_colour_can_be_read(position: float):
    assert text_colour_on(heat_colour(position)) in ("#1A1A1A", "#FFFFFF")


def test_the_interval_is_student_s():
    """t(0.975, 2) = 4.303: values 1, 2, 3 have mean 2 and half width 4.303 / sqrt(3)."""
    mean, low, high = interval([1.0, 2.0, 3.0])
    assert (mean, low, high) == pytest.approx((2.0, 2 - 2.4841, 2 + 2.4841), abs=1e-3)
    assert interval([5.0]) == (5.0, 5.0, 5.0)
    with pytest.raises(ValueError, match="no values"):
        interval([])


def test_two_standard_errors():
    assert can_tell_apart([1.0, 1.1, 0.9], [2.0, 2.1, 1.9])
    assert not can_tell_apart([1.0, 1.4, 0.6], [1.1, 1.5, 0.7])
    with pytest.raises(ValueError, match="2 seeds"):
        can_tell_apart([1.0], [2.0, 3.0])
