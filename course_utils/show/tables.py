"""What notebooks show beside figures: tables, texts side by side, coloured tokens.

Everything is Markdown or plain HTML with inline styles, because GitHub strips style sheets, and
has a text form for terminals.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from IPython.display import HTML

from course_utils.intervals import interval, paired_difference, verdicts
from course_utils.show.markup import plain_html
from course_utils.show.palette import heat_colour, text_colour_on
from course_utils.validation import check_choice

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
    is_number = [_is_numeric([row.get(name) for row in rows]) for name in names]
    head = "".join(_cell("th", name, num) for name, num in zip(names, is_number, strict=True))
    body = "".join(
        "<tr>" + "".join(_cell("td", c, n) for c, n in zip(row, is_number, strict=True)) + "</tr>"
        for row in cells
    )
    title = f"<caption style='text-align:left'><b>{plain_html(caption)}</b></caption>" * bool(
        caption
    )
    markup = f"<table style='border-collapse:collapse'>{title}<thead><tr>{head}</tr></thead>"
    return Shown(
        markup + f"<tbody>{body}</tbody></table>", _as_text(names, cells, is_number, caption)
    )


def with_interval(values: Sequence[float], form: str = "{:.2f}") -> str:
    """Return the mean of repeated runs and its 95 % interval as text; of one run or two the values.

    An interval over two runs is thirteen standard errors wide: both values say more.
    """
    mean, low, high = (form.format(value) for value in interval(values))
    if len(values) == 2:
        return f"{mean} ({form.format(min(values))} and {form.format(max(values))})"
    return mean if len(values) == 1 else f"{mean} ({low} to {high})"


def interval_table(
    values: Mapping[str, Sequence[float]],
    what: str,
    *,
    form: str = "{:.2f}",
    caption: str = "",
    against: str = "",
    margin: float | None = None,
    **columns: Mapping[str, Any],
) -> Shown:
    """Show what ``plot_bars`` draws: a row for each name, its mean and 95 % interval over seeds.

    Args:
        values: Values of each name's runs.
        what: Heading of the values.
        form: Format of a number.
        caption: A line above the table.
        against: The name that the others are compared with, seed by seed; their runs must be by the
            same seeds, in one order. Verdicts are corrected for being several.
        margin: Largest difference that does not matter, for a verdict of equality.
        columns: More columns, each with a value for every name.

    Raises:
        ValueError: If the runs to be compared are not as many as those they are compared with.
    """
    compared = _comparison(values, against, form, margin) if against else {}
    rows = [
        {
            "": name,
            **{c: column[name] for c, column in columns.items()},
            what: with_interval(runs, form),
            **{c: column[name] for c, column in compared.items()},
        }
        for name, runs in values.items()
    ]
    return table(rows, caption=caption)


def _comparison(
    values: Mapping[str, Sequence[float]], against: str, form: str, margin: float | None
) -> dict[str, dict[str, str]]:
    """Return two columns: by how much each name is ahead of one of them, and the verdict."""
    check_choice("against", against, values)
    others = [name for name in values if name != against]
    found = {name: paired_difference(values[name], values[against]) for name in others}
    signed = form.replace("{:", "{:+")
    ahead = {
        name: "{} ({} to {})".format(*(signed.format(x) for x in (d.mean, d.low, d.high)))
        for name, d in found.items()
    }
    return {
        f"ahead of {against}": ahead | {against: ""},
        "verdict": verdicts(found, margin=margin) | {against: ""},
    }


def series_table(
    series: Mapping[str, Mapping[float, Sequence[float]]],
    x: str,
    *,
    form: str = "{:.2f}",
    caption: str = "",
) -> Shown:
    """Show what ``plot_lines`` draws: a row for each x, a column for each line.

    Args:
        series: For each line, the values of its runs at each x.
        x: Heading of the first column.
        form: Format of a number.
        caption: A line above the table.
    """
    places = sorted({place for points in series.values() for place in points})
    return table(
        [
            {
                x: f"{place:,g}" if place < 1 else place,
                **{
                    n: with_interval(v[place], form) if place in v else None
                    for n, v in series.items()
                },
            }
            for place in places
        ],
        caption=caption,
    )


def side_by_side(texts: Mapping[str, str]) -> Shown:
    """Show texts in columns under their headings, to be compared."""
    width = f"width:{100 // len(texts)}%;vertical-align:top;text-align:left;white-space:pre-wrap;"
    head = "".join(f"<th style='{_CELL}{width}'>{plain_html(name)}</th>" for name in texts)
    body = "".join(f"<td style='{_CELL}{width}'>{plain_html(text)}</td>" for text in texts.values())
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
        text = plain_html(token).replace("\n", "&#9166;<br>")
        spans.append(f"<span title='{value:.2f}' style='{style}'>{text}</span>")
    head = f"<b>{plain_html(caption)}</b><br>" * bool(caption)
    markup = f"<div style='line-height:1.9;white-space:pre-wrap'>{head}{''.join(spans)}</div>"
    listing = " ".join(f"{t}({v:.2f})" for t, v in zip(tokens, values, strict=True))
    return Shown(markup, f"{caption}\n{listing}".strip())


def _is_numeric(column: Sequence[Any]) -> bool:
    """Return whether a column holds numbers; gaps may stand between them, yes and no may not."""
    present = [value for value in column if value is not None]
    return bool(present) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in present
    )


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
    content = plain_html(text).replace("\n", "<br>")
    # The attribute is for GitHub, which strips the style; the style wins over JupyterLab's sheet.
    return f"<{tag} align='{align}' style='{_CELL}text-align:{align}'>{content}</{tag}>"


def _as_text(
    names: Sequence[str], cells: Sequence[Sequence[str]], is_number: Sequence[bool], caption: str
) -> str:
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    lines = [
        "  ".join(
            text.rjust(width) if is_right else text.ljust(width)
            for text, width, is_right in zip(row, widths, is_number, strict=True)
        ).rstrip()
        for row in (names, *cells)
    ]
    return "\n".join(([caption] if caption else []) + lines)
