"""Checks of chapter 08: the loss of a pair, the last token, odds, calibration, noisy labels."""

from course_utils.practice.exercises.chapter_08.odds import NOISE, WIN
from course_utils.practice.exercises.chapter_08.probabilities import CALIBRATION
from course_utils.practice.exercises.chapter_08.scores import BRADLEY_TERRY, LAST_TOKEN

__all__ = ["BRADLEY_TERRY", "CALIBRATION", "LAST_TOKEN", "NOISE", "WIN"]
