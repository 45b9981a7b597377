"""Plain text as HTML."""

import html
import re


def inline_html(text: str) -> str:
    """Return text as safe HTML: escaped, backticked spans as code, line breaks kept."""
    escaped = html.escape(text.strip(), quote=False)
    return re.sub(r"`([^`\n]+)`", r"<code>\1</code>", escaped).replace("\n", "<br>")


def plain_html(text: str) -> str:
    """Return text as safe HTML that is shown as it is written: no dollar sign begins a formula.

    Notebooks look for formulas between dollar signs, or between brackets with backslashes, but not
    across the bounds of an element.
    """
    return re.sub(r"[$\\]", r"<span>\g<0></span>", html.escape(text))
