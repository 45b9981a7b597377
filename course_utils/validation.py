"""Checks of what comes in: one sentence that gives the value and the rule, the same everywhere.

Every check raises ValueError. True and False are no numbers, and neither is a text of digits.
"""

import math
import reprlib
from collections.abc import Collection, Iterable
from numbers import Integral, Real

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def shown(value: object) -> str:
    """Return a value as it is written in Python, cut short."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # a whole number of more digits than Python writes out
        return f"a number of {value.bit_length()} bits"


def check_count(
    name: str,
    value: object,
    *,
    at_least: int = 1,
    at_most: int | None = None,
    is_none_ok: bool = False,
) -> None:
    """Check a whole number.

    Args:
        name: What it is called.
        value: What is given.
        at_least: Least value allowed.
        at_most: Largest value allowed; None for no limit.
        is_none_ok: Whether None may stand for "none given".

    Raises:
        ValueError: If it is no whole number, or out of range.
    """
    if value is None and is_none_ok:
        return
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(
            f"{name}={shown(value)} must be a whole number, {_range(at_least, at_most)}"
        )
    if value < at_least or (at_most is not None and value > at_most):
        raise ValueError(f"{name}={shown(value)} must be {_range(at_least, at_most)}")


def check_number(
    name: str,
    value: object,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    is_none_ok: bool = False,
) -> None:
    """Check a finite number.

    Args:
        name: What it is called.
        value: What is given.
        at_least: Least value allowed; None for no limit, as for the others.
        above: Value that must be exceeded.
        at_most: Largest value allowed.
        below: Value that must not be reached.
        is_none_ok: Whether None may stand for "none given".

    Raises:
        ValueError: If it is no finite number, or out of range.
    """
    if value is None and is_none_ok:
        return
    rules = (
        ("at least", at_least, lambda x, y: x >= y),
        ("above", above, lambda x, y: x > y),
        ("at most", at_most, lambda x, y: x <= y),
        ("below", below, lambda x, y: x < y),
    )
    rule = " and ".join(f"{word} {limit:g}" for word, limit, _ in rules if limit is not None)
    if isinstance(value, bool) or not isinstance(value, Real) or not _is_finite(value):
        raise ValueError(f"{name}={shown(value)} must be a finite number{rule and ', ' + rule}")
    if not all(is_right(value, limit) for _, limit, is_right in rules if limit is not None):
        raise ValueError(f"{name}={shown(value)} must be {rule}")


def check_flag(name: str, value: object) -> None:
    """Check that a value is True or False.

    Raises:
        ValueError: If it is neither: ``"false"`` would count as true.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}={shown(value)} must be True or False")


def check_choice(name: str, value: object, known: Iterable[str]) -> None:
    """Check that a value is one of some names.

    Raises:
        ValueError: If it is not; the message lists them.
    """
    known = tuple(known)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name}={shown(value)} must be one of {', '.join(known)}")


def check_text(name: str, value: object) -> None:
    """Check that a value is a text that can be written as UTF-8.

    Raises:
        ValueError: If it is no text, or holds half of a surrogate pair.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name}={shown(value)} must be a text")
    lone = next((c for c in value if "\ud800" <= c <= "\udfff"), None)
    if lone is not None:
        raise ValueError(f"{name}={shown(value)} holds {lone!r}, half of a character")


def check_names(name: str, value: object) -> None:
    """Check that a value is a collection of texts, at least one, and no text itself.

    Raises:
        ValueError: If it is not.
    """
    is_collection = isinstance(value, Collection) and not isinstance(value, str | bytes | dict)
    if not is_collection or not len(value) or not all(isinstance(v, str) and v for v in value):
        raise ValueError(f"{name}={shown(value)} must be one or more names")


def _is_finite(value: Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return True


def _range(at_least: int, at_most: int | None) -> str:
    return f"at least {at_least}" if at_most is None else f"in {at_least}..{at_most}"
