"""Checks of chapter 05: an adapter's forward pass, what it trains, a mean of two, a fold."""

from course_utils.practice.exercises.chapter_05.averages import AVERAGE
from course_utils.practice.exercises.chapter_05.counts import COUNT, MATCH
from course_utils.practice.exercises.chapter_05.folds import FOLD
from course_utils.practice.exercises.chapter_05.layers import FORWARD

__all__ = ["AVERAGE", "COUNT", "FOLD", "FORWARD", "MATCH"]
