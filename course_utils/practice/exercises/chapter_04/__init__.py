"""Checks of chapter 04: DoRA's weight, magnitude and direction, counts, truncation, NOLA's mix."""

from course_utils.practice.exercises.chapter_04.magnitudes import COUNT, DECOMPOSE, DORA
from course_utils.practice.exercises.chapter_04.updates import NOLA, TRUNCATE

__all__ = ["COUNT", "DECOMPOSE", "DORA", "NOLA", "TRUNCATE"]
