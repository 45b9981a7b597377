import matplotlib

matplotlib.use("agg")

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils.memory import estimate
from course_utils.methods import FullFineTuning
from course_utils.show.palette import (
    heat_colour,
    method_names,
    method_style,
    relative_luminance,
    text_colour_on,
)
from course_utils.show.plotting import (
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
    ax = plot_lines(
        {"full": {10: [0.5, 0.6], 100: [0.8, 0.9]}, "head": {10: [0.4], 100: [0.5]}},
        "Full gains more",
        x="examples",
        y="accuracy",
        log_x=True,
    )
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


def test_a_log_likelihood_is_no_bar_from_zero():
    ax = plot_bars({"lora": [-3.55], "full": [-2.55]}, "t", x="log-likelihood")
    assert not ax.patches
    assert {"-3.55", "-2.55"} <= set(texts(ax))
    assert ax.get_xlim()[1] < -2


def test_small_probabilities_fill_their_axis():
    assert plot_probabilities(["a", "b"], [0.1, 0.05], "t").get_xlim()[1] < 0.2
    assert plot_probabilities(["a", "b"], [1.0, 0.0], "t").get_xlim()[1] < 1.2


def test_memory_bars_add_up_and_show_the_card():
    ax = plot_memory({"7B": {"weights": 14e9, "optimizer": 84e9}}, "t", limit_gb=16)
    assert "98 GB" in texts(ax)
    assert any("card: 16 GB" in text for text in texts(ax))
    assert sum(patch.get_width() for patch in ax.patches) == pytest.approx(98)


def test_an_estimate_can_be_drawn_as_it_is():
    needed = estimate("SmolLM2-135M", FullFineTuning(), batch_size=1, seq_len=64)
    ax = plot_memory({"step": needed}, "t", unit="MB")
    assert sum(p.get_width() for p in ax.patches) == pytest.approx(needed.total_bytes / 1e6)


def test_the_card_s_label_is_between_the_first_bar_and_the_title():
    ax = plot_memory({"7B": {"weights": 14e9, "optimizer": 84e9}}, "t", limit_gb=16)
    ax.figure.draw_without_rendering()
    card = next(text for text in ax.texts if "card" in text.get_text()).get_window_extent()
    assert ax.patches[0].get_window_extent().y1 <= card.y0
    assert card.y1 <= ax.get_window_extent().y1


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
    relatives = {"biases", "dylora", "qdora", "p_tuning_v2", "rslora", "qdylora", "pissa", "vera"}
    relatives |= {"lora_xs", "tiny_lora"}
    alignment = {"ppo", "ppo_like_trl", "trl_ppo", "reinforce", "rloo", "grpo", "dpo", "best_of_n"}
    alignment |= {"dr_grpo", "dapo"}
    small = {"tiny_lora", "lora_xs", "vera", "lora", "full"}
    main = [n for n in method_names() if n not in relatives | alignment | {"ia3"}]
    for names in (main, alignment, small):
        assert len({method_style(name).colour for name in names}) == len(names)


def test_what_is_no_method_is_not_drawn_in_a_method_s_colour():
    line = plot_lines({"with the bug": {1: [1.0], 2: [2.0]}}, "t", x="x", y="y").lines[0]
    bar = plot_bars({"told often": [0.5]}, "t", x="x").patches[0]
    methods = {matplotlib.colors.to_hex(method_style(name).colour) for name in method_names()}
    for colour in (line.get_color(), bar.get_facecolor()[:3]):
        assert matplotlib.colors.to_hex(colour) not in methods


def contrast(first: str, second: str) -> float:
    """WCAG 2.1, contrast ratio."""
    low, high = sorted((relative_luminance(first), relative_luminance(second)))
    return (high + 0.05) / (low + 0.05)


@given(st.floats(0, 1))
def test_text_on_a_heat_colour_can_be_read(position: float):
    background = heat_colour(position)
    assert contrast(text_colour_on(background), background) >= 4.5


# Machado, Oliveira and Fernandes, 2009, table 1: full severity, on linear RGB.
SIGHTS = {
    "normal": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}
# sRGB to XYZ relative to D65 (IEC 61966-2-1).
TO_XYZ = [[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0178, 0.1095, 0.8728]]


def cielab(colour: str, sight: str) -> np.ndarray:
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.array(TO_XYZ) @ np.clip(np.array(SIGHTS[sight]) @ linear, 0, 1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


MAIN = (
    "base",
    "full",
    "last_layers",
    "head",
    "norms",
    "lora",
    "qlora",
    "dora",
    "bottleneck",
    "prompt",
    "prefix",
    "p_tuning",
)


@pytest.mark.parametrize("sight", SIGHTS)
def test_main_methods_can_be_told_apart_by_colour(sight):
    """A difference of 2.3 in CIELAB is just noticeable; these lines are thin and far apart."""
    colours = {name: cielab(method_style(name).colour, sight) for name in MAIN}
    for first, second in combinations(MAIN, 2):
        assert np.linalg.norm(colours[first] - colours[second]) > 12, (first, second)


def test_method_colours_stand_out_on_white_and_no_two_methods_look_the_same():
    styles = [method_style(name) for name in method_names()]
    assert min(contrast(style.colour, "#FFFFFF") for style in styles) >= 3
    assert len({(style.colour, style.marker) for style in styles}) == len(styles)


def test_lora_darkens_with_rank():
    luminances = [relative_luminance(method_style(f"lora_r{r}").colour) for r in (1, 2, 4, 8, 16)]
    assert luminances == sorted(luminances, reverse=True)
    assert len(set(luminances)) == 5
    assert method_style("LoRA r=4") == method_style("lora_r4")
    assert method_style("lora_r4").colour == method_style("lora").colour
    assert method_style("lora_r16").colour == method_style("lora_r64").colour


def test_lines_that_are_no_method_are_told_apart_without_lending_a_colour():
    series = {name: {1: [0.1], 2: [0.2]} for name in ("NF4", "INT4", "FP4", "lora")}
    ax = plot_lines(series, "Four lines", x="x", y="y")
    looks = [
        (line.get_color(), line.get_linestyle()) for line in ax.lines if len(line.get_xdata()) > 1
    ]
    assert len(set(looks)) == 4
    methods = {method_style(name).colour for name in method_names()} - {"#111111"}
    assert not methods & {colour for colour, _ in looks[:3]}


def test_a_figure_says_in_words_what_it_shows():
    lines = plot_lines(
        {"lora": {1: [1.0], 2: [2.0]}, "full": {1: [2.0], 2: [1.0]}},
        "Full falls",
        x="steps",
        y="score (points)",
    )
    words = "Full falls. Across: steps. Upward: score (points). Drawn: full, LoRA."
    assert lines.figure._repr_mimebundle_() == (
        {"text/plain": words},
        {"image/png": {"alt": words}},
    )
    bars = plot_bars({f"bar {i}": [i, i + 1] for i in range(12)}, "Many", x="$")
    said = bars.figure._repr_mimebundle_()[0]["text/plain"]
    assert said.startswith("Many. Across: $. Drawn: bar 0, ")
    assert said.endswith("bar 9, ….")
