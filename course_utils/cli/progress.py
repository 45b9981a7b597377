"""``course progress`` and ``course reset``: what the record says, and the end of it."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from course_utils.cli.console import console, print_lines
from course_utils.cli.review import load_state

if TYPE_CHECKING:
    from course_utils.practice.review.progress import Progress


def progress(
    is_json: Annotated[bool, typer.Option("--json", help="Write JSON, for a program.")] = False,
) -> None:
    """Show what you are likely to recall, by topic, and what the next days will ask."""
    from course_utils.practice.predictions.record import load_entries
    from course_utils.practice.review.progress import progress_of

    found, entries = progress_of(*load_state()), load_entries()
    if is_json:
        typer.echo(json.dumps(_as_json(found, entries), ensure_ascii=False, indent=2))
        return
    print_lines(
        f"{found.n_asked} of {found.n_questions} questions asked, {found.n_due} due."
        + (f" {found.n_vanished} on record are no longer asked." if found.n_vanished else "")
    )
    if found.n_asked:
        console.print(_topic_table(found), _forecast_table(found))
    if entries:
        n_right = sum(entry.right for entry in entries)
        print_lines(f"Predictions: {n_right} of {len(entries)} right.")


def reset(
    is_sure: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Forget all your answers, after asking; predictions stay."""
    from course_utils.practice.review.record import Record

    record = Record()
    n_answers = len(record.answers())
    if not n_answers:
        print_lines(f"There is nothing to forget in {record.path}.")
        return
    if not is_sure:
        typer.confirm(f"Forget all answers ({n_answers}) in {record.path} for good?", abort=True)
    print_lines(f"Answers forgotten: {record.forget()}.")


def _as_json(found: "Progress", entries: list) -> dict[str, Any]:
    fields = asdict(found)
    fields["forecast"] = {day.isoformat(): n for day, n in found.forecast.items()}
    fields["predictions"] = {
        "n_compared": len(entries),
        "n_right": sum(entry.right for entry in entries),
    }
    return fields


def _topic_table(found: "Progress") -> Table:
    table = Table("topic", title="What FSRS 6 expects you to recall", title_justify="left")
    for column in ("asked", "right", "recall now", "in 30 days", "due"):
        table.add_column(column, justify="right")
    for topic in found.topics:
        table.add_row(
            topic.topic,
            f"{topic.n_asked} of {topic.n_questions}",
            f"{topic.n_right} of {topic.n_answers}",
            f"{topic.recall:.0%}",
            f"{topic.recall_later:.0%}",
            str(topic.n_due),
        )
    return table


def _forecast_table(found: "Progress") -> Table:
    table = Table("day", title="What the next days will ask", title_justify="left")
    table.add_column("due", justify="right")
    for day, n in found.forecast.items():
        table.add_row(day.isoformat(), str(n))
    return table
