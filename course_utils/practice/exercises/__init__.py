"""Exercises: ``attempt(check, answer)`` and the checks, one module or package a chapter."""

from course_utils.practice.exercises.check import Check, Wrong, registered_checks
from course_utils.practice.exercises.compare import expect_close, expect_equal, expect_tensor
from course_utils.practice.exercises.verdict import Verdict, attempt

__all__ = [
    "Check",
    "Verdict",
    "Wrong",
    "attempt",
    "expect_close",
    "expect_equal",
    "expect_tensor",
    "registered_checks",
]
