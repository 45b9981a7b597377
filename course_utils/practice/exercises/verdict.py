"""``attempt``: a check run on a learner's answer, and the verdict as it is shown."""

import dis
import functools
import linecache
import re
import traceback
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from course_utils.practice.exercises.check import Check, Wrong
from course_utils.show.markup import inline_html

# What the body of `def f(x): ...` compiles to, in the Python versions since 3.11.
_STUB_INSTRUCTIONS = {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"}
_MAX_MESSAGE = 300


class _NotAttempted(Exception):  # noqa: N818 - a signal, not an error
    """The learner's function gave back ``...``."""


@dataclass(frozen=True, repr=False)
class Verdict:
    """What became of an attempt; true if it is correct.

    It shows itself as a box where it is the last expression of a cell, and as text elsewhere.

    Args:
        outcome: ``correct``, ``wrong``, ``error`` (the learner's code raised) or ``not attempted``.
        message: What is said about it.
    """

    outcome: str
    message: str = ""

    def __bool__(self) -> bool:
        return self.outcome == "correct"

    def __repr__(self) -> str:
        mark, title, _ = _LOOKS[self.outcome]
        return f"{mark} {title} {self.message}".strip()

    def _repr_html_(self) -> str:
        mark, title, colour = _LOOKS[self.outcome]
        body = f'<div style="margin-top:2px">{inline_html(self.message)}</div>' * bool(self.message)
        return (
            f'<div style="max-width:736px;box-sizing:border-box;margin:6px 0;padding:9px 14px;'
            f"border:1px solid rgba({colour},.45);border-left:5px solid rgb({colour});"
            f'border-radius:7px;background:rgba({colour},.10);line-height:1.5">'
            f"<b>{mark} {title}</b>{body}</div>"
        )


_LOOKS = {
    "correct": ("✓", "Correct.", "0,158,115"),
    "wrong": ("✗", "Not yet.", "213,94,0"),
    "error": ("✗", "Your code stopped with an error.", "213,94,0"),
    "not attempted": ("○", "Not attempted yet.", "128,128,128"),
}
_INVITATION = "Replace the `...` with your answer and run the cell again."


def attempt(check: Check, answer: Any) -> Verdict:  # noqa: ANN401 - an answer is anything
    """Run a check on an answer.

    A stub (``...``, None, a function that is or returns ``...``) is not yet an attempt, and an
    exception in the learner's code is explained: a notebook of stubs runs without an error.

    Returns:
        The verdict, which shows itself as a cell's last expression.
    """
    if _is_stub(answer):
        return Verdict("not attempted", _INVITATION)
    try:
        check.verify(_watched(answer))
    except Wrong as wrong:
        return Verdict("wrong", _sentence(str(wrong)))
    except _NotAttempted:
        return Verdict("not attempted", _INVITATION)
    except Exception as error:
        line = _line_of(answer, error)
        if isinstance(error, NotImplementedError) and line == _last_frame(error):
            return Verdict("not attempted", _INVITATION)
        return Verdict("error", _explain(error, line))
    return Verdict("correct", check.insight)


def _is_stub(answer: object) -> bool:
    if answer is None or answer is ...:
        return True
    if isinstance(answer, list | tuple | set | frozenset):
        return any(item is ... for item in answer)
    if isinstance(answer, dict):
        return any(item is ... for item in answer.values())
    if isinstance(answer, type):
        methods = [f for f in _functions_of(answer) if f.__name__ != "__init__"]
        return any(map(_has_stub_body, methods))
    return isinstance(answer, FunctionType) and _has_stub_body(answer)


def _functions_of(answer: object) -> list[FunctionType]:
    if isinstance(answer, FunctionType):
        return [answer]
    owner = answer if isinstance(answer, type) else type(answer)
    return [value for value in vars(owner).values() if isinstance(value, FunctionType)]


def _has_stub_body(function: FunctionType) -> bool:
    return all(
        step.opname in _STUB_INSTRUCTIONS
        and (step.opname not in ("LOAD_CONST", "RETURN_CONST") or step.argval in (None, ...))
        for step in dis.get_instructions(function)
    )


def _watched(answer: object) -> object:
    """Return a function that signals when it still gives ``...``; other answers as they are."""
    if not isinstance(answer, FunctionType):
        return answer

    @functools.wraps(answer)
    def watched(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        result = answer(*args, **kwargs)
        if _is_stub(result) and result is not None:
            raise _NotAttempted
        return result

    return watched


def _explain(error: Exception, line: tuple[str, int] | None) -> str:
    said = " ".join(str(error).split())
    said = said if len(said) <= _MAX_MESSAGE else f"{said[:_MAX_MESSAGE]}…"
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if line is None:
        return _sentence(f"The check could not use your answer ({what})")
    source = linecache.getline(*line).strip().replace("`", "'")
    return _sentence(f"Line {line[1]}{f', `{source}`,' if source else ''} raised {what}")


def _frames(error: Exception) -> list[tuple[CodeType, int]]:
    return [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]


def _line_of(answer: object, error: Exception) -> tuple[str, int] | None:
    """Return (file, line) of the learner's code that was running when the error came up."""
    files = {function.__code__.co_filename for function in _functions_of(answer)}
    lines = [(code.co_filename, n) for code, n in _frames(error) if code.co_filename in files]
    return lines[-1] if lines else None


def _last_frame(error: Exception) -> tuple[str, int]:
    code, line = _frames(error)[-1]
    return code.co_filename, line


def _is_name(word: str) -> bool:
    """Say that a word is a name of the code, as ``h``, ``k1`` and ``model.norm`` are."""
    return (len(word) == 1 and word != "a") or re.search(r"[\d._(\[]", word) is not None


def _sentence(text: str) -> str:
    if not _is_name(text.split(maxsplit=1)[0].rstrip(",:;.")):
        text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!", "…")) else f"{text}."
