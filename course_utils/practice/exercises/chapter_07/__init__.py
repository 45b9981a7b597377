"""Checks of chapter 07: labels, the loss on them, a packed row, token F1, the share of padding."""

from course_utils.practice.exercises.chapter_07.losses import LOSS
from course_utils.practice.exercises.chapter_07.padding import PADDING
from course_utils.practice.exercises.chapter_07.rows import MASK, POSITIONS
from course_utils.practice.exercises.chapter_07.words import F1

__all__ = ["F1", "LOSS", "MASK", "PADDING", "POSITIONS"]
