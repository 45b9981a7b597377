"""Comparisons for checks, with messages that say what is probably wrong."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from course_utils.practice.exercises.check import Wrong

if TYPE_CHECKING:
    from torch import Tensor

_FACTORS = (
    (-1.0, "only the sign is wrong"),
    (2.0, "it is twice what it should be"),
    (0.5, "it is half of what it should be"),
    (1e3, "it is 1,000 times too large: look at the unit"),
    (1e-3, "it is 1,000 times too small: look at the unit"),
    (1e6, "it is a million times too large: look at the unit"),
    (1e-6, "it is a million times too small: look at the unit"),
    (1e9, "it is 10^9 times too large: look at the unit"),
    (1e-9, "it is 10^9 times too small: look at the unit"),
    (1e6 / 2**20, "that is in MiB (2^20 bytes); MB (10^6 bytes) are asked"),
    (1e9 / 2**30, "that is in GiB (2^30 bytes); GB (10^9 bytes) are asked"),
)
Slips = Sequence[tuple[Any, str]]


def expect_close(
    value: object,
    expected: float,
    *,
    what: str = "your answer",
    rel: float = 1e-3,
    slips: Slips = (),
) -> None:
    """Require a number near another.

    Args:
        value: The learner's number; a tensor of one element will do.
        expected: The right number.
        what: Name of the value in messages.
        rel: Largest relative deviation; absolute where ``expected`` is 0.
        slips: Pairs of a number that a known mistake gives and the sentence about it.

    Raises:
        Wrong: If it is not a number, or not near.
    """
    number = _as_number(value, what)
    if _is_near(number, expected, rel):
        return
    for wrong, sentence in slips:
        if _is_near(number, wrong, rel):
            raise Wrong(sentence)
    for factor, sentence in _FACTORS:
        if expected and _is_near(number, expected * factor, min(rel, 1e-2)):
            raise Wrong(f"{what} is {number:,.6g}; {sentence}")
    direction = "too large" if number > expected else "too small"
    raise Wrong(f"{what} is {number:,.6g}, which is {direction}")


def _as_number(value: object, what: str) -> float:
    if isinstance(value, str | bool | bytes) or callable(value):
        raise Wrong(f"{what} must be a number, not {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise Wrong(f"{what} must be a number, not {type(value).__name__}") from error
    if not math.isfinite(number):
        raise Wrong(f"{what} is {number}; look for a division by zero or an overflow")
    return number


def _is_near(number: float, expected: float, rel: float) -> bool:
    return abs(number - expected) <= rel * (abs(expected) or 1.0)


def expect_equal(
    value: object, expected: object, *, what: str = "your answer", slips: Slips = ()
) -> None:
    """Require exactly this value, without giving it away.

    Raises:
        Wrong: If it differs; with the sentence of ``slips`` for a known mistake.
    """
    if value == expected:
        return
    for wrong, sentence in slips:
        if value == wrong:
            raise Wrong(sentence)
    raise Wrong(f"{what} is {value!r}, which is not right")


def is_near_tensor(value: object, expected: "Tensor", rel: float = 1e-4) -> bool:
    """Return whether a value is a tensor of the shape of another and near it.

    Args:
        value: Anything.
        expected: Tensor of finite numbers.
        rel: Largest deviation, relative to the largest magnitude in ``expected``.
    """
    import torch

    if not isinstance(value, torch.Tensor) or value.shape != expected.shape:
        return False
    deviation, allowed = _deviation(value, expected, rel)
    return deviation <= allowed


def _deviation(value: "Tensor", expected: "Tensor", rel: float) -> tuple[float, float]:
    """Return the largest deviation (NaN if there is one in ``value``), and what is allowed."""
    ours, theirs = value.detach().double(), expected.detach().double()
    return (ours - theirs).abs().max().item(), rel * max(theirs.abs().max().item(), 1e-12)


def reject_slips(value: object, slips: Slips, *, rel: float = 1e-4) -> None:
    """Name a known mistake.

    Args:
        value: The learner's tensor.
        slips: Pairs of a tensor that a known mistake gives and the sentence about it.
        rel: Largest deviation, relative to the largest magnitude in the slip.

    Raises:
        Wrong: If the value is near one of the slips; with its sentence.
    """
    for wrong, sentence in slips:
        if is_near_tensor(value, wrong, rel):
            raise Wrong(sentence)


def expect_tensor(
    value: object,
    expected: "Tensor",
    *,
    what: str = "your result",
    rel: float = 1e-4,
    slips: Slips = (),
) -> None:
    """Require a tensor near another: same shape, then the same numbers.

    Args:
        value: The learner's tensor.
        expected: The right one.
        what: Name of the value in messages.
        rel: Largest deviation, relative to the largest magnitude in ``expected``.
        slips: Pairs of a tensor that a known mistake gives and the sentence about it.

    Raises:
        Wrong: If it is no tensor, or differs in shape or numbers.
    """
    import torch

    if is_near_tensor(value, expected, rel):
        return
    reject_slips(value, slips, rel=rel)
    if not isinstance(value, torch.Tensor):
        raise Wrong(f"{what} must be a tensor, not {type(value).__name__}")
    if value.shape != expected.shape:
        turned = value.ndim == 2 and value.T.shape == expected.shape
        hint = ": is a transpose missing?" if turned else ""
        raise Wrong(f"{what} has shape {tuple(value.shape)}, not {tuple(expected.shape)}{hint}")
    ours, theirs = value.detach().double(), expected.detach().double()
    if not torch.isfinite(ours).all():
        raise Wrong(f"{what} holds NaN or infinity")
    deviation, allowed = _deviation(value, expected, rel)
    if (ours + theirs).abs().max().item() <= allowed:
        raise Wrong(f"{what} has the wrong sign")
    scale = (ours * theirs).sum() / theirs.square().sum()
    if (ours - scale * theirs).abs().max().item() <= allowed * abs(scale):
        raise Wrong(f"{what} is right but for a factor of {scale:.4g}")
    raise Wrong(f"{what} has the right shape, but is off by up to {deviation:.3g}")
