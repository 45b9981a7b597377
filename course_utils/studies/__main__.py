"""Run a study and print its tables: ``python -m course_utils.studies separation``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from course_utils.paths import data_dir
from course_utils.studies.definitions import STUDIES
from course_utils.studies.quotes import drifted, n_quotes
from course_utils.studies.runner import run_study
from course_utils.studies.tables import largest_distinct_set, markdown_table
from course_utils.studies.tasks import Row
from course_utils.studies.tuning import best_runs

CHECK = "check"


def main(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(STUDIES)}; or {CHECK}.")],
    task: Annotated[list[str] | None, typer.Option(help="Only these of its tasks.")] = None,
    threads: Annotated[
        int, typer.Option(min=0, help="Processor threads; 0 leaves torch's choice.")
    ] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Run what is missing of a study, then print a table for each size of training set.

    Two processes may share a study, each with its own tasks. `check` runs nothing: it computes
    every number again that a chapter quotes from a record, and fails where the two differ.
    """
    if name == CHECK:
        _check()
        return
    if name not in STUDIES:
        raise typer.BadParameter(f"{name!r} must be one of {', '.join(STUDIES)}")
    if threads:
        torch.set_num_threads(threads)
    study = STUDIES[name]
    if unknown := set(task or ()) - set(study.tasks):
        raise typer.BadParameter(f"{unknown} must be among {', '.join(study.tasks)}")
    study = replace(study, tasks=tuple(task or study.tasks))
    rows = run_study(study, on_run=_report, device=device)
    for size in study.sizes:
        for split in ("test", "test_unseen"):
            typer.echo(f"\n{split}, {size or 'all'} examples")
            typer.echo(markdown_table(rows, split, n_examples=size))
    for task in study.tasks:
        scores = {m: [r["test"] for r in best_runs(rows, task, m)] for m in study.methods}
        distinct = largest_distinct_set({m: v for m, v in scores.items() if len(v) > 1})
        typer.echo(f"{task}: told apart, pair by pair: {', '.join(distinct)}")


def _check() -> None:
    wrong = list(drifted(notebooks()))
    for line in wrong:
        typer.echo(line)
    if wrong:
        raise typer.Exit(1)
    n = n_quotes(notebooks())
    typer.echo(f"{n} quoted number{'s' * (n != 1)}, as recorded")


def notebooks() -> list[Path]:
    """Return the chapters."""
    return sorted((data_dir().parent / "notebooks").glob("*.ipynb"))


def _report(row: Row) -> None:
    what = f"{row['task']:12} {row['method']:12} {row['learning_rate']:.0e} n={row['n_examples']} "
    result = f"{row['test']:.3f} ({row['seconds']} s)" if "test" in row else row["diverged"]
    typer.echo(f"{what} seed {row['seed']}: {result}")


app = typer.Typer(add_completion=False)
app.command()(main)

if __name__ == "__main__":
    app()
