"""Checks of what comes in: one sentence that gives the value and the rule, the same everywhere.

Every check raises ValueError. True and False are no numbers, and neither is a text of digits, a
fraction or a tensor; numpy's numbers are numbers.
"""

import math
import os
import reprlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from numbers import Integral, Number, Rational, Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_COUNT = 2**63 - 1
_SHOWN_CHARACTERS = 80


class _Short(reprlib.Repr):
    """Writes of a value as much as fits a sentence, whatever its size."""

    def repr_int(self, x: int, level: int) -> str:
        """Write a whole number; of very many digits Python writes none out."""
        return repr(x) if x.bit_length() < 128 else f"a number of {x.bit_length()} bits"


_SHORT = _Short()
_SHORT.maxstring = _SHORT.maxother = 60


def shown(value: object) -> str:
    """Return a value as it is written in Python, on one line and cut short."""
    try:
        text = _SHORT.repr(value)
    except (AttributeError, TypeError):  # a class that bears a built-in one's name
        text = object.__repr__(value)
    text, half = " ".join(text.split()) if "\n" in text else text, _SHOWN_CHARACTERS // 2
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:half]} ... {text[-half:]}"


def check_count(
    name: str,
    value: object,
    *,
    at_least: int = 1,
    at_most: int | None = None,
    is_none_ok: bool = False,
) -> None:
    """Check a whole number, which must fit in 64 bits.

    Args:
        name: What it is called.
        value: What is given.
        at_least: Least value allowed.
        at_most: Largest value allowed; None for no other limit.
        is_none_ok: Whether None may stand for "none given".

    Raises:
        ValueError: If it is no whole number, or out of range.
    """
    if value is None and is_none_ok:
        return
    rule = f"at least {at_least}" if at_most is None else f"in {at_least}..{at_most}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name}={shown(value)} must be a whole number, {rule}")
    if at_most is None and value > LARGEST_COUNT:
        raise ValueError(f"{name}={shown(value)} must be at most {LARGEST_COUNT}")
    if value < at_least or (at_most is not None and value > at_most):
        raise ValueError(f"{name}={shown(value)} must be {rule}")


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
    limits = (
        ("at least", at_least, lambda x, y: x >= y),
        ("above", above, lambda x, y: x > y),
        ("at most", at_most, lambda x, y: x <= y),
        ("below", below, lambda x, y: x < y),
    )
    rules = [(word, limit, is_kept) for word, limit, is_kept in limits if limit is not None]
    rule = " and ".join(f"{word} {limit:g}" for word, limit, _ in rules)
    if at_least is not None and at_most is not None:
        rule = f"in {at_least:g}..{at_most:g}"
    if not _is_finite_number(value):
        raise ValueError(f"{name}={shown(value)} must be a finite number{rule and ', ' + rule}")
    if isinstance(value, Integral) and abs(value) > LARGEST_COUNT:
        raise ValueError(f"{name}={shown(value)} must be in -2**63..2**63, or have a point")
    if not all(is_kept(value, limit) for _, limit, is_kept in rules):
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
    try:
        value.encode()
    except UnicodeEncodeError as error:
        lone = value[error.start]
        raise ValueError(f"{name}={shown(value)} holds {lone!r}, half of a character") from error


def check_path(name: str, value: object) -> None:
    """Check that a value can name a file or folder, or is None.

    Raises:
        ValueError: If it is none of these.
    """
    if value is not None and not isinstance(value, str | os.PathLike):
        raise ValueError(f"{name}={shown(value)} must be a path, or None")


def check_names(name: str, value: object) -> None:
    """Check that a value is a collection of texts, at least one, and no text itself.

    Raises:
        ValueError: If it is not.
    """
    is_collection = isinstance(value, Collection) and not isinstance(value, str | bytes | dict)
    if not is_collection or not len(value) or not all(isinstance(v, str) and v for v in value):
        raise ValueError(f"{name}={shown(value)} must be one or more names")


def check_texts(**texts: object) -> None:
    """Check that values are lists of texts, each at least one, and as many in one as in another.

    Raises:
        ValueError: If they are not; the message names the text.
    """
    check_as_many(**texts)
    for name, values in texts.items():
        for i, value in enumerate(values):
            check_text(f"{name}[{i}]", value)


def check_list(name: str, value: object) -> None:
    """Check that a value is a list, or what may stand for one, such as a tuple or an array.

    Raises:
        ValueError: If it is none; a text and a dictionary are not.
    """
    is_list = hasattr(value, "__len__") and getattr(value, "ndim", 1) > 0
    if not is_list or isinstance(value, type | str | bytes | Mapping):
        raise ValueError(f"{name}={shown(value)} must be a list")


def check_rows(name: str, rows: object, *columns: str) -> None:
    """Check that a value is a list of rows, at least one, each with a text in some columns.

    Raises:
        ValueError: If it is not; the message names the row.
    """
    for column in columns:
        check_text("column", column)
    check_as_many(**{name: rows})
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping) or not set(columns) <= set(row):
            raise ValueError(f"{name}[{i}]={shown(row)} must have {', '.join(columns)}"[:300])
        for column in columns:
            check_text(f"{column} of {name}[{i}]", row[column])


def check_as_many(**values: object) -> None:
    """Check that values are lists of one length, which is not 0.

    Raises:
        ValueError: If they are not; a text is none.
    """
    for name, value in values.items():
        check_list(name, value)
    lengths = {name.replace("_", " "): len(value) for name, value in values.items()}
    if len(set(lengths.values())) > 1:
        listing = " and ".join(f"{n} {name}" for name, n in lengths.items())
        raise ValueError(f"{listing} must be as many, at least 1")
    if 0 in lengths.values():
        raise ValueError(f"there are no {' and '.join(lengths)}: at least 1 is needed")


def keep_plain(config: Any) -> None:  # noqa: ANN401
    """Replace numpy's numbers in a dataclass by Python's, which neither overflow nor trouble JSON.

    Args:
        config: A dataclass, frozen or not; to be called before its fields are checked.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Number) and hasattr(value, "item"):
            object.__setattr__(config, field.name, value.item())


def plain_list(values: Collection) -> list:
    """Return values as a list; of an array or a tensor with Python's numbers."""
    return values.tolist() if hasattr(values, "tolist") else list(values)


def check_shapes(**tensors: object) -> None:
    """Refuse tensors that do not have one shape, which PyTorch might broadcast, or are empty.

    Raises:
        ValueError: If one is no tensor or two shapes differ; the message gives them all.
    """
    from torch import Tensor

    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name}={shown(tensor)} must be a tensor")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    listing = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    if len(set(shapes.values())) > 1:
        raise ValueError(f"the shapes must be the same: {listing}")
    if not all(tensor.numel() for tensor in tensors.values()):
        raise ValueError(f"there must be at least one number: {listing}")


def check_dimensions(name: str, tensor: "Tensor", shape: str) -> None:
    """Check how many dimensions a tensor has.

    Args:
        name: What it is called.
        tensor: A tensor.
        shape: What it should be, for instance ``(batch, seq)``.

    Raises:
        ValueError: If it has more, or fewer.
    """
    if tensor.ndim != len(shape.strip("(),").split(",")):
        raise ValueError(f"{name} of shape {tuple(tensor.shape)} must be {shape}")


def check_mask(name: str, mask: "Tensor") -> None:
    """Check that a tensor holds nothing but 0 and 1, or True and False.

    Raises:
        ValueError: If it holds anything else; the message gives the first.
    """
    from torch import bool as boolean

    if mask.dtype != boolean and (wrong := mask[(mask != 0) & (mask != 1)]).numel():
        raise ValueError(f"{name} holds {wrong[0].item()}: it must be 0 or 1 everywhere")


def check_floats(name: str, tensor: "Tensor") -> None:
    """Check that a tensor holds floating-point numbers.

    Raises:
        ValueError: If it holds whole numbers, or truth values.
    """
    if not tensor.is_floating_point():
        raise ValueError(f"{name} of type {tensor.dtype} must be floating-point numbers")


def check_finite(name: str, tensor: "Tensor") -> None:
    """Check that a tensor holds finite floating-point numbers.

    Raises:
        ValueError: If it holds whole numbers, NaN or infinity; the message gives the first.
    """
    check_floats(name, tensor)
    if not (is_finite := tensor.isfinite()).all():
        raise ValueError(f"{name} holds {tensor[~is_finite][0].item()}: it must be finite")


def _is_finite_number(value: object) -> bool:
    is_fraction = isinstance(value, Rational) and not isinstance(value, Integral)
    is_number = isinstance(value, Real) and not isinstance(value, bool) and not is_fraction
    return is_number and (isinstance(value, Integral) or math.isfinite(value))
