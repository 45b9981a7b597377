"""What notebooks show beside figures: source code, tables, texts side by side, coloured tokens.

Everything is plain HTML with inline styles, because GitHub strips style sheets, and has a text
form for terminals.
"""

import html
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any

from IPython.display import HTML, Code

from course_utils.palette import heat_colour, text_colour_on

_CELL = "padding:3px 12px;border-bottom:1px solid rgba(128,128,128,.35);"


class Shown(HTML):
    """HTML with a text form: what a notebook shows, and what a terminal prints.

    Args:
        markup: HTML.
        text: The same as plain text.
    """

    def __init__(self, markup: str, text: str) -> None:
        super().__init__(markup)
        self.text = text

    def __repr__(self) -> str:
        return self.text


def show_source(thing: FunctionType | type | ModuleType) -> Code:
    """Show the source of a function, method, class or module of the package.

    Raises:
        TypeError: If ``thing`` has no source in Python.
    """
    return Code(textwrap.dedent(inspect.getsource(thing)), language="python")


def table(
    rows: Sequence[Mapping[str, Any]], *, caption: str = "", forms: Mapping[str, str] | None = None
) -> Shown:
    """Show rows as a table; numbers are aligned to the right.

    Args:
        rows: Dictionaries with the same keys; keys are the headings, units included.
        caption: A line above the table.
        forms: Format of a column's numbers, as in ``{"accuracy": "{:.3f}"}``.

    Raises:
        ValueError: If there are no rows.
    """
    if not rows:
        raise ValueError("a table needs at least one row")
    names = list(rows[0])
    cells = [[_shown(row.get(name), (forms or {}).get(name)) for name in names] for row in rows]
    is_number = [isinstance(rows[0].get(name), int | float) for name in names]
    head = "".join(_cell("th", name, num) for name, num in zip(names, is_number, strict=True))
    body = "".join(
        "<tr>" + "".join(_cell("td", c, n) for c, n in zip(row, is_number, strict=True)) + "</tr>"
        for row in cells
    )
    title = f"<caption style='text-align:left'><b>{html.escape(caption)}</b></caption>" * bool(
        caption
    )
    markup = f"<table style='border-collapse:collapse'>{title}<thead><tr>{head}</tr></thead>"
    return Shown(markup + f"<tbody>{body}</tbody></table>", _as_text(names, cells, caption))


def side_by_side(texts: Mapping[str, str]) -> Shown:
    """Show texts in columns under their headings, to be compared."""
    width = f"width:{100 // len(texts)}%;vertical-align:top;text-align:left;white-space:pre-wrap;"
    head = "".join(f"<th style='{_CELL}{width}'>{html.escape(name)}</th>" for name in texts)
    body = "".join(
        f"<td style='{_CELL}{width}'>{html.escape(text)}</td>" for text in texts.values()
    )
    markup = f"<table style='width:100%'><tr>{head}</tr><tr>{body}</tr></table>"
    return Shown(markup, "\n\n".join(f"{name}:\n{text}" for name, text in texts.items()))


def coloured_tokens(tokens: Sequence[str], values: Sequence[float], *, caption: str = "") -> Shown:
    """Show a text token by token, each on a background that says its value.

    Args:
        tokens: Token texts, leading spaces included.
        values: Numbers in 0..1, light to dark.
        caption: A line above the text.
    """
    spans = []
    for token, value in zip(tokens, values, strict=True):
        colour = heat_colour(value)
        style = f"background:{colour};color:{text_colour_on(colour)};border-radius:3px;"
        text = html.escape(token).replace("\n", "&#9166;<br>")
        spans.append(f"<span title='{value:.2f}' style='{style}'>{text}</span>")
    head = f"<b>{html.escape(caption)}</b><br>" * bool(caption)
    markup = f"<div style='line-height:1.9;white-space:pre-wrap'>{head}{''.join(spans)}</div>"
    listing = " ".join(f"{t}({v:.2f})" for t, v in zip(tokens, values, strict=True))
    return Shown(markup, f"{caption}\n{listing}".strip())


def _shown(value: Any, form: str | None) -> str:  # noqa: ANN401
    if form and isinstance(value, int | float):
        return form.format(value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(tag: str, text: str, is_number: bool) -> str:
    align = "right" if is_number else "left"
    content = html.escape(text).replace("\n", "<br>")
    return f"<{tag} style='{_CELL}text-align:{align}'>{content}</{tag}>"


def _as_text(names: Sequence[str], cells: Sequence[Sequence[str]], caption: str) -> str:
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in (names, *cells)
    ]
    return "\n".join(([caption] if caption else []) + lines)
