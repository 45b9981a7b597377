"""Plain text with `code` in it, as HTML."""

import html
import re


def inline_html(text: str) -> str:
    """Return text as safe HTML: escaped, backticked spans as code, line breaks kept."""
    escaped = html.escape(text.strip(), quote=False)
    return re.sub(r"`([^`\n]+)`", r"<code>\1</code>", escaped).replace("\n", "<br>")
