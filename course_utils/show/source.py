"""Source code as notebooks show it."""

import ast
import inspect
import textwrap
from types import FunctionType, ModuleType

from course_utils.validation import shown


class Source:
    """Python source: highlighted by whoever shows Markdown, plain elsewhere.

    Args:
        text: The source.
    """

    def __init__(self, text: str) -> None:
        self.data = text

    def __repr__(self) -> str:
        return self.data

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.data}\n```"


def show_source(thing: FunctionType | type | ModuleType, *, docstring: bool = True) -> Source:
    """Show the source of a function, method, class or module of the package.

    Args:
        thing: What to show.
        docstring: Whether to show its docstring, and those of what it contains.

    Raises:
        ValueError: If ``thing`` has no source in Python.
    """
    try:
        text = textwrap.dedent(inspect.getsource(thing)).strip()
    except (TypeError, OSError) as error:
        raise ValueError(f"{shown(thing)} has no source in Python") from error
    return Source(text if docstring else _without_docstrings(text))


def _without_docstrings(text: str) -> str:
    owners = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    gone: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        # A docstring that is all of a body stays: without it the code would not parse.
        if isinstance(node, owners) and ast.get_docstring(node) and len(node.body) > 1:
            following = node.body[1]
            decorators = getattr(following, "decorator_list", [])
            first = min([following.lineno, *(d.lineno for d in decorators)])
            last = node.body[0].end_lineno
            lines = text.splitlines()
            while last + 1 < first and not lines[last].strip():
                last += 1
            gone |= set(range(node.body[0].lineno, last + 1))
    kept = (line for n, line in enumerate(text.splitlines(), 1) if n not in gone)
    return "\n".join(kept)
