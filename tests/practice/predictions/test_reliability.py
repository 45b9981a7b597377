"""The reader's calibration: what is counted, and what is drawn."""

import re

import pytest

from course_utils.practice import calibration
from course_utils.practice.predictions import reliability
from tests.practice.predictions.test_record import ENTRY, keep, replace


def remember(chapter, *tries):
    for i, (confidence, is_right) in enumerate(tries):
        keep(replace(ENTRY, id=f"{chapter}-q{i}", confidence=confidence, right=is_right))


def test_without_a_prediction_of_the_chapter_one_sentence_is_all(state_dir):
    remember("03", (80, True))
    shown = calibration("02")
    assert repr(shown) == "There is no prediction of yours on record for chapter 02."
    assert shown.data == f"<p>{shown!r}</p>"


def test_the_chapter_is_told_beside_all_chapters(state_dir):
    remember("02", (80, True), (60, False))
    assert repr(calibration("02")).startswith("Chapter 02: 1 of 2 right (50 %), 70 % sure")
    assert "All chapters" not in repr(calibration("02"))
    remember("03", (100, True), (80, True))
    shown = calibration("02")
    told = "All chapters: 3 of 4 right (75 %), 80 % sure on average."
    assert told in repr(shown)
    [alt] = re.findall(r'<img src="data:image/png;base64,[^"]+" alt="([^"]+)"', shown.data)
    assert alt == repr(shown)


def test_it_is_said_when_there_are_too_few_to_say_much(state_dir):
    remember("02", *[(50, True)] * (reliability.FEW - 1))
    assert "say little" in repr(calibration("02"))
    remember("03", (50, True))
    assert "say little" not in repr(calibration("02"))


def test_points_are_shares_right_at_each_level(state_dir):
    levels = range(10, 101, 10)
    entries = [replace(ENTRY, confidence=c, right=k < c / 10) for c in levels for k in range(10)]
    for level, (sure, right, count) in zip(levels, reliability._points(entries), strict=True):
        assert (sure, right, count) == (pytest.approx(level), pytest.approx(level), 10)


@pytest.mark.parametrize("chapter", ["2", 2, "02-rates", "٠٢", None])
def test_a_chapter_is_two_digits(chapter):
    with pytest.raises(ValueError, match="must be two digits"):
        calibration(chapter)
