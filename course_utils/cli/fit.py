"""``course fit``: which method, for a model, a memory, data and a deadline."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from course_utils.cli.console import console

if TYPE_CHECKING:
    from course_utils.studies.choosing import Advice

HEADINGS = ("method", "standing", "trained", "peak", "hours", "quality (95 %)", "cell")


def fit(
    model: Annotated[
        str, typer.Argument(help="Known model, 'embedded', folder, or Hub id in the cache.")
    ],
    kind: Annotated[str, typer.Option(help="What the data are like: instructions, style, ...")],
    examples: Annotated[int, typer.Option(help="How many examples.")],
    card: Annotated[str | None, typer.Option(help="T4, H100, ...; 'here': this processor.")] = None,
    memory: Annotated[float | None, typer.Option(help="GB, in place of a card.")] = None,
    tokens: Annotated[int, typer.Option(help="Tokens an example.")] = 512,
    epochs: Annotated[float, typer.Option(help="How often each is seen.")] = 3.0,
    batch: Annotated[int, typer.Option(help="Examples a pass.")] = 1,
    deadline: Annotated[float | None, typer.Option(help="Hours.")] = None,
    speed: Annotated[
        float | None, typer.Option(help="Measured tokens a second of LoRA r=8.")
    ] = None,
    must_merge: Annotated[
        bool, typer.Option("--must-merge", help="The result is a plain model.")
    ] = False,
    many_tasks: Annotated[
        bool, typer.Option("--many-tasks", help="One base serves many tasks.")
    ] = False,
    must_not_forget: Annotated[
        bool, typer.Option("--must-not-forget", help="What it knew stays.")
    ] = False,
    on_device: Annotated[
        bool, typer.Option("--on-device", help="Nothing is added to inference.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Rank fine-tuning methods by the course's records, and say what the records cannot tell."""
    from course_utils.studies.choosing import Request, choose

    advice = choose(
        Request(
            model=model,
            kind=kind,
            n_examples=examples,
            card=card,
            memory_gb=memory,
            tokens_per_example=tokens,
            epochs=epochs,
            batch_size=batch,
            deadline_hours=deadline,
            tokens_per_second=speed,
            must_merge=must_merge,
            many_tasks=many_tasks,
            must_not_forget=must_not_forget,
            on_device=on_device,
        )
    )
    if as_json:
        typer.echo(json.dumps(advice.as_dict(), indent=1))
    else:
        _show(advice)


def _show(advice: "Advice") -> None:
    told = advice.as_dict()
    console.print(told["verdict"], style="bold", highlight=False)
    if told["left"]:
        left = Table(*HEADINGS[:-1], title=f"Left for {told['model']}")
        left.add_column(HEADINGS[-1], no_wrap=True)
        for row in told["left"]:
            left.add_row(*cells(row))
        console.print(left)
        console.print("* with gradient checkpointing  ~ estimated", highlight=False)
    if told["out"]:
        out = Table("method", "rule", "why", "cell", title="Fell out")
        for row in told["out"]:
            for reason in row["reasons"]:
                out.add_row(row["method"], reason["rule"], reason["words"], _short(reason))
        console.print(out)
    for note in told["notes"]:
        console.print(f"- {note}", highlight=False)


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a row of the JSON as the table shows it."""
    from course_utils.memory import format_bytes

    peak = format_bytes(row["peak_bytes"]) + (" *" if row["is_checkpointed"] else "")
    hours = "" if row["hours"] is None else f"~{row['hours']:.2g}"
    quality, found = "", row["quality"]
    if found:
        quality = f"{found['mean']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
        if found["recorded_as"] != row["name"]:
            quality += f", as {found['recorded_as']}"
    trained = f"{row['trained']:,}"
    return row["method"], row["standing"], trained, peak, hours, quality, _short(row)


def _short(row: dict[str, Any]) -> str:
    notebook, _, tag = row["shown_by"].partition("#")
    return f"{notebook[:2]} {tag}"
