"""What the quiz shows is told in words too, and can be read in both themes."""

import re
from pathlib import Path

import pytest

from course_utils.practice.quiz import render
from course_utils.practice.quiz.session import Session
from tests.practice.quiz.test_terminal import QUESTIONS

STYLE = Path(render.__file__).with_name("quiz.css").read_text(encoding="utf-8")
MIN_CONTRAST, MIN_GRAPHICS_CONTRAST = 4.5, 3.0
# JupyterLab's two themes: --jp-layout-color1 and --jp-ui-font-color1 (black or white at 87 %).
THEMES = {"light": ((255,) * 3, (0, 0, 0, 0.87)), "dark": ((33,) * 3, (255, 255, 255, 0.87))}


def variable(name: str) -> str:
    return re.search(rf"--cq-{name}: ([^;]+);", STYLE)[1]


def colour(text: str) -> tuple[float, ...]:
    """Read ``#rrggbb`` or ``rgba(r, g, b, a)``."""
    if text.startswith("#"):
        return (*(int(text[i : i + 2], 16) for i in (1, 3, 5)), 1.0)
    return tuple(map(float, re.findall(r"[\d.]+", text)))


def over(front: tuple[float, ...], back: tuple[float, ...]) -> tuple[float, ...]:
    """Return an opaque colour: one with an alpha, laid on an opaque one."""
    *channels, alpha = front
    return tuple(alpha * f + (1 - alpha) * b for f, b in zip(channels, back, strict=True))


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return the contrast ratio of WCAG 2.1."""

    def luminance(rgb: tuple[float, ...]) -> float:
        linear = (
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in (v / 255 for v in rgb)
        )
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_that_of_the_standard():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((118, 118, 118), (255, 255, 255)) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("fill", [None, "right-fill", "wrong-fill"])
def test_text_can_be_read_on_every_ground(theme, fill):
    page, text = THEMES[theme]
    ground = page if fill is None else over(colour(variable(fill)), page)
    share = float(re.search(r"currentColor (\d+)%, transparent", variable("soft"))[1]) / 100
    soft = (*text[:3], text[3] * share)
    for ink in (text, soft):
        assert contrast(over(ink, ground), ground) >= MIN_CONTRAST


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", ["right", "wrong"])
def test_dots_and_borders_stand_out(theme, name):
    assert contrast(colour(variable(name))[:3], THEMES[theme][0]) >= MIN_GRAPHICS_CONTRAST


def test_the_main_button_can_be_read():
    assert contrast(colour(variable("main"))[:3], (255, 255, 255)) >= MIN_CONTRAST


def test_no_text_has_the_colour_of_a_mark_or_of_the_theme():
    coloured = re.findall(r"(?<![-\w])color: var\(--cq-(\w+)\)", STYLE)
    assert coloured
    assert set(coloured) <= {"text", "soft"}


def test_every_dot_says_what_its_colour_says():
    session = Session(QUESTIONS)
    session.answer(frozenset([1]))
    session.move(1)
    session.answer(frozenset([1]))
    session.move(1)
    heading = render.heading_html(session)
    told = re.findall(
        r'<li class="cq-dot[^"]*" title="([^"]+)"><span class="cq-unseen">\1</span></li>', heading
    )
    assert told == [
        "Question 1: right",
        "Question 2: wrong",
        "Question 3: open, shown now",
        "Question 4: open",
    ]
