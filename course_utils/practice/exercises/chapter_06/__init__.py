"""Checks of chapter 06: the batch behind a prompt, a prefix's size and effect, a start, a cache."""

from course_utils.practice.exercises.chapter_06.attention import MIXTURE
from course_utils.practice.exercises.chapter_06.batches import BATCH
from course_utils.practice.exercises.chapter_06.sizes import CACHE, PREFIX
from course_utils.practice.exercises.chapter_06.starts import START

__all__ = ["BATCH", "CACHE", "MIXTURE", "PREFIX", "START"]
