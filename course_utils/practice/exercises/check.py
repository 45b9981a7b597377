"""A check: what an exercise accepts, what it rejects, and with which words."""

import importlib
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any


class Wrong(Exception):  # noqa: N818 - it reads as `raise Wrong("the bias is lost")`
    """An answer is wrong; the message tells the learner what is probably the matter."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Check:
    """What an exercise asks for.

    Args:
        name: Chapter number, then a name, as in ``"00-bytes-per-parameter"``.
        verify: Takes the answer (a value, function or class) and raises :class:`Wrong` if it is
            wrong.
        solution: An answer that passes.
        rejects: Pairs of a wrong answer and a part of the message it must get; at least two.
        insight: A sentence shown with a correct answer.

    Raises:
        ValueError: If the name or the number of wrong answers breaks these rules.
    """

    name: str
    verify: Callable[[Any], None]
    solution: Any
    rejects: tuple[tuple[Any, str], ...]
    insight: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d{2}(-[a-z0-9]+)+", self.name):
            raise ValueError(f"name={self.name!r} must be like '00-bytes-per-parameter'")
        if len(self.rejects) < 2:
            raise ValueError(
                f"{self.name}: rejects must list at least 2 wrong answers (got {len(self.rejects)})"
            )


def checks_of(module: ModuleType) -> list[Check]:
    """Return the checks that a module defines or imports, in the order of its names."""
    return [value for value in vars(module).values() if isinstance(value, Check)]


def registered_checks() -> dict[str, Check]:
    """Return every check of the chapter modules in this package, by name.

    Raises:
        ValueError: If two checks share a name, or a check's name has another chapter's number.
    """
    package = importlib.import_module("course_utils.practice.exercises")
    checks: dict[str, Check] = {}
    for info in pkgutil.iter_modules(package.__path__):
        if not info.name.startswith("chapter_"):
            continue
        number = info.name.removeprefix("chapter_")
        for check in checks_of(importlib.import_module(f"{package.__name__}.{info.name}")):
            if check.name in checks:
                raise ValueError(f"two checks are named {check.name}")
            if not check.name.startswith(f"{number}-"):
                raise ValueError(f"{info.name}: the name {check.name} must begin with {number}-")
            checks[check.name] = check
    return checks
