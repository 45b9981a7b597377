"""Checks of chapter 11: blocks of tokens, steps of a run, early stopping, a judge asked twice."""

from course_utils.practice.exercises.chapter_11.blocks import BLOCKS
from course_utils.practice.exercises.chapter_11.judges import FAIR
from course_utils.practice.exercises.chapter_11.runs import STEPS, STOP

__all__ = ["BLOCKS", "FAIR", "STEPS", "STOP"]
