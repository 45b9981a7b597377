"""What an answer is made of: two or three parts."""

from torch import Tensor

from course_utils.practice.exercises.check import Wrong


def expect_parts(found: object, n: int, what: str) -> list:
    """Return the parts of an answer.

    Raises:
        Wrong: If there are not ``n``; it says ``what`` they are.
    """
    if not isinstance(found, tuple | list | Tensor) or len(found) != n:
        raise Wrong(f"return {('two', 'three')[n - 2]} things: {what}")
    return list(found)
