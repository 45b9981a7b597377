"""Checks of chapter 03: a block, its packing, bits a weight, what fits, the weight restored."""

from course_utils.practice.exercises.chapter_03.budgets import BITS, FITS
from course_utils.practice.exercises.chapter_03.codes import PACK, QUANTIZE
from course_utils.practice.exercises.chapter_03.layers import RESTORE

__all__ = ["BITS", "FITS", "PACK", "QUANTIZE", "RESTORE"]
