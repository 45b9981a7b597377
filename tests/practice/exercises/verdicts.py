"""What a test asks of a check: does it take these answers, and what does it say of that one?"""

from collections.abc import Callable

from course_utils.practice.exercises import attempt
from course_utils.practice.exercises.check import Check


def is_correct(check: Check, *answers: Callable) -> bool:
    """Say that a check takes every one of these answers; fail with its words where it does not."""
    for answer in answers:
        verdict = attempt(check, answer)
        assert verdict, verdict
    return True


def message(check: Check, answer: Callable) -> str:
    """Return what a check says of a wrong answer."""
    verdict = attempt(check, answer)
    assert verdict.outcome == "wrong"
    return verdict.message
