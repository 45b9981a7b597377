"""Checks of chapter 02: the forward pass, the count, truncation, merging, combining."""

from course_utils.practice.exercises.chapter_02.counts import COUNT
from course_utils.practice.exercises.chapter_02.ranks import COMBINE, TRUNCATE
from course_utils.practice.exercises.chapter_02.updates import FORWARD, MERGE

__all__ = ["COMBINE", "COUNT", "FORWARD", "MERGE", "TRUNCATE"]
